# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen run`` as a child process, and what a test does at its console.

Each wait ends: with what it waits for, with the end of the process, or after a time limit. The last
two are failures that show the console so far. The limits are far above what is needed, because a
machine that is busy with something else must not fail a test.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from pyxen.toolstack.images import READY_MARKER

BOOT_LIMIT = 120.0
COMMAND_LIMIT = 60.0
PROMPT = "/root # "
SHOWN = 12_000
"""How many characters of the console a failure shows: more than a boot prints."""


@dataclass(frozen=True)
class Result:
    """What a command in the guest printed (both of its outputs, as one text) and its status."""

    output: str
    status: int


class Guest:
    """A running ``pyxen run``; a context manager that kills what is left of it.

    Args:
        arguments: those after ``pyxen run``.
        on_terminal: give it a terminal as standard input and output instead of two pipes.
        reading: whether its output is read from the start, or only from ``read`` on.
        environment: variables that are set for it, besides those of this process.
    """

    def __init__(
        self,
        *arguments: str | os.PathLike[str],
        on_terminal: bool = False,
        reading: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._output = bytearray()
        self._error = bytearray()
        self._position = 0
        self._commands = 0
        self._changed = threading.Condition()
        self._reading = threading.Event()
        if reading:
            self._reading.set()
        theirs: tuple[int, int]
        if on_terminal:
            self._input_fd, terminal = pty.openpty()
            self.mode_at_start = self.terminal_mode()
            theirs = (terminal, terminal)
            output_fd = os.dup(self._input_fd)
        else:
            their_input, self._input_fd = os.pipe()
            output_fd, their_output = os.pipe()
            if not reading:
                # Full after a page of output, not after sixteen.
                fcntl.fcntl(output_fd, fcntl.F_SETPIPE_SZ, 4096)
            theirs = (their_input, their_output)
        error_fd, their_error = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pyxen", "run", *arguments],
            stdin=theirs[0],
            stdout=theirs[1],
            stderr=their_error,
            env=os.environ | dict(environment or {}),
            start_new_session=True,
        )
        for fd in {*theirs, their_error}:
            os.close(fd)
        self._readers = [
            threading.Thread(target=self._read, args=stream, daemon=True)
            for stream in (
                (output_fd, self._output, self._reading.wait),
                (error_fd, self._error, lambda: True),
            )
        ]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.process.kill()
        self.process.wait()
        self.read()
        for reader in self._readers:
            reader.join()
        self.end_input()

    # The console

    @property
    def console(self) -> str:
        """All that standard output has received, without carriage returns."""
        with self._changed:
            return self._output.decode("utf-8", "replace").replace("\r", "")

    @property
    def error(self) -> str:
        """All that standard error has received."""
        with self._changed:
            return self._error.decode("utf-8", "replace")

    def read(self) -> None:
        """Begin to read the output, if it was started with ``reading=False``."""
        self._reading.set()

    def expect(self, pattern: str | bytes, limit: float = COMMAND_LIMIT) -> re.Match[bytes]:
        """Wait for a regular expression on the console, after what was expected before."""
        expression = re.compile(pattern.encode() if isinstance(pattern, str) else pattern)
        end = time.monotonic() + limit
        with self._changed:
            while True:
                match = expression.search(self._output, self._position)
                if match is not None:
                    self._position = match.end()
                    return match
                if not self._readers[0].is_alive():
                    break
                # Short waits: the end of the reader is not notified.
                self._changed.wait(min(0.2, end - time.monotonic()))
                if time.monotonic() >= end:
                    break
        raise AssertionError(f"no {pattern!r} on the console\n{self.describe()}")

    def send(self, data: bytes) -> None:
        """Type something."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._input_fd, view[:4096]) :]

    def send_line(self, line: str) -> None:
        """Type a line."""
        self.send(line.encode() + b"\n")

    def end_input(self) -> None:
        """Close the pipe to standard input, or hang up the terminal."""
        if self._input_fd >= 0:
            os.close(self._input_fd)
            self._input_fd = -1

    # The guest's shell

    def boot(self) -> None:
        """Wait for the prompt of the guest's shell."""
        self.expect(re.escape(READY_MARKER), BOOT_LIMIT)
        self.expect(re.escape(PROMPT))

    def open_shell(self) -> None:
        """Wait for the shell and make it neither prompt nor echo."""
        self.boot()
        # Messages of the kernel would get into the output of commands.
        self.send_line("dmesg -n 1; stty -echo; PS1= PS2=")
        # Not as it is typed, because it is echoed until the shell has read the line before.
        self.send_line("printf '[%s]' ready")
        self.expect(re.escape("[ready]"))

    def run(self, command: str, limit: float = COMMAND_LIMIT) -> Result:
        """Run a command in the shell of ``open_shell``."""
        self._commands += 1
        start = self._position
        self.send_line(f"{{ {command}\n}} 2>&1; printf '[done {self._commands} %s]' $?")
        match = self.expect(rf"\[done {self._commands} (\d+)\]", limit)
        with self._changed:
            output = self._output[start : match.start()].decode("utf-8", "replace")
        return Result(output.replace("\r\n", "\n"), int(match[1]))

    def check(self, command: str, limit: float = COMMAND_LIMIT) -> str:
        """Run a command that must succeed; its output without the white space around it."""
        result = self.run(command, limit)
        assert result.status == 0, f"{command}: status {result.status}\n{self.describe()}"
        return result.output.strip()

    # The process

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        self.process.send_signal(number)

    def wait(self, limit: float = COMMAND_LIMIT) -> int:
        """Wait for the end of the process and of its output; the exit status."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it does not end\n{self.describe()}") from None
        self.read()
        for reader in self._readers:
            reader.join()
        return status

    def terminal_mode(self) -> list[Any]:
        """The mode that its terminal is in."""
        return termios.tcgetattr(self._input_fd)

    def describe(self) -> str:
        """What a failure should show."""
        status = self.process.poll()
        state = "it runs" if status is None else f"it ended with {status}"
        console = self.console[-SHOWN:]
        return f"{state}; the end of the console:\n{console}\nstandard error:\n{self.error}"

    def _read(self, fd: int, into: bytearray, wait: Callable[[], bool]) -> None:
        while wait():
            try:
                data = os.read(fd, 65536)
            except OSError:
                # EIO: nobody has the terminal open any more.
                data = b""
            with self._changed:
                into += data
                self._changed.notify_all()
            if not data:
                os.close(fd)
                return


StartGuest = Callable[..., Guest]
"""Starts a guest that ends with the test, see the fixtures."""
