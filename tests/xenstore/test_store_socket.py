# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen xenstored`` as a process: Xen's own tools, pyxs and our clients use it by its socket."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from store_peer import refused

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import AsyncClient, Client, SocketServer, Xenstored
from pyxen.xenstore.async_client import AsyncRequests
from pyxen.xenstore.requests import Requests

TOO_LONG = "pyxen: WARNING: xenstore: a client is dropped: a message of 4097 bytes, at most 4096"


def _launch(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "pyxen", "xenstored", "--socket", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == f"XENSTORED_PATH={path}\n"
    return process


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of a server."""
    path = tmp_path_factory.mktemp("xenstored") / "socket"
    with _launch(path) as process:
        yield path
        process.send_signal(signal.SIGINT)
        output, complaints = process.communicate(timeout=20)
        assert not output
        assert set(complaints.splitlines()) <= {TOO_LONG}
    assert process.returncode == 0
    assert not path.exists()


@pytest.fixture
def client(store: Path) -> Iterator[Client]:
    with Client(store, timeout=20) as client:
        yield client
        for name in client.directory("/"):
            if name != "tool":
                client.remove(f"/{name}")


# Xen's tools


def _tool(store: Path, name: str, *arguments: str, status: int = 0) -> str:
    """Run a program of xenstore-utils; returns its output."""
    program = shutil.which(f"xenstore-{name}")
    if program is None:
        pytest.skip(f"xenstore-{name} is not installed (Debian: xenstore-utils)")
    done = subprocess.run(
        [program, *arguments],
        env={**os.environ, "XENSTORED_PATH": str(store)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == status, done.stderr
    return done.stdout


def test_xenstore_write_and_read(store: Path, client: Client) -> None:
    _tool(store, "write", "/a/b", "one", "/a/c", "two")
    assert client.read("/a/b") == b"one"
    assert _tool(store, "read", "/a/b", "/a/c") == "one\ntwo\n"
    assert _tool(store, "read", "-p", "/a/b") == "/a/b: one\n"
    assert _tool(store, "read", "/none", status=1) == ""


def test_xenstore_list_and_ls(store: Path, client: Client) -> None:
    client.write("/a/b", "x\ny")
    client.mkdir("/a/c")
    assert _tool(store, "list", "/a") == "b\nc\n"
    assert _tool(store, "ls", "/a") == 'b = "x\\ny"\nc = ""\n'
    assert _tool(store, "ls", "-f", "-p", "/a") == '/a/b = "x\\ny"   (n0)\n/a/c = ""   (n0)\n'


def test_xenstore_ls_of_a_long_directory(store: Path, client: Client) -> None:
    names = [f"entry-{number:05}" for number in range(1000)]

    def fill(transaction: Requests) -> None:
        for name in names:
            transaction.mkdir(f"/a/{name}")

    client.atomically(fill)
    assert _tool(store, "ls", "/a") == "".join(f'{name} = ""\n' for name in names)


def test_xenstore_exists_and_rm(store: Path, client: Client) -> None:
    client.write("/a/b", "x")
    _tool(store, "exists", "/a/b")
    _tool(store, "rm", "/a/b")
    _tool(store, "exists", "/a/b", status=1)
    client.write("/a/only/child", "x")
    _tool(store, "rm", "-t", "/a/only/child")
    assert client.directory("/") == ["tool"]


def test_xenstore_chmod(store: Path, client: Client) -> None:
    client.write("/a/b", "x")
    _tool(store, "chmod", "-r", "/a", "n1", "r2", "b3")
    assert client.permissions("/a/b") == ["n1", "r2", "b3"]


def test_xenstore_watch(store: Path, client: Client) -> None:
    program = shutil.which("xenstore-watch")
    if program is None:
        pytest.skip("xenstore-watch is not installed (Debian: xenstore-utils)")
    with subprocess.Popen(
        [program, "-n", "3", "/a"],
        env={**os.environ, "XENSTORED_PATH": str(store)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "/a\n"
        client.write("/a/b", "1")
        client.write("/a/c", "1")
        assert process.stdout.read() == "/a/b\n/a/c\n"
    assert process.returncode == 0


# pyxs


def test_pyxs(store: Path, client: Client) -> None:
    pyxs = pytest.importorskip("pyxs")
    with pyxs.Client(unix_socket_path=str(store)) as other:
        other.write(b"/a/b", b"1")
        assert other.read(b"/a/b") == b"1"
        assert other.list(b"/a") == [b"b"]
        assert other.exists(b"/a/b")
        other.set_perms(b"/a/b", [b"n0", b"r5"])
        assert other.get_perms(b"/a/b") == [b"n0", b"r5"]
        assert other.get_domain_path(3) == b"/local/domain/3"
        other.transaction()
        other.write(b"/a/b", b"2")
        assert client.read("/a/b") == b"1"
        other.commit()
        assert client.read("/a/b") == b"2"
        monitor = other.monitor()
        monitor.watch(b"/a", b"token")
        client.write("/a/c", "1")
        events = monitor.wait()
        assert [next(events).path for _ in range(2)] == [b"/a", b"/a/c"]
        other.delete(b"/a")
        with pytest.raises(pyxs.PyXSError):
            other.read(b"/a/b")


# Our clients


def test_client(client: Client) -> None:
    client.write("/a/b", "1")
    client.write("/a/c", b"\xff\0")
    assert client.read("/a/c") == b"\xff\0"
    assert client.directory("/a") == ["b", "c"]
    assert client.exists("/a")
    client.remove("/a/c")
    assert not client.exists("/a/c")
    with refused("ENOENT"):
        client.read("/a/c")
    with refused("E2BIG"):
        client.write("/a/b", b"x" * 4096)
    assert client.domain_path(5) == "/local/domain/5"
    assert client.is_introduced(0)
    assert not client.is_introduced(5)
    client.introduce(5, 1, 1)
    client.introduce(6, 1, 1)
    client.set_target(5, 6)
    client.resume(5)
    client.release(5)
    client.release(6)
    assert client.control("check") == "OK"


def test_transactions_of_a_client(store: Path, client: Client) -> None:
    client.write("/a", "1")
    with client.transaction() as transaction:
        transaction.write("/a", "2")
        assert client.read("/a") == b"1"
    assert client.read("/a") == b"2"
    with pytest.raises(ZeroDivisionError), client.transaction() as transaction:
        transaction.write("/a", str(1 // 0))
    with refused("EAGAIN"), client.transaction() as transaction:
        transaction.read("/a")
        client.write("/a", "3")
    with refused("ENOENT"), client.transaction() as transaction:
        transaction.read("/none")


def test_a_client_that_tries_again(client: Client) -> None:
    client.write("/count", "0")
    disturbances = [5, 7]

    def increase(transaction: Requests) -> int:
        value = int(transaction.read("/count"))
        if disturbances:
            client.write("/count", str(disturbances.pop()))
        transaction.write("/count", str(value + 1))
        return value + 1

    assert client.atomically(increase) == 6
    assert client.read("/count") == b"6"
    with refused("ENOENT"):
        client.atomically(lambda transaction: transaction.read("/none"))


def test_watches_of_a_client(store: Path, client: Client) -> None:
    with Client(store) as other, client.watch("/a") as watch, client.watch("/b") as second:
        assert next(watch) == "/a"
        other.write("/a/x", "1")
        assert watch.wait(20) == "/a/x"
        assert watch.wait(0.01) is None
        other.write("/b", "1")
        other.write("/a/y", "1")
        assert client.read("/a/y") == b"1"
        assert next(iter(watch)) == "/a/y"
        assert [second.wait(20), second.wait(20)] == ["/b", "/b"]
        client.unwatch(watch)
        other.write("/a/x", "2")
        assert watch.wait(0.05) is None
    with refused("EINVAL"):
        client.watch("/a//")


def test_a_client_without_a_server(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Client(tmp_path / "none")


def test_async_client(store: Path, client: Client) -> None:
    async def use() -> None:
        async with AsyncClient.connected(store) as other:
            await other.write("/a/b", "1")
            await other.mkdir("/a/c")
            assert await other.read("/a/b") == b"1"
            assert await other.directory("/a") == ["b", "c"]
            await other.set_permissions("/a", ["n3"])
            assert await other.permissions("/a") == ["n3"]
            answers = await asyncio.gather(*(other.read("/a/b") for _ in range(50)))
            assert answers == [b"1"] * 50
            async with other.watch("/a") as watch:
                events = aiter(watch)
                assert await anext(events) == "/a"
                await other.remove("/a/c")
                assert await anext(events) == "/a/c"
            assert not await other.exists("/a/c")
            with refused("ENOENT"):
                await other.read("/none")
            with refused("EAGAIN"):
                async with other.transaction() as transaction:
                    await transaction.read("/a/b")
                    await other.write("/a/b", "2")

            async def increase(transaction: AsyncRequests) -> None:
                await transaction.write("/a/b", b"%d" % (int(await transaction.read("/a/b")) + 1))

            await asyncio.gather(*(other.atomically(increase) for _ in range(10)))
            assert await other.read("/a/b") == b"12"

    asyncio.run(use())


def test_an_async_client_whose_server_ends(tmp_path: Path) -> None:
    async def use() -> None:
        server = SocketServer(Xenstored(), tmp_path / "socket")
        await server.start()
        async with (
            AsyncClient.connected(tmp_path / "socket") as client,
            client.watch("/a") as watch,
        ):
            assert await anext(watch) == "/a"
            await server.close()
            assert [path async for path in watch] == []
            with pytest.raises(ConnectionError):
                await client.read("/a")

    asyncio.run(use())


# The server


def test_messages_in_pieces(store: Path) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(store))
        request = struct.pack("<4I", abi.XS_READ, 7, 0, 6) + b"/tool\0"
        for byte in request:
            raw.send(bytes([byte]))
        assert raw.recv(100) == struct.pack("<4I", abi.XS_READ, 7, 0, 0)
        raw.send(request * 500)
        received = b""
        while len(received) < 500 * 16:
            received += raw.recv(4096)
        assert received == struct.pack("<4I", abi.XS_READ, 7, 0, 0) * 500


def test_a_message_that_is_too_long_ends_the_connection(store: Path, client: Client) -> None:
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(store))
        raw.send(struct.pack("<4I", abi.XS_WRITE, 1, 0, 4097))
        assert raw.recv(100) == b""
    assert client.exists("/tool")


def test_a_client_that_does_not_read(store: Path, client: Client) -> None:
    """Its requests are not taken any more, and others go on."""
    client.write("/a", b"x" * 4000)
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(store))
        raw.setblocking(False)
        request = struct.pack("<4I", abi.XS_READ, 7, 0, 3) + b"/a\0"
        sent = 0
        blocked = 0.0
        while blocked < 0.5:
            try:
                sent += raw.send(request * 1000)
                blocked = 0.0
            except BlockingIOError:
                assert client.read("/a") == b"x" * 4000
                time.sleep(0.02)
                blocked += 0.02
            assert sent < 5_000_000
        raw.setblocking(True)
        requests = sent // len(request)
        expected = requests * (16 + 4000)
        received = 0
        while received < expected:
            piece = raw.recv(1 << 20)
            assert piece
            received += len(piece)
        assert received == expected


def test_the_socket_is_the_owners_alone(store: Path) -> None:
    assert stat.S_IMODE(store.stat().st_mode) == 0o600


def test_one_server_for_a_socket(store: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pyxen", "xenstored", "--socket"]
    done = subprocess.run(
        [*command, str(store)], capture_output=True, text=True, timeout=20, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"pyxen: {store}: another server listens there\n"
    (tmp_path / "file").write_text("")
    done = subprocess.run(
        [*command, str(tmp_path / "file")], capture_output=True, text=True, timeout=20, check=False
    )
    assert done.stderr == f"pyxen: {tmp_path / 'file'}: exists and is no socket\n"


def test_a_socket_that_was_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "new" / "socket"
    with _launch(path) as process:
        process.kill()
    assert path.exists()
    with _launch(path) as process:
        with Client(path) as client:
            assert client.exists("/tool")
        process.terminate()
        assert process.wait(20) == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"XENSTORED_PATH": "/x/s"}, "/x/s"),
        ({"XENSTORED_RUNDIR": "/x"}, "/x/socket"),
        ({"XDG_RUNTIME_DIR": "/x"}, "/x/pyxen/xenstored/socket"),
    ],
)
def test_where_the_socket_is(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyxen.xenstore.address import default_socket

    for name in ("XENSTORED_PATH", "XENSTORED_RUNDIR", "XDG_RUNTIME_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert str(default_socket()) == expected
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    if "XDG_RUNTIME_DIR" in environment:
        assert str(default_socket()) == "/run/xenstored/socket"
