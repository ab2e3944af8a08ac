# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains in processes of their own, with one store in another process."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_domain import DomainProcess
from store_guest import CONNECTION, ERROR, FEATURES, REQ_CONS, REQ_PROD, RSP_PROD
from store_peer import refused

from pyxen.abi import io_xs_wire as abi
from pyxen.errors import PyxenError
from pyxen.xenstore import Client, StoreGone, ensure_xenstored

IDLE = 0.2


def _wait_until_gone(path: Path) -> None:
    deadline = time.monotonic() + 20
    while path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Path]:
    """The socket of a server that ends by itself when all is over, and says nothing."""
    path = tmp_path / "xenstored.sock"
    with ensure_xenstored(path, tmp_path / "log", idle_exit=IDLE) as held:
        yield path
        held.close()
    _wait_until_gone(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["log"]
    assert (tmp_path / "log").read_text() == ""


@pytest.fixture
def client(store: Path) -> Iterator[Client]:
    with Client(store, timeout=20) as client:
        yield client


class Child:
    """A process in which a domain lives."""

    def __init__(self, store: Path, domid: int) -> None:
        program = Path(__file__).with_name("store_domain.py")
        self.process = subprocess.Popen(
            [sys.executable, str(program), str(store), str(domid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def ask(self, words: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{words}\n")
        self.process.stdin.flush()
        return self._line()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.process.communicate(timeout=20)


def test_domains_in_processes(store: Path, client: Client) -> None:
    """One is killed: its nodes go, the watchers hear of it, and the others go on."""
    with client.watch("@introduceDomain") as introduced:
        assert next(introduced) == "@introduceDomain"
        with Child(store, 1) as one, Child(store, 2) as two, Child(store, 3) as three:
            for _ in range(3):
                assert introduced.wait(20) == "@introduceDomain"
            assert one.ask("WRITE data/x 1") == "OK"
            assert one.ask("READ /local/domain/1/data/x") == "1"
            assert one.ask("SET_PERMS data n1 r2") == "OK"
            assert two.ask("READ /local/domain/1/data/x") == "refused EACCES"
            assert two.ask("WATCH /local/domain/1/data t") == "OK"
            assert two.ask("event") == "/local/domain/1/data t"
            assert one.ask("WRITE data 2") == "OK"
            assert two.ask("event") == "/local/domain/1/data t"
            assert three.ask("CONTROL quota 1") == "refused EACCES"
            assert client.is_introduced(2)
            assert client.directory("/local/domain/0/backend/vbd") == ["1", "2", "3"]
            with client.watch("@releaseDomain", depth=1) as released:
                assert next(released).startswith("@releaseDomain")
                two.process.send_signal(signal.SIGKILL)
                assert released.wait(20) == "@releaseDomain/2"
                assert sorted(client.directory("/local/domain")) == ["0", "1", "3"]
                assert client.directory("/local/domain/0/backend/vbd") == ["1", "3"]
                assert not client.is_introduced(2)
                assert one.ask("WRITE data 3") == "OK"
                assert three.ask("WRITE data 4") == "OK"
                with Child(store, 2) as again:  # a number may come again
                    assert again.ask("READ data") == "refused ENOENT"
                    assert again.ask("READ /local/domain/1/data") == "refused EACCES"
                assert released.wait(20) == "@releaseDomain/2"
            assert client.control("check") == "OK"
    assert client.directory("/local/domain") == ["0"]
    assert client.control("memreport", "/dev/null") == "OK"


def test_messages_larger_than_the_ring(store: Path) -> None:
    with DomainProcess(store, 1) as domain:
        value = bytes(range(256)) * 7
        domain.write("data", value)
        assert domain.read("data") == value
        domain.client.write("/local/domain/1/large", b"v" * 4000)
        domain.client.set_permissions("/local/domain/1/large", ["n1"])
        assert domain.read("large") == b"v" * 4000
        assert domain.get(FEATURES) == 7


def test_reconnection(store: Path) -> None:
    with DomainProcess(store, 1) as domain:
        domain.request(abi.XS_WATCH, b"data\0t\0")
        assert domain.wait_for_event() == ("data", "t")
        domain.request(abi.XS_TRANSACTION_START, b"\0")
        domain.send(struct.pack("<4I", abi.XS_READ, 9, 0, 100) + b"half")
        domain.put(b"\xff" * 10)
        domain.set(CONNECTION, 1)
        before = domain.notified
        domain.ring.serve()
        assert [domain.get(offset) for offset in range(2048, 2064, 4)] == [0, 0, 0, 0]
        assert (domain.get(CONNECTION), domain.notified) == (0, before + 1)
        domain.client.write("/local/domain/1/data", "x")
        with refused("ENOENT"):
            domain.request(abi.XS_READ, b"data\0", transaction=1)
        assert domain.read("data") == b"x"
        assert not domain.events
        assert domain.client.is_introduced(1)


@pytest.mark.parametrize(("offset", "step"), [(REQ_PROD, 1025), (REQ_CONS, 1)])
def test_indexes_that_run_away(store: Path, offset: int, step: int) -> None:
    with DomainProcess(store, 1) as domain:
        domain.request(abi.XS_WATCH, b"data\0t\0")
        domain.set(offset, domain.get(offset) + step)
        domain.ring.serve()
        assert domain.get(ERROR) == abi.XENSTORE_ERROR_RINGIDX
        prod = domain.get(RSP_PROD)
        domain.client.write("/local/domain/1/data", "x")
        domain.run_for(0.05)
        assert domain.get(RSP_PROD) == prod  # its watches are forgotten
        domain.set(CONNECTION, 1)
        domain.ring.serve()
        assert domain.get(ERROR) == abi.XENSTORE_ERROR_NONE
        domain.write("data", "y")


def test_a_message_that_is_too_long(store: Path, client: Client) -> None:
    with DomainProcess(store, 1) as domain:
        domain.put(struct.pack("<4I", abi.XS_WRITE, 1, 0, 4097))
        domain.ring.serve()
        assert domain.get(ERROR) == abi.XENSTORE_ERROR_PROTO
        assert client.is_introduced(1)


def test_a_guest_that_takes_nothing(store: Path, client: Client) -> None:
    """Soon its requests are not taken any more, and its process may die then, too."""
    client.write("/large", b"x" * 4000)
    client.set_permissions("/large", ["r0"])
    with contextlib.ExitStack() as stack:
        domain = stack.enter_context(DomainProcess(store, 1))
        request = struct.pack("<4I", abi.XS_READ, 7, 0, 7) + b"/large\0"
        sent = 0
        idle = 0
        while idle < 5:
            size = domain.put(request)
            sent += size
            request = request[size:] + request[:size]
            domain.ring.serve()
            domain.run_for(0.01)
            idle = 0 if size else idle + 1
        assert sent < 200 * len(request)
        assert client.is_introduced(1)
    deadline = time.monotonic() + 20
    while client.is_introduced(1):
        assert time.monotonic() < deadline
    assert client.directory("/local/domain") == ["0"]


def test_a_reader_that_comes_late(store: Path) -> None:
    """All answers arrive when the guest begins to take them, in order."""
    with DomainProcess(store, 1) as domain:
        domain.write("data", b"x" * 1900)
        for number in range(60):
            message = struct.pack("<4I", abi.XS_READ, number, 0, 5) + b"data\0"
            domain.put(message)
            domain.ring.serve()
        domain.run_for(0.1)
        answers: list[tuple[int, int, int, bytes]] = []

        def complete() -> bool:
            answers.extend(domain.collect())
            return len(answers) == 60

        domain.run_until(complete)
        assert [number for _, number, _, _ in answers] == list(range(60))
        assert {payload for _, _, _, payload in answers} == {b"x" * 1900}


def test_stopped_and_released(store: Path, client: Client) -> None:
    with client.watch("@releaseDomain", depth=1) as watch, DomainProcess(store, 4) as domain:
        next(watch)
        domain.client.control("guest-stopped", "4")
        assert watch.wait(20) == "@releaseDomain/4"
        assert client.is_introduced(4)
        domain.client.control("guest-stopped", "4")
        domain.client.release(4)
        assert watch.wait(20) == "@releaseDomain/4"
        assert not client.is_introduced(4)
        domain.client.introduce(4, 5, 1)
        domain.client.mkdir("/local/domain/4")
        domain.client.set_permissions("/local/domain/4", ["n4"])
        domain.write("data", "x")
        domain.client.introduce(4, 5, 1)  # once more
        domain.write("data", "y")


def test_who_may_become_a_guest(store: Path, client: Client) -> None:
    for words in (("guest-connect",), ("guest-connect", "0"), ("guest-connect", "1", "/")):
        with refused("EINVAL"):
            client.control(*words)
    with DomainProcess(store, 1) as domain, refused("EACCES"):
        domain.request(abi.XS_CONTROL, b"guest-connect\02\0")


def test_watches_of_a_client_in_another_process(store: Path, client: Client) -> None:
    with DomainProcess(store, 1) as domain:
        heard: list[str] = []
        handle = domain.client.watch("/a", heard.append)
        assert heard == []  # soon, but not at once
        domain.run_until(lambda: heard == ["/a"])
        client.write("/a/b", "1")
        domain.run_until(lambda: heard == ["/a", "/a/b"])
        domain.client.write_many({"/a/c": "1", "/a/d": "2"})
        domain.run_until(lambda: heard[2:] == ["/a/c", "/a/d"])
        domain.client.write("/a/c", "2")
        domain.client.unwatch(handle)
        domain.run_for(0.05)
        assert heard[4:] in ([], ["/a/c"])
        with refused("ENOENT"):
            domain.client.read("/none")
        with refused("EINVAL"):
            domain.client.write_many({"/a/c": "3", "/bad//": "4"})
        assert domain.client.read("/a/c") == b"2"


def test_write_many_meets_others(store: Path) -> None:
    """It tries again when another client has been in between."""
    stop = threading.Event()

    def disturb() -> None:
        with Client(store) as other:
            while not stop.is_set():
                other.write("/a/x", "other")

    with DomainProcess(store, 1) as domain:
        thread = threading.Thread(target=disturb)
        thread.start()
        for _ in range(20):
            domain.client.write_many({"/a/x": "mine", "/a/y": "mine"})
        stop.set()
        thread.join()
        assert domain.client.read("/a/y") == b"mine"


def test_a_server_that_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with subprocess.Popen(
        [sys.executable, "-m", "pyxen", "xenstored", "--socket", str(path)],
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        domain = DomainProcess(path, 1)
        domain.client.watch("/a", lambda path: None)
        server.kill()
        server.wait()
        domain.run_until(lambda: domain.lost)
        with pytest.raises(StoreGone, match="connection"):
            domain.client.read("/a")
        assert domain.lost == 1
        domain.put(struct.pack("<4I", abi.XS_READ, 7, 0, 2) + b"x\0")
        domain.ring.serve()
        domain.set(CONNECTION, 1)
        domain.ring.serve()
        domain.ring.serve()
        domain.close()
    with pytest.raises(StoreGone, match="Connection refused"):
        DomainProcess(path, 1)


def test_a_server_that_is_stuck(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with subprocess.Popen(
        [sys.executable, "-m", "pyxen", "xenstored", "--socket", str(path)],
        stdout=subprocess.PIPE,
    ) as server:
        assert server.stdout is not None
        server.stdout.readline()
        with DomainProcess(path, 1) as domain:
            domain.client._socket._timeout = 0.1
            server.send_signal(signal.SIGSTOP)
            with pytest.raises(StoreGone, match="has not answered within"):
                domain.client.read("/tool")
            server.send_signal(signal.SIGCONT)
        server.terminate()


# Starting it when it is needed


def test_started_once(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    program = (
        "import sys; from pathlib import Path; from pyxen.xenstore import *;"
        "held = ensure_xenstored(Path(sys.argv[1]), Path(sys.argv[2]), idle_exit=0.2);"
        "print('there', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(path), str(tmp_path / "log")]
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for _ in range(4)
        ]
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == b"there\n"
        with Client(path) as client:
            report = tmp_path / "report"
            client.control("memreport", str(report))
        assert "5 connections" in report.read_text()
        time.sleep(0.4)
        assert path.exists()
        for child in children:
            child.communicate()
    _wait_until_gone(path)


def test_used_again_and_again(tmp_path: Path) -> None:
    """A server that is just ending, or was killed, is replaced by another one."""
    path = tmp_path / "socket"
    for number in range(8):
        with ensure_xenstored(path, tmp_path / "log", idle_exit=0.02) as held:
            held.settimeout(20)
            held.sendall(struct.pack("<4I", abi.XS_READ, 1, 0, 6) + b"/tool\0")
            assert len(held.recv(100)) == 16
        time.sleep(0.01 * number)
    _wait_until_gone(path)


def test_a_store_that_cannot_be_started(tmp_path: Path) -> None:
    with pytest.raises(PyxenError, match=r"none/log: No such file"):
        ensure_xenstored(tmp_path / "socket", tmp_path / "none" / "log")
    with pytest.raises(PyxenError, match=r"none/socket\.lock: No such file"):
        ensure_xenstored(tmp_path / "none" / "socket", tmp_path / "log")
    (tmp_path / "file").write_text("")
    with pytest.raises(PyxenError, match=r"file: exists and is no socket"):
        ensure_xenstored(tmp_path / "file", tmp_path / "log")
    with pytest.raises(PyxenError, match=r"has not started within 0\.01 s"):
        ensure_xenstored(tmp_path / "socket", tmp_path / "log", timeout=0.01)


def test_a_lock_that_is_held(tmp_path: Path) -> None:
    from pyxen.xenstore.start import StartLock

    fd = StartLock(tmp_path / "socket").take()
    assert fd is not None
    try:
        with pytest.raises(PyxenError, match=r"another process holds it for 0\.1 s"):
            ensure_xenstored(tmp_path / "socket", tmp_path / "log", timeout=0.1)
    finally:
        os.close(fd)


def test_a_store_that_is_killed_as_soon_as_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyxen.xenstore.start._start", lambda *arguments: None)
    with pytest.raises(PyxenError, match=r"^xenstored: has ended as soon as it began; see /log$"):
        ensure_xenstored(tmp_path / "none", Path("/log"))
