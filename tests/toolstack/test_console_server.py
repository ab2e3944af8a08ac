# SPDX-License-Identifier: GPL-2.0-or-later
"""A console on a unix socket; the test plays the domain and the readers."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyxen.errors import PyxenError
from pyxen.toolstack import console_server
from pyxen.toolstack.console_server import MAX_READERS, READ_AHEAD, ConsoleServer
from pyxen.toolstack.threads import IoThread

PATIENCE = 20.0
LIMIT = 64 * 1024


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


class Reader:
    """A connection that takes what it is sent when it is asked to."""

    def __init__(self, path: Path) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.connection.settimeout(PATIENCE)
        self.connection.connect(str(path))

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := self.connection.recv(size - len(data))):
            data += more
        return data

    def rest(self) -> bytes:
        """All up to the end."""
        data = b""
        while more := self.connection.recv(65536):
            data += more
        return data

    def close(self) -> None:
        self.connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "console.sock"


@pytest.fixture
def server(path: Path) -> Iterator[ConsoleServer]:
    with ConsoleServer(path, LIMIT) as server:
        yield server


@pytest.fixture
def connect(server: ConsoleServer) -> Iterator[Callable[[], Reader]]:
    readers: list[Reader] = []

    def connect() -> Reader:
        before = server.readers
        readers.append(Reader(server.path))
        wait_until(lambda: server.readers > before)
        return readers[-1]

    yield connect
    for reader in readers:
        reader.close()


class Domain:
    """Runs ``serve`` as a run does."""

    def __init__(self, server: ConsoleServer) -> None:
        self.server = server
        self.typed = bytearray()
        self.pending = 0
        self.io = IoThread()
        self.io.__enter__()
        self.future = self.io.start(server.serve(self.typed.extend, lambda: self.pending))

    def end(self) -> None:
        """Another may follow."""
        self.future.cancel()
        self.io.__exit__()


@pytest.fixture
def domain(server: ConsoleServer) -> Iterator[Domain]:
    domain = Domain(server)
    yield domain
    domain.end()


Connect = Callable[[], Reader]


def test_only_its_owner_can_connect(server: ConsoleServer) -> None:
    assert server.path.stat().st_mode & 0o777 == 0o600


def test_those_who_come_later_get_all_from_the_first_byte(
    server: ConsoleServer, connect: Connect
) -> None:
    server.output(b"Linux version\r\n")
    first = connect()
    assert first.take(15) == b"Linux version\r\n"
    server.output(b"login: ")
    second = connect()
    assert first.take(7) == b"login: "
    assert second.take(22) == b"Linux version\r\nlogin: "


def test_the_middle_is_missing_when_it_was_too_much(
    server: ConsoleServer, connect: Connect
) -> None:
    data = random.Random(1).randbytes(4 * LIMIT)
    for start in range(0, len(data), 2048):
        server.output(data[start : start + 2048])
    reader = connect()
    server.output(b"END")
    kept = b""
    while not kept.endswith(b"END"):
        kept += reader.take(1)
    assert kept.startswith(data[: LIMIT // 2])
    assert LIMIT <= len(kept) <= LIMIT * 5 // 4 + 3
    assert kept[LIMIT // 2 :] == (data + b"END")[-len(kept) + LIMIT // 2 :]


def test_a_reader_who_takes_nothing_holds_up_nobody(
    server: ConsoleServer, connect: Connect
) -> None:
    lazy, eager = connect(), connect()
    taken = bytearray()
    done = threading.Event()

    def take() -> None:
        while not taken.endswith(b"END"):
            taken.extend(eager.take(1))
        done.set()

    threading.Thread(target=take, daemon=True).start()
    for number in range(LIMIT // 64):
        server.output(b"%063d\n" % number)
    server.output(b"END")
    assert done.wait(PATIENCE)
    assert len(taken) == LIMIT + 3
    for _ in range(100):
        server.output(bytes(LIMIT))
    with server._lock:
        (behind,) = [reader for reader in server._readers if len(reader.buffer) > LIMIT // 2][:1]
        assert len(behind.buffer) <= LIMIT * 5 // 4
    lazy.close()


def test_what_readers_send_is_typed(
    server: ConsoleServer, connect: Connect, domain: Domain
) -> None:
    one, two = connect(), connect()
    one.connection.sendall(b"ls\n")
    wait_until(lambda: domain.typed == b"ls\n")
    two.connection.sendall(b"\x1d")
    wait_until(lambda: domain.typed == b"ls\n\x1d")


def test_input_waits_for_the_guest(server: ConsoleServer, connect: Connect, domain: Domain) -> None:
    domain.pending = READ_AHEAD
    reader = connect()
    reader.connection.sendall(b"ls\n")
    time.sleep(0.05)
    assert not domain.typed
    domain.pending = READ_AHEAD - 1
    wait_until(lambda: domain.typed == b"ls\n")


def test_readers_stay_over_a_reboot(server: ConsoleServer, connect: Connect) -> None:
    before = Domain(server)
    reader = connect()
    reader.connection.sendall(b"reboot\n")
    wait_until(lambda: before.typed == b"reboot\n")
    before.end()
    reader.connection.sendall(b"too early")
    after = Domain(server)
    wait_until(lambda: after.typed == b"too early")
    assert before.typed == b"reboot\n"
    after.end()


def test_readers_come_and_go(server: ConsoleServer, connect: Connect, domain: Domain) -> None:
    files = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        connect().close()
        wait_until(lambda: server.readers == 0)
    assert not domain.future.done()
    assert len(os.listdir("/proc/self/fd")) == files


def test_who_goes_is_noticed_though_no_domain_runs(server: ConsoleServer, connect: Connect) -> None:
    connect().close()
    wait_until(lambda: server.readers == 0)


def test_too_many_readers_are_turned_away(server: ConsoleServer, connect: Connect) -> None:
    for _ in range(MAX_READERS):
        connect()
    refused = Reader(server.path)
    assert refused.rest() == b""
    refused.close()
    assert server.readers == MAX_READERS


def test_leaving_ends_a_run(server: ConsoleServer) -> None:
    domain = Domain(server)
    server.leave()
    domain.future.result(PATIENCE)
    domain.end()
    asyncio.run(server.serve(bytearray().extend, lambda: 0))  # from now on at once


def test_the_last_output_arrives(path: Path) -> None:
    with ConsoleServer(path, LIMIT) as server:
        reader = Reader(path)
        wait_until(lambda: server.readers)
        rest: list[bytes] = []
        thread = threading.Thread(target=lambda: rest.append(reader.rest()))
        server.output(b"reboot: Power down\r\n")
        server.output(bytes(LIMIT))
        thread.start()
    thread.join(PATIENCE)
    reader.close()
    assert rest == [b"reboot: Power down\r\n" + bytes(LIMIT)]
    assert not path.exists()


def test_the_end_does_not_wait_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(console_server, "_CLOSE_SECONDS", 0.05)
    with ConsoleServer(path, 1 << 20) as server:
        reader = Reader(path)
        wait_until(lambda: server.readers)
        server.output(bytes(1 << 20))
    reader.close()


def test_a_socket_that_was_left_behind_is_replaced(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with ConsoleServer(path):
        Reader(path).close()


def test_a_socket_in_use_is_refused(server: ConsoleServer) -> None:
    with pytest.raises(PyxenError, match="Address already in use"), ConsoleServer(server.path):
        pass
    Reader(server.path).close()


def test_a_file_is_not_replaced(path: Path) -> None:
    path.write_text("mine")
    with pytest.raises(PyxenError, match="Address already in use"), ConsoleServer(path):
        pass
    assert path.read_text() == "mine"
