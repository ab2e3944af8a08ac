# SPDX-License-Identifier: GPL-2.0-or-later
"""``attach``: a terminal at the console of another process's domain."""

from __future__ import annotations

import os
import pty
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyxen.cli.console_client import NOTICE, attach
from pyxen.cli.terminal import Terminal
from pyxen.errors import PyxenError
from pyxen.toolstack.console_server import ConsoleServer
from pyxen.toolstack.threads import IoThread

PATIENCE = 20.0


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


@pytest.fixture
def typed() -> bytearray:
    return bytearray()


@pytest.fixture
def server(tmp_path: Path, typed: bytearray) -> Iterator[ConsoleServer]:
    with ConsoleServer(tmp_path / "console.sock") as server, IoThread() as io:
        future = io.start(server.serve(typed.extend, lambda: 0))
        yield server
        future.cancel()


def beside(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_the_leave_key_leaves_and_the_console_stays(
    server: ConsoleServer, typed: bytearray, capfd: pytest.CaptureFixture[str]
) -> None:
    server.output(b"before\r\n")
    master, slave = pty.openpty()

    def user() -> None:
        shown = b""
        while b"before\r\n" not in shown:
            shown += os.read(master, 100)
        os.write(master, b"ls\n")
        wait_until(lambda: typed == b"ls\n")
        server.output(b"after\r\n")
        while b"after\r\n" not in shown:
            shown += os.read(master, 100)
        os.write(master, b"\x1d")

    thread = beside(user)
    with Terminal(slave, slave, NOTICE) as terminal:
        assert not attach(server.path, terminal)
    thread.join()
    assert capfd.readouterr().err == f"pyxen: {NOTICE}\n"
    wait_until(lambda: server.readers == 0)
    assert typed == b"ls\n"
    for fd in (master, slave):
        os.close(fd)


def test_the_end_of_the_domain_ends_it_with_all_its_output(tmp_path: Path) -> None:
    path, null = tmp_path / "console.sock", os.open(os.devnull, os.O_RDONLY)
    reader, writer = os.pipe()
    data = os.urandom(1 << 20)
    server = ConsoleServer(path)
    server.__enter__()
    taken = bytearray()

    def read() -> None:
        while more := os.read(reader, 65536):
            taken.extend(more)

    def domain() -> None:
        wait_until(lambda: server.readers)
        server.output(data)
        server.__exit__()

    threads = [beside(read), beside(domain)]
    with Terminal(null, writer, NOTICE) as terminal:
        assert attach(path, terminal)
    for fd in (writer, null):
        os.close(fd)
    for thread in threads:
        thread.join()
    os.close(reader)
    assert taken == data


def test_a_reader_who_goes_away_ends_it(server: ConsoleServer) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    reader, writer = os.pipe()
    os.close(reader)
    server.output(b"x")
    with Terminal(null, writer, NOTICE) as terminal:
        assert not attach(server.path, terminal)
        assert terminal.ended_by is not None
    os.close(writer)
    os.close(null)


def test_nobody_at_the_socket(tmp_path: Path) -> None:
    with (
        Terminal(notice=NOTICE) as terminal,
        pytest.raises(PyxenError, match=r"console\.sock: No such file"),
    ):
        attach(tmp_path / "console.sock", terminal)
