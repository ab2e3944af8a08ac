# SPDX-License-Identifier: GPL-2.0-or-later
"""How many requests the xenstore serves in a second, and how that changes with the store's size.

A server (``pyxen xenstored``) and its clients, each a process of its own, speak over the socket.
The figure without a socket is that of ``LocalClient``, which back ends use. Debian has no xenstored
that runs without the hypervisor, so there is no peer: what stands here is operations per second,
and ratios between sizes of the store.

    python bench/xenstore.py [--seconds N]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Event
from pathlib import Path

from pyxen.xenstore import Client, LocalClient, Xenstored
from pyxen.xenstore.requests import ClientRequests

CLIENTS = (1, 10, 100)
SIZES = (1_000, 10_000, 100_000)
CHILDREN = 100
"""Nodes in each directory of the large stores."""
ROUNDS = 9


def read(client: Client, home: str) -> Iterator[None]:
    client.write(f"{home}/x", "value")
    while True:
        client.read(f"{home}/x")
        yield


def write(client: Client, home: str) -> Iterator[None]:
    while True:
        client.write(f"{home}/x", "value")
        yield


def directory(client: Client, home: str) -> Iterator[None]:
    for number in range(CHILDREN):
        client.mkdir(f"{home}/d/{number}")
    while True:
        client.directory(f"{home}/d")
        yield


def transaction(client: Client, home: str) -> Iterator[None]:
    """Start, read, write, end."""
    client.write(f"{home}/x", "0")
    while True:
        with client.transaction() as inside:
            inside.write(f"{home}/x", inside.read(f"{home}/x"))
        yield


def watch(client: Client, home: str) -> Iterator[None]:
    """Write and hear of it."""
    events = client.watch(f"{home}/x")
    next(events)
    while True:
        client.write(f"{home}/x", "value")
        next(events)
        yield


WORK: dict[str, Callable[[Client, str], Iterator[None]]] = {
    each.__name__: each for each in (read, write, directory, transaction, watch)
}


def run_client(path: str, name: str, number: int, begin: Event, end: Event, result: object) -> None:
    """One client process: counts what it does between the two events."""
    with Client(path) as client:
        steps = WORK[name](client, f"/bench/{number}")
        next(steps)
        result.put(None)
        begin.wait()
        count = 0
        while not end.is_set():
            next(steps)
            count += 1
        result.put(count)


def measure(path: str, name: str, clients: int, seconds: float) -> float:
    """Operations per second of all clients together."""
    begin, end, result = multiprocessing.Event(), multiprocessing.Event(), multiprocessing.Queue()
    processes = [
        multiprocessing.Process(target=run_client, args=(path, name, each, begin, end, result))
        for each in range(clients)
    ]
    for process in processes:
        process.start()
    for _ in processes:
        result.get()
    start = time.monotonic()
    begin.set()
    time.sleep(seconds)
    end.set()
    counts = [result.get() for _ in processes]
    elapsed = time.monotonic() - start
    for process in processes:
        process.join()
    return sum(counts) / elapsed


def grow(client: ClientRequests, size: int) -> None:
    """Make the store as large as this, in directories of CHILDREN nodes below each other."""
    for number in range(size // (CHILDREN + 1)):
        for child in range(CHILDREN):
            client.write(f"/large/{number // 100}/{number % 100}/{child}", "value")


def rate(work: Callable[[], object], seconds: float) -> float:
    count = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        for _ in range(20):
            work()
        count += 20
    return count / (time.perf_counter() - start)


def local_work(size: int) -> dict[str, Callable[[], object]]:
    """What to do, by name, in a store of that size without a socket."""
    daemon = Xenstored()
    client, watcher = LocalClient(daemon), LocalClient(daemon)
    grow(client, size)
    path = "/large/0/0/7"
    heard = []
    watcher.watch("/large/0/1", heard.append)

    def create_and_remove() -> None:
        client.mkdir("/large/0/0/new")
        client.remove("/large/0/0/new")

    return {
        "read": lambda: client.read(path),
        "write": lambda: client.write(path, "1"),
        "directory": lambda: client.directory("/large/0/0"),
        "create, remove": create_and_remove,
        "transaction": lambda: client.write_many({path: "1", "/large/0/0/8": "2"}),
        "watch": lambda: client.write("/large/0/1/7", "1"),
    }


def local_rates(seconds: float) -> dict[str, list[float]]:
    """Operations per second for each size; the sizes take turns, and the median counts."""
    works = [local_work(size) for size in SIZES]
    rates = {}
    for name in works[0]:
        rounds = [[rate(work[name], seconds / ROUNDS) for work in works] for _ in range(ROUNDS)]
        rates[name] = [statistics.median(column) for column in zip(*rounds, strict=True)]
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=2.0, help="for each figure")
    seconds: float = parser.parse_args().seconds
    print("operations per second over the socket")
    print(f"{'clients':>14}" + "".join(f"{clients:>10}" for clients in CLIENTS))
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "socket")
        command = [sys.executable, "-m", "pyxen", "xenstored", "--socket", path]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ)) as server:
            assert server.stdout is not None
            server.stdout.readline()
            for name in WORK:
                rates = [measure(path, name, clients, seconds) for clients in CLIENTS]
                print(f"{name:>14}" + "".join(f"{each:10.0f}" for each in rates), flush=True)
            server.terminate()
    print("\noperations per second in the same process, and the last column by the first one")
    print(f"{'nodes':>14}" + "".join(f"{size:>10}" for size in SIZES))
    for name, rates in local_rates(seconds).items():
        ratio = rates[-1] / rates[0]
        print(f"{name:>14}" + "".join(f"{each:10.0f}" for each in rates) + f"{ratio:10.2f}")


if __name__ == "__main__":
    main()
