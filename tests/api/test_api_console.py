# SPDX-License-Identifier: GPL-2.0-or-later
"""What a program does at a console, of which the test is the other end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pyxen import Console, ConsoleEnded, ExpectTimeout, PyxenError

MOMENT = 0.05


class Server:
    """One connection to a console."""

    def __init__(self, folder: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / "console.sock"))
        self._listener.listen()

    def accept(self) -> None:
        self.connection, _ = self._listener.accept()

    def close(self) -> None:
        self.connection.close()
        self._listener.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path)
    yield server
    server.close()


@pytest.fixture
def console(server: Server, tmp_path: Path) -> Iterator[Console]:
    with Console(tmp_path) as console:
        server.accept()
        yield console


def test_expect_goes_on_behind_what_it_has_found(server: Server, console: Console) -> None:
    server.connection.sendall(b"one login: two login: \r\nthree\r\n")
    assert console.expect(r"(\w+) login: ")[1] == "one"
    assert console.expect(r"(\w+) login: ")[1] == "two"
    console.expect("\nthr")
    console.expect("ee\n")
    assert console.text == "one login: two login: \nthree\n"
    assert console.read() == ""


def test_characters_in_pieces(server: Server, console: Console) -> None:
    for byte in "grün\xff\r\n".encode() + b"\xff.":
        server.connection.sendall(bytes([byte]))
    console.expect(r"\.")
    assert console.text == "grünÿ\n\N{REPLACEMENT CHARACTER}."


def test_what_comes_while_it_waits(server: Server, console: Console) -> None:
    timer = threading.Timer(MOMENT, server.connection.sendall, [b"late"])
    timer.start()
    console.expect("late")
    timer.join()


def test_what_does_not_come(server: Server, console: Console) -> None:
    server.connection.sendall(b"Kernel panic")
    console.expect("Kernel")
    with pytest.raises(ExpectTimeout, match=r"no 'login' within 0.05 s; its end:\nKernel panic"):
        console.expect("login", timeout=MOMENT)
    assert console.read() == " panic"


def test_the_end(server: Server, console: Console) -> None:
    server.connection.sendall(b"Power down")
    server.connection.close()
    console.expect("down")
    with pytest.raises(ConsoleEnded, match="Power down"):
        console.expect("login")
    assert console.ended
    with pytest.raises(ConsoleEnded):
        console.send("anybody?\n")


def test_send(server: Server, console: Console) -> None:
    console.send("root\n")
    console.send(b"\x03")
    assert server.connection.recv(100, socket.MSG_WAITALL | socket.MSG_PEEK)[:1] == b"r"
    assert server.connection.recv(6, socket.MSG_WAITALL) == b"root\n\x03"


def test_a_shell_that_echoes(server: Server, console: Console) -> None:
    """As real ones do, with a prompt and codes of a line editor."""

    def shell() -> None:
        typed = server.connection.recv(1000)
        server.connection.sendall(b"# " + typed.replace(b"\n", b"\r\n> "))
        server.connection.sendall(b"\x1b[?2004l\r[begin 1]two\r\nlines\r\n[end 1 3]\r\n# ")

    thread = threading.Thread(target=shell)
    thread.start()
    result = console.run("false", timeout=60)
    thread.join()
    assert (result.output, result.status) == ("two\nlines\n", 3)


def test_a_line_that_a_terminal_would_cut(server: Server, console: Console) -> None:
    with pytest.raises(PyxenError, match="at most"):
        console.run("echo " + "x" * 5000)


def test_no_console(tmp_path: Path) -> None:
    with pytest.raises(PyxenError, match="console: No such file"):
        Console(tmp_path)
