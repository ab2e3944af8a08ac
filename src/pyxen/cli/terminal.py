# SPDX-License-Identifier: GPL-2.0-or-later
"""Standard input and output as the far end of a guest's console.

A guest's console is a terminal of its own: the guest echoes, edits lines and makes signals of
control characters. So the user's terminal must do none of that while it shows a console. It is put
into *raw mode*: each key arrives at once as its bytes, and output passes unchanged. One key stays
ours, Ctrl-], which leaves.

Input and output may as well be pipes, files or ``/dev/null``. Then every byte belongs to the guest,
Ctrl-] included; the end of the input is not the end of the guest, and a reader of the output who
goes away ends the run, as with every filter.

Two threads meet here. The one that runs the vCPUs calls ``output``. The other runs ``serve`` on
its event loop, which is also where signals arrive: Python runs a signal handler in the main thread
only, between two bytecodes, but that thread may be deep in guest code, or wait for a full output
pipe. The handler in C writes the signal's number to a pipe right away
(``signal.set_wakeup_fd``), and ``serve`` reads that pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

from pyxen.errors import PyxenError

LEAVE_KEY = 0x1D
"""Ctrl-], as in xl console and telnet."""

READ_AHEAD = 64 * 1024
"""How many bytes of a pipe or a file may wait for the guest before we stop reading."""

# A pipe that polls as writable takes this much without blocking (PIPE_BUF).
_OUTPUT_CHUNK = 4096

# How often to look whether the guest has taken input, while READ_AHEAD bytes wait for it.
_ROOM_INTERVAL = 0.01

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Terminal:
    """Connects a console to two file descriptors; a context manager, entered in the main thread.

    Inside the context, SIGINT, SIGTERM and SIGHUP make ``serve`` return; while it does not run they
    raise ``KeyboardInterrupt`` or ``SystemExit`` as usual. On every way out, the user's terminal
    gets its mode back. ``notice`` is told to the user of a terminal.
    """

    def __init__(
        self,
        input_fd: int = 0,
        output_fd: int = 1,
        notice: str = "Ctrl-] leaves the console and ends the domain",
    ) -> None:
        self._input_fd = input_fd
        self._output_fd = output_fd
        self._notice = notice
        self._interactive = os.isatty(input_fd)
        self._saved_mode: list[Any] | None = None
        self._serving = False
        self._output_closed = False
        self._signal: int | None = None
        self._met: set[int] = set()
        self._error: OSError | None = None
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Terminal:
        # Readable as soon as the user has left, for all who wait for something else.
        self._left_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._exit.callback(os.close, self._left_fd)
        self._signal_fd, signal_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._exit.callback(os.close, self._signal_fd)
        self._exit.callback(os.close, signal_writer)
        previous = signal.set_wakeup_fd(signal_writer, warn_on_full_buffer=False)
        self._exit.callback(signal.set_wakeup_fd, previous)
        for number in _SIGNALS:
            handler = signal.getsignal(number)
            # Ignored signals stay so: nohup and the shell's & rely on it.
            if handler is not signal.SIG_IGN:
                signal.signal(number, self._on_signal)
                self._exit.callback(signal.signal, number, handler)
        self._exit.callback(self._restore_mode)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._exit.close()

    @property
    def ended_by(self) -> int | None:
        """The signal that ended the session; SIGPIPE when the output's reader went away."""
        return self._signal

    def check(self) -> None:
        """Raise PyxenError if the output could not be written (a full disk, say)."""
        if self._error is not None:
            raise PyxenError(f"standard output: {self._error.strerror}")

    def output(self, data: bytes) -> None:
        """Write all of ``data``, however long the reader takes.

        Once the user has left, only what can be written without waiting is. Once the output is
        closed, data is dropped. Safe in any one thread at a time.
        """
        view = memoryview(data)
        while view and not self._output_closed:
            try:
                if not self._wait_writable():
                    return
                view = view[os.write(self._output_fd, view[:_OUTPUT_CHUNK]) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                self._output_closed = True
                self._end(signal.SIGPIPE)
            except OSError as error:
                self._output_closed = True
                self._error = error
                self.leave()

    async def serve(
        self, write_input: Callable[[bytes], None], pending_input: Callable[[], int]
    ) -> None:
        """Pass input to the guest until the user leaves (Ctrl-], a signal, a closed output), or
        until ``leave``.

        Args:
            write_input: takes bytes for the guest, at once.
            pending_input: how many of them the guest has not taken yet.
        """
        loop = asyncio.get_running_loop()
        left = asyncio.Event()
        with contextlib.ExitStack() as stack:
            loop.add_reader(self._signal_fd, self._read_signals)
            stack.callback(loop.remove_reader, self._signal_fd)
            loop.add_reader(self._left_fd, left.set)
            stack.callback(loop.remove_reader, self._left_fd)
            stack.enter_context(self._raw_mode())
            async with asyncio.TaskGroup() as tasks:
                feed = tasks.create_task(self._feed(write_input, pending_input))
                await left.wait()
                feed.cancel()

    # Input

    async def _feed(
        self, write_input: Callable[[bytes], None], pending_input: Callable[[], int]
    ) -> None:
        """Read the input until it ends or Ctrl-] is met."""
        while True:
            # A terminal is always read, or Ctrl-] would not work when the guest takes no input.
            while not self._interactive and pending_input() >= READ_AHEAD:
                await asyncio.sleep(_ROOM_INTERVAL)
            await self._wait_readable()
            try:
                data = os.read(self._input_fd, READ_AHEAD)
            except BlockingIOError:
                continue
            except OSError:
                # EIO: the terminal has hung up, or we are no longer in its foreground.
                return
            if not data:
                return
            if self._interactive and LEAVE_KEY in data:
                write_input(data[: data.index(LEAVE_KEY)])
                self.leave()
                return
            write_input(data)

    async def _wait_readable(self) -> None:
        """Return when the input can be read without waiting."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        try:
            loop.add_reader(self._input_fd, readable.set)
        except PermissionError:
            # What cannot be polled (a regular file, /dev/null) never makes one wait.
            await asyncio.sleep(0)
            return
        try:
            await readable.wait()
        finally:
            loop.remove_reader(self._input_fd)

    # Output

    def _wait_writable(self) -> bool:
        """Wait for room in the output; False if the user left before there was any."""
        poll = select.poll()
        poll.register(self._output_fd, select.POLLOUT)
        poll.register(self._left_fd, select.POLLIN)
        ready = dict(poll.poll())
        return self._output_fd in ready

    # Leaving

    def leave(self) -> None:
        """End the session, from any thread: ``serve`` returns and ``output`` waits no more."""
        os.eventfd_write(self._left_fd, 1)

    def _end(self, number: int) -> None:
        """End the session for a signal; the first one counts."""
        if self._signal is None:
            self._signal = number
        self.leave()

    def _read_signals(self) -> None:
        for number in os.read(self._signal_fd, 64):
            if number in _SIGNALS:
                self._met.add(number)
                self._end(number)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # The main thread may get here long after the signal, when ``serve`` has returned for it.
        if self._serving or number in self._met:
            return
        self._signal = number
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    # The mode of the user's terminal

    @contextlib.contextmanager
    def _raw_mode(self) -> Iterator[None]:
        self._serving = True
        try:
            if self._interactive:
                sys.stderr.write(f"pyxen: {self._notice}\n")
                sys.stderr.flush()
                self._saved_mode = termios.tcgetattr(self._input_fd)
                tty.setraw(self._input_fd, termios.TCSANOW)
            yield
        finally:
            self._restore_mode()
            self._serving = False

    def _restore_mode(self) -> None:
        mode, self._saved_mode = self._saved_mode, None
        if mode is not None:
            # The terminal may be gone by now (SIGHUP): nothing is left to restore then.
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._input_fd, termios.TCSANOW, mode)
