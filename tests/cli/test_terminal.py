# SPDX-License-Identifier: GPL-2.0-or-later
"""The terminal between a console and pipes, files and pseudo-terminals."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pyxen.cli.terminal import READ_AHEAD, Terminal
from pyxen.errors import PyxenError

PATIENCE = 20.0


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.002)


class Session:
    """``serve`` in a second thread, as in a run; the guest is a byte array."""

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.typed = bytearray()
        self.pending = 0
        self.ended = threading.Event()
        self.failure: BaseException | None = None
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.task = self.loop.create_task(
            self.terminal.serve(self.typed.extend, lambda: self.pending)
        )
        try:
            self.loop.run_until_complete(self.task)
        except asyncio.CancelledError:
            pass
        except BaseException as error:
            self.failure = error
        finally:
            self.loop.close()
            self.ended.set()

    def stop(self) -> None:
        """End ``serve`` as a run does whose guest has ended."""
        if not self.ended.is_set():
            with contextlib.suppress(RuntimeError):  # the loop may have been closed meanwhile
                self.loop.call_soon_threadsafe(self.task.cancel)
        self.thread.join()
        if self.failure is not None:
            raise self.failure


@contextlib.contextmanager
def serving(terminal: Terminal) -> Iterator[Session]:
    with terminal:
        session = Session(terminal)
        try:
            yield session
        finally:
            session.stop()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for fd in (reader, writer):
        with contextlib.suppress(OSError):
            os.close(fd)


@pytest.fixture
def null() -> Iterator[int]:
    fd = os.open(os.devnull, os.O_RDWR)
    yield fd
    os.close(fd)


@pytest.fixture
def pty() -> Iterator[tuple[int, int]]:
    master, slave = os.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


def is_raw(fd: int) -> bool:
    local = termios.tcgetattr(fd)[3]
    return not local & (termios.ICANON | termios.ECHO | termios.ISIG)


# Input


def test_a_pipe_is_passed_on_and_its_end_is_not_the_end(pipe: tuple[int, int], null: int) -> None:
    reader, writer = pipe
    with serving(Terminal(reader, null)) as session:
        os.write(writer, b"one\x1dtwo\x03")
        wait_until(lambda: len(session.typed) == 8)
        os.close(writer)
        assert not session.ended.wait(0.1)
    assert session.typed == b"one\x1dtwo\x03"


@pytest.mark.parametrize("size", (0, 10, 3 * READ_AHEAD + 5))
def test_a_regular_file_is_read_to_its_end(tmp_path: Path, null: int, size: int) -> None:
    data = random.Random(size).randbytes(size)
    path = tmp_path / "input"
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    with serving(Terminal(fd, null)) as session:
        wait_until(lambda: len(session.typed) == size)
        assert not session.ended.wait(0.05)
    os.close(fd)
    assert session.typed == data


def test_the_null_device_ends_nothing_and_costs_no_time(null: int) -> None:
    before = time.process_time()
    with serving(Terminal(null, null)) as session:
        assert not session.ended.wait(0.5)
    assert time.process_time() - before < 0.25
    assert session.typed == b""


def test_a_pipe_is_not_read_while_the_guest_takes_nothing(pipe: tuple[int, int], null: int) -> None:
    reader, writer = pipe
    data = random.Random(5).randbytes(5 * READ_AHEAD)
    with serving(Terminal(reader, null)) as session:
        session.pending = READ_AHEAD
        feeder = threading.Thread(target=lambda: os.write(writer, data))
        feeder.start()
        time.sleep(0.1)
        # At most what was already being waited for when the guest stopped.
        assert len(session.typed) <= READ_AHEAD
        session.pending = 0
        feeder.join(PATIENCE)
        wait_until(lambda: len(session.typed) == len(data))
    assert session.typed == data


# Output


def test_output_survives_a_slow_reader(pipe: tuple[int, int], null: int) -> None:
    reader, writer = pipe
    os.set_blocking(writer, False)  # so that EAGAIN happens
    data = random.Random(6).randbytes(1 << 20)
    digest = hashlib.sha256()

    def read_slowly() -> None:
        while chunk := os.read(reader, 30_000):
            digest.update(chunk)
            time.sleep(0.001)

    slow = threading.Thread(target=read_slowly)
    slow.start()
    with Terminal(null, writer) as terminal:
        for start in range(0, len(data), 2048):
            terminal.output(data[start : start + 2048])
    os.close(writer)
    slow.join(PATIENCE)
    assert digest.digest() == hashlib.sha256(data).digest()


def test_one_long_output_is_written_whole(pipe: tuple[int, int], null: int) -> None:
    reader, writer = pipe
    data = random.Random(7).randbytes(300_001)
    with Terminal(null, writer) as terminal:

        def write() -> None:
            terminal.output(data)
            os.close(writer)

        thread = threading.Thread(target=write)
        thread.start()
        received = bytearray()
        while chunk := os.read(reader, 65536):
            received += chunk
        thread.join()
    assert received == data


def test_a_reader_who_goes_away_ends_the_session_quietly(
    pipe: tuple[int, int], null: int, capfd: pytest.CaptureFixture[str]
) -> None:
    reader, writer = pipe
    terminal = Terminal(null, writer)
    with serving(terminal) as session:
        os.close(reader)
        terminal.output(b"nobody")
        terminal.output(b"listens")
        assert session.ended.wait(PATIENCE)
    assert terminal.ended_by == signal.SIGPIPE
    terminal.check()
    assert capfd.readouterr() == ("", "")


def test_output_that_cannot_be_written_is_an_error() -> None:
    full = os.open("/dev/full", os.O_RDWR)
    terminal = Terminal(full, full)
    with serving(terminal) as session:
        terminal.output(b"x")
        assert session.ended.wait(PATIENCE)
    os.close(full)
    with pytest.raises(PyxenError, match=r"standard output: No space left"):
        terminal.check()


def test_leaving_frees_a_writer_who_waits_for_room(pipe: tuple[int, int], null: int) -> None:
    _, writer = pipe
    terminal = Terminal(null, writer)
    with serving(terminal) as session:
        blocked = threading.Thread(target=terminal.output, args=(bytes(1 << 20),))
        blocked.start()
        blocked.join(0.1)
        assert blocked.is_alive()
        os.kill(os.getpid(), signal.SIGTERM)
        blocked.join(PATIENCE)
        assert not blocked.is_alive()
        assert session.ended.wait(PATIENCE)


def test_who_ends_the_run_frees_a_writer_who_waits_for_room(
    pipe: tuple[int, int], null: int
) -> None:
    _, writer = pipe
    terminal = Terminal(null, writer)
    with serving(terminal) as session:
        blocked = threading.Thread(target=terminal.output, args=(bytes(1 << 20),))
        blocked.start()
        blocked.join(0.1)
        assert blocked.is_alive()
        terminal.leave()
        blocked.join(PATIENCE)
        assert not blocked.is_alive()
        assert session.ended.wait(PATIENCE)
    assert terminal.ended_by is None


# A terminal


def test_a_terminal_is_raw_while_it_is_served(
    pty: tuple[int, int], capfd: pytest.CaptureFixture[str]
) -> None:
    master, slave = pty
    before = termios.tcgetattr(slave)
    with serving(Terminal(slave, slave)) as session:
        wait_until(lambda: is_raw(slave))
        os.write(master, b"ls\r\x03\x04\x1a")
        wait_until(lambda: len(session.typed) == 6)
        session.terminal.output(b"a\nb\r\n\xff\x00")
        assert os.read(master, 100) == b"a\nb\r\n\xff\x00"
    assert session.typed == b"ls\r\x03\x04\x1a"
    assert termios.tcgetattr(slave) == before
    assert capfd.readouterr().err.count("Ctrl-]") == 1


def test_the_leave_key_leaves(pty: tuple[int, int]) -> None:
    master, slave = pty
    before = termios.tcgetattr(slave)
    terminal = Terminal(slave, slave)
    with serving(terminal) as session:
        wait_until(lambda: is_raw(slave))
        os.write(master, b"last\x1dnever")
        assert session.ended.wait(PATIENCE)
        assert termios.tcgetattr(slave) == before
    assert session.typed == b"last"
    assert terminal.ended_by is None


def test_the_leave_key_works_while_the_guest_takes_nothing(pty: tuple[int, int]) -> None:
    master, slave = pty
    with serving(Terminal(slave, slave)) as session:
        session.pending = 10 * READ_AHEAD
        wait_until(lambda: is_raw(slave))
        os.write(master, b"\x1d")
        assert session.ended.wait(PATIENCE)


def test_an_error_while_serving_restores_the_terminal(pty: tuple[int, int]) -> None:
    master, slave = pty
    before = termios.tcgetattr(slave)

    def refuse(data: bytes) -> None:
        raise RuntimeError("refused")

    async def serve(terminal: Terminal) -> None:
        asyncio.get_running_loop().call_later(0.05, os.write, master, b"x")
        await terminal.serve(refuse, lambda: 0)

    with Terminal(slave, slave) as terminal, pytest.raises(ExceptionGroup, match="unhandled"):
        asyncio.run(serve(terminal))
    assert termios.tcgetattr(slave) == before


def test_input_of_a_terminal_that_hangs_up_is_no_error() -> None:
    master, slave = os.openpty()
    with serving(Terminal(slave, slave)) as session:
        wait_until(lambda: is_raw(slave))
        os.close(master)
        assert not session.ended.wait(0.1)
    os.close(slave)


# Signals


@pytest.mark.parametrize("number", (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
def test_a_signal_leaves_and_restores_the_terminal(
    pty: tuple[int, int], number: signal.Signals
) -> None:
    _, slave = pty
    before = termios.tcgetattr(slave)
    handler = signal.getsignal(number)
    terminal = Terminal(slave, slave)
    with serving(terminal) as session:
        wait_until(lambda: is_raw(slave))
        os.kill(os.getpid(), number)
        assert session.ended.wait(PATIENCE)
        assert termios.tcgetattr(slave) == before
    assert terminal.ended_by == number
    assert signal.getsignal(number) == handler


def test_a_signal_before_serving_is_raised(null: int) -> None:
    with Terminal(null, null):
        with pytest.raises(SystemExit) as terminated:
            signal.raise_signal(signal.SIGTERM)
        assert terminated.value.code == 143
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_ignored_signal_stays_ignored(null: int) -> None:
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Terminal(null, null):
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, previous)


STUCK_MAIN_THREAD = """
import asyncio, ctypes, os, threading
from pyxen.cli.terminal import Terminal
terminal = Terminal()
with terminal:
    def serve():
        asyncio.run(terminal.serve(lambda data: None, lambda: 0))
        os._exit(128 + terminal.ended_by)
    threading.Thread(target=serve).start()
    # A mutex locked twice: like guest code, it never comes back for a signal handler.
    mutex = ctypes.create_string_buffer(64)
    while True:
        ctypes.CDLL(None).pthread_mutex_lock(mutex)
"""


def test_a_signal_leaves_while_the_main_thread_is_busy_elsewhere(pty: tuple[int, int]) -> None:
    _, slave = pty
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        (sys.executable, "-c", STUCK_MAIN_THREAD), stdin=slave, stderr=subprocess.DEVNULL
    )
    wait_until(lambda: is_raw(slave))
    process.terminate()
    assert process.wait(PATIENCE) == 143
    assert termios.tcgetattr(slave) == before


def test_a_signal_that_serve_has_met_is_not_raised_later(null: int) -> None:
    terminal = Terminal(null, null)
    with serving(terminal) as session:
        sender = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
        sender.start()
        # Python's signal handlers wait for the end of this, and serve does not.
        while not session.ended.is_set():
            hashlib.pbkdf2_hmac("sha256", b"", b"", 1_000_000)
        sender.join()
    assert terminal.ended_by == signal.SIGTERM


def test_nothing_stays_open(null: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with serving(Terminal(null, null)):
            pass
    assert len(os.listdir("/proc/self/fd")) == before
