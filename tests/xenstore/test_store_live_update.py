# SPDX-License-Identifier: GPL-2.0-or-later
"""Live update: another program takes the server's place, and its clients go on."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from store_domain import DomainProcess
from store_peer import Peer, refused

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import Client, LocalClient, Xenstored
from pyxen.xenstore.address import connect
from pyxen.xenstore.confinement import confine
from pyxen.xenstore.live_update import LiveUpdate
from pyxen.xenstore.requests import pack
from pyxen.xenstore.wire import Message, Parser

COMPLAINT = "pyxen: ERROR: xenstore: live update to"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """pyxen as one file, which counts how often it was started."""
    path = tmp_path / "new-pyxen"
    path.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/started\nexec {sys.executable} -m pyxen "$@"\n'
    )
    path.chmod(0o700)
    return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """The socket of a server, which says no more than it has to in all its lives."""
    path = tmp_path / "socket"
    with subprocess.Popen(
        [sys.executable, "-m", "pyxen", "xenstored", "--socket", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == f"XENSTORED_PATH={path}\n"
        yield path
        server.send_signal(signal.SIGINT)
        output, complaints = server.communicate(timeout=20)
        assert not output
        assert complaints in ("", f"{COMPLAINT} {tmp_path}/bad: Exec format error\n")
        assert server.returncode == 0
    assert not path.exists()
    assert not path.with_name("socket.state").exists()


@pytest.fixture
def client(store: Path) -> Iterator[Client]:
    with Client(store, timeout=30) as client:
        yield client


def update(client: Client, program: Path, *options: str) -> str:
    assert client.control("live-update", "-f", str(program)) == "OK"
    return client.control("live-update", "-s", *options)


def test_nobody_notices(store: Path, client: Client, program: Path, tmp_path: Path) -> None:
    """Watches, permissions, quotas and sockets are the same, and a number of times again."""
    client.write("/a/b", b"\0value")
    client.set_permissions("/a/b", ["n1", "r2"])
    client.control("quota", "set", "watches", "77")
    with (
        Client(store, timeout=30) as other,
        other.watch("/a") as watch,
        DomainProcess(store, 1) as one,
        DomainProcess(store, 2) as two,
    ):
        assert next(watch) == "/a"
        one.write("data", "1")
        one.set_permissions("data", ["n1", "r2"])
        two.request(abi.XS_WATCH, pack("/local/domain/1/data", "t"))
        assert two.wait_for_event() == ("/local/domain/1/data", "t")
        two.send(struct.pack("<4I", abi.XS_READ, 99, 0, 21) + b"/local/dom")  # half a message
        for number in range(3):
            assert update(client, program) == "OK"
            client.write("/a/c", str(number))
            assert watch.wait(20) == "/a/c"
            one.write("data", str(number))
            assert two.wait_for_event() == ("/local/domain/1/data", "t")
            assert one.read("/a/b") == b"\0value"
            with refused("EACCES"):
                one.read("/tool")
        two.number = 99
        two.send(b"ain/1/data\0")
        answers: list[tuple[int, int, int, bytes]] = []
        two.run_until(lambda: answers.extend(two.collect()) or answers)
        assert answers == [(abi.XS_READ, 99, 0, b"2")]
        assert "watches          :       77" in client.control("quota")
        assert client.permissions("/a/b") == ["n1", "r2"]
        assert client.is_introduced(1)
        with Client(store) as new:  # the socket listens as before
            assert new.control("check") == "OK"
    _wait(lambda: client.directory("/local/domain") == ["0"])
    assert (tmp_path / "started").read_text() == f"xenstored --socket {store} -U\n" * 3
    client.remove("/a")


def test_who_is_confined_stays_so(store: Path, client: Client, program: Path) -> None:
    def ask(kind: int, payload: bytes) -> tuple[int, bytes]:
        link.sendall(Message(kind, 0, 0, payload).pack())
        parser = Parser()
        while (answer := parser.feed(link.recv(parser.wanted))) is None:
            pass
        return answer.type, answer.payload

    with connect(store) as link:
        confine(link, 3, ["/local/domain/3"], 20)
        assert update(client, program) == "OK"
        assert ask(abi.XS_WRITE, b"/local/domain/3/name\0x") == (abi.XS_WRITE, b"OK\0")
        assert ask(abi.XS_WRITE, b"/local/domain/4/name\0x") == (abi.XS_ERROR, b"EACCES\0")


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_xens_tools_go_on(store: Path, client: Client, program: Path) -> None:
    tool = shutil.which("xenstore-watch")
    if tool is None:
        pytest.skip("xenstore-watch is not installed (Debian: xenstore-utils)")
    environment = {**os.environ, "XENSTORED_PATH": str(store)}
    with subprocess.Popen(
        [tool, "-n", "3", "/a"], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "/a\n"
        assert update(client, program) == "OK"
        subprocess.run(["xenstore-write", "/a/b", "1"], env=environment, check=True, timeout=20)
        assert process.stdout.readline() == "/a/b\n"
        process.terminate()
    done = subprocess.run(
        ["xenstore-ls", "/a"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert done.stdout == 'b = "1"\n'


def test_under_load(store: Path, client: Client, program: Path) -> None:
    """Clients that write, and ones that do not read, miss nothing and hear nothing twice."""
    stop = threading.Event()
    counts = [0, 0, 0]
    problems: list[str] = []

    def work(index: int) -> None:
        with Client(store, timeout=30) as own:
            while not stop.is_set():
                value = str(counts[index])
                own.write(f"/load/{index}", value)
                if own.read(f"/load/{index}") != value.encode():
                    problems.append(value)

                counts[index] += 1

    client.write("/large", b"x" * 4000)
    threads = [threading.Thread(target=work, args=(index,)) for index in range(3)]
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(store))
        request = struct.pack("<4I", abi.XS_READ, 7, 0, 7) + b"/large\0"
        slow.sendall(request * 300)
        for thread in threads:
            thread.start()
        for _ in range(3):
            before = list(counts)
            assert update(client, program) == "OK"
            _wait(lambda before=before: all(a > b for a, b in zip(counts, before, strict=True)))
        stop.set()
        for thread in threads:
            thread.join()
        assert not problems
        expected = struct.pack("<4I", abi.XS_READ, 7, 0, 4000) + b"x" * 4000
        received = b""
        while len(received) < 300 * len(expected):
            piece = slow.recv(1 << 20)
            assert piece
            received += piece
        assert received == expected * 300


def test_transactions(store: Path, client: Client, program: Path) -> None:
    with Client(store, timeout=30) as other:
        number = int(other.request(abi.XS_TRANSACTION_START, b"\0")[:-1])
        reason = update(client, program)
        assert reason == "Domains with long running transactions:\nDomain 0: 0 s"
        timer = threading.Timer(0.3, lambda: other.request(abi.XS_TRANSACTION_END, b"T\0", number))
        timer.start()
        assert update(client, program, "-t", "20") == "OK"  # waits for the end
        timer.join()
        number = int(other.request(abi.XS_TRANSACTION_START, b"\0")[:-1])
        other.request(abi.XS_WRITE, b"/lost\0", number)
        assert update(client, program, "-F") == "OK"
        other.request(abi.XS_WRITE, b"/lost2\0", number)
        with refused("EAGAIN"):
            other.request(abi.XS_TRANSACTION_END, b"T\0", number)
        assert client.directory("/") == ["tool"]
        other.atomically(lambda transaction: transaction.write("/done", "1"))
        assert client.read("/done") == b"1"


def test_programs_that_cannot_be(store: Path, client: Client, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    bad.write_text("no program")
    assert client.control("live-update", "-f", "/none") == "File not accessible."
    assert client.control("live-update", "-f", str(bad)) == "File not executable."
    bad.chmod(0o700)
    with client.watch("/a") as watch:
        assert next(watch) == "/a"
        assert update(client, bad) == "Error activating new binary."
        client.write("/a", "1")
        assert next(watch) == "/a"
    assert client.control("live-update", "-a") == "No live-update session active."


def test_arguments(store: Path, client: Client, program: Path, tmp_path: Path) -> None:
    assert client.control("live-update", "-f", sys.executable) == "OK"
    line = f"-m pyxen xenstored --socket {store} --idle-exit 100"
    assert client.control("live-update", "-c", line) == "OK"
    assert client.control("live-update", "-s") == "OK"
    assert update(client, program) == "OK"
    line = f"xenstored --socket {store} --idle-exit 100 -U\n"
    assert (tmp_path / "started").read_text() == line


def test_a_server_that_was_started_when_needed(tmp_path: Path, program: Path) -> None:
    from pyxen.xenstore import ensure_xenstored

    path = tmp_path / "socket"
    with ensure_xenstored(path, tmp_path / "log", idle_exit=0.2):
        with Client(path, timeout=30) as client:
            client.control("logfile", str(tmp_path / "trace"))
            assert update(client, program) == "OK"
            client.read("/tool")
        assert "READ 0 (/tool )" in (tmp_path / "trace").read_text()
    _wait(lambda: not path.exists())
    assert (tmp_path / "log").read_text() == ""


# The session, without a process


class Program(Exception):
    """Stands for the program that would be executed."""


@pytest.fixture
def session(daemon: Xenstored) -> Peer:
    def execute(program: str, arguments: list[str] | None) -> None:
        raise Program(program, arguments)

    daemon.live_update = LiveUpdate(daemon, execute)
    daemon._clock = lambda: 0.0
    daemon.later = lambda seconds, work: None
    return Peer(daemon.connect())


def ask(peer: Peer, *words: str) -> str:
    return peer.call(abi.XS_CONTROL, "live-update", *words)[0]


def test_a_session_is_one_clients(session: Peer, daemon: Xenstored) -> None:
    other = Peer(daemon.connect())
    assert "live-update\t" in session.call(abi.XS_CONTROL, "help")[0]
    for words in (("-s",), ("-c", "x")):
        assert ask(session, *words) == "Not in live-update session."
    assert ask(session, "-f", "/bin/sh") == "OK"
    assert ask(other, "-f", "/bin/sh") == "live-update session already active."
    for words in (("-s",), ("-c", "x")):
        assert ask(other, *words) == "Not in live-update session."
    for words in ((), ("-x",), ("-c",), ("-s", "-t"), ("-s", "x"), ("-a", "x"), ("-b", "5")):
        with refused("EINVAL"):
            ask(session, *words)
    assert ask(other, "-a") == "OK"
    assert ask(other, "-f", "/bin/sh") == "OK"
    daemon.disconnect(other.connection)  # its session goes with it
    assert ask(session, "-f", "/bin/sh") == "OK"


def test_new_transactions_wait(
    session: Peer, daemon: Xenstored, guest: Callable[[int], Peer]
) -> None:
    one, two = guest(1), guest(2)
    two.start()
    assert ask(session, "-f", "/bin/sh") == "OK"
    start = struct.pack("<4I", abi.XS_TRANSACTION_START, 5, 0, 1) + b"\0"
    one.connection.receive(start[:16])
    one.connection.receive(start[16:])
    assert not one.connection.output
    assert one.connection.wanted == 0
    assert one.connection.unread == start
    assert two.call(abi.XS_TRANSACTION_END, "F") == ["OK"]  # those that run go on
    woken: list[bool] = []
    one.connection.set_wake(lambda: woken.append(True))
    assert ask(session, "-a") == "OK"
    assert woken
    assert [each.message.payload for each in one.connection.output] == [b"1\0"]
    assert one.connection.wanted == 16


def test_an_update_is_cancelled(session: Peer, daemon: Xenstored) -> None:
    other = Peer(daemon.connect())
    assert ask(session, "-f", "/bin/sh") == "OK"
    session.connection.receive(struct.pack("<4I", abi.XS_CONTROL, 5, 0, 15))
    session.connection.receive(b"live-update\0-s\0")
    assert not session.connection.output
    assert ask(other, "-a") == "OK"
    (answer,) = session.connection.output
    assert (answer.message.request, answer.message.payload) == (5, b"Cancellation was requested\0")


def test_a_store_in_a_process_with_its_domain() -> None:
    """It cannot be replaced, as in a Xen that was built without live update."""
    client = LocalClient(Xenstored())
    with refused("EINVAL"):
        client.control("live-update", "-f", "/bin/sh")
    assert "live-update" not in client.control("help")


def test_nothing_to_go_on_with(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pyxen", "xenstored", "-U", "--socket", str(tmp_path / "s")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr == f"pyxen: {tmp_path}/s.state: No such file or directory\n"
    (tmp_path / "s.state").write_bytes(b"xenstore")
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert done.stderr == f"pyxen: {tmp_path}/s.state: it is too short\n"
