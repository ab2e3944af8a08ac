# SPDX-License-Identifier: GPL-2.0-or-later
"""The full screen of ``pyxen top``.

Signals are read from a pipe in the same place as keys, so that none comes between the change of the
terminal and its restoration.
"""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from rich.console import Console, Group
from rich.text import Text

from pyxen.cli.top_columns import SCREEN, Line, View, fitting, states, table
from pyxen.cli.top_details import screen_details
from pyxen.errors import PyxenError
from pyxen.hypervisor import version
from pyxen.toolstack.usage import Sample, Usage, available_memory_kib, compare, take_samples

_SIGNALS: Final = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGTSTP,
    signal.SIGWINCH,
)
_KEY: Final = re.compile(rb"\x1b[\[O][0-9;]*[A-Za-z~]|.", re.DOTALL)
_ESCAPE: Final = b"\x1b"
_ESCAPE_SECONDS: Final = 0.05
"""So long the rest of a key that begins with Escape may take."""
_DELAY_LENGTH: Final = 6
_USUAL: Final = (80, 24)
"""The size of a terminal that does not tell its own."""
_UP: Final = (b"\x1b[A", b"\x1bOA")
_DOWN: Final = (b"\x1b[B", b"\x1bOB")


def show(view: View, delay: float, iterations: int | None) -> int:
    """The exit status: 0, or that of the signal that has ended it."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise PyxenError("top: the full screen needs a terminal; -b prints lines")
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        raise PyxenError("top: the terminal (TERM) can show no full screen; -b prints lines")
    screen = _Screen(view, delay, iterations)
    try:
        with _signals() as signals:
            while True:
                with _keys_at_once(), screen.console.screen():
                    number = screen.watch(signals)
                if number != signal.SIGTSTP:
                    return 128 + number if number else 0
                os.kill(os.getpid(), signal.SIGSTOP)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return 128 + signal.SIGHUP  # the terminal has gone


class _Screen:
    def __init__(self, view: View, delay: float, iterations: int | None) -> None:
        self.console = Console(highlight=False)
        self._view = view
        self._delay = delay
        self._iterations = iterations
        self._samples: list[Sample] = []
        self._usages: list[Usage] = []
        self._taken = ""
        self._first = 0
        self._typed: str | None = None
        """What was typed of a new delay, while one is asked for."""

    def watch(self, signals: int) -> int:
        """Until it is over; returns the signal that was the reason, or 0."""
        while True:
            self._take()
            self._draw()
            if self._iterations is not None:
                self._iterations -= 1
                if self._iterations == 0:
                    return 0
            taken = time.monotonic()
            while (left := taken + self._delay - time.monotonic()) > 0:
                ready, _, _ = select.select([0, signals], [], [], left)
                if signals in ready:
                    for number in os.read(signals, 64):
                        if number != signal.SIGWINCH:
                            return number
                if 0 in ready:
                    data = os.read(0, 1024)
                    if not data:
                        return signal.SIGHUP
                    if data.endswith(_ESCAPE) and select.select([0], [], [], _ESCAPE_SECONDS)[0]:
                        data += os.read(0, 1024)
                    if not all(map(self._press, _KEY.findall(data))):
                        return 0
                if ready:
                    self._draw()

    def _take(self) -> None:
        before, self._samples = self._samples, take_samples()
        self._usages = compare(self._samples, before)
        self._taken = time.strftime("%H:%M:%S")

    # Keys

    def _press(self, key: bytes) -> bool:
        """Whether it goes on."""
        if self._typed is not None:
            self._type(key)
            return True
        view = self._view
        match key.lower():
            case b"q" | b"\x1b":
                return False
            case b"n":
                view.networks = not view.networks
            case b"b":
                view.vbds = not view.vbds
            case b"v":
                view.vcpus = not view.vcpus
            case b"r":
                view.repeat_header = not view.repeat_header
            case b"s":
                shown = fitting(SCREEN, self.console.width)
                place = shown.index(view.sort) if view.sort in shown else -1
                view.sort = shown[(place + 1) % len(shown)]
            case b"d":
                self._typed = ""
        if key in _DOWN:
            self._first = min(self._first + 1, len(self._samples) - 1)
        elif key in _UP:
            self._first = max(self._first - 1, 0)
        return True

    def _type(self, key: bytes) -> None:
        assert self._typed is not None
        if key in (b"\r", b"\n"):
            with suppress(ValueError):  # what is no number changes nothing, as with xentop
                self._delay = float(self._typed) or self._delay
            self._typed = None
        elif key == _ESCAPE:
            self._typed = None
        elif key in (b"\x7f", b"\b"):
            self._typed = self._typed[:-1]
        elif key in b"0123456789." and len(self._typed) < _DELAY_LENGTH:
            self._typed += key.decode()

    # Drawing

    def _draw(self) -> None:
        width, height = self._measure()
        lines = [*self._summary(), *self._table(width)][: height - 1]
        lines += [Text()] * (height - 1 - len(lines))
        for line in (*lines, bottom := self._bottom()):
            line.no_wrap, line.overflow = True, "crop"
        self.console.update_screen(Group(*lines, bottom))

    def _measure(self) -> tuple[int, int]:
        """The window's size now; COLUMNS and LINES, by which rich goes, may be of an older one."""
        width, height = os.get_terminal_size(1)
        self.console.size = (width or _USUAL[0], height or _USUAL[1])
        return self.console.size

    def _summary(self) -> Iterator[Text]:
        xen = f"{version.XEN_MAJOR}.{version.XEN_MINOR}{version.EXTRA_VERSION}"
        yield Text(f"pyxen top - {self._taken}   Xen {xen}")
        counts = dict.fromkeys(("running", "blocked", "paused", "crashed", "dying", "shutdown"), 0)
        names = ("dying", "shutdown", "blocked", "crashed", "paused", "running")
        for sample in self._samples:
            for name, is_set in reversed([*zip(names, states(sample.info), strict=True)]):
                if is_set:
                    counts[name] += 1
                    break
        told = ", ".join(f"{count} {name}" for name, count in counts.items())
        yield Text(f"{len(self._samples)} domains: {told}")
        host = self._samples[0].info
        free = available_memory_kib()
        yield Text(
            f"Mem: {host.memory_kib}k total, {host.memory_kib - free}k used, {free}k free    "
            f"CPUs: {len(host.vcpus)}"
        )

    def _table(self, width: int) -> Iterator[Text]:
        view, columns = self._view, fitting(SCREEN, width)
        usages = sorted(self._usages, key=view.sort.key)[self._first :]
        sort = columns.index(view.sort) if view.sort in columns else None
        for line in table(view, columns, usages, screen_details):
            yield _styled(line, sort)

    def _bottom(self) -> Text:
        if self._typed is not None:
            return Text(f"  Delay(sec): {self._typed}")
        view, text = self._view, Text("  ")
        for before, key, after, is_on in (
            ("", "D", "elay", False),
            ("", "N", "etworks", view.networks),
            ("v", "B", "ds", view.vbds),
            ("", "V", "CPUs", view.vcpus),
            ("", "R", "epeat header", view.repeat_header),
            ("", "S", "ort order", False),
            ("", "Q", "uit", False),
        ):
            style = "black on yellow" if is_on else ""
            text.append(before, style).append(key, "reverse").append(after, style).append("  ")
        return text


def _styled(line: Line, sort: int | None) -> Text:
    cells = [Text(cell, "bold" if index == sort else "") for index, cell in enumerate(line.cells)]
    text = Text(" ").join(cells)
    if line.header:
        text.stylize("reverse")
    return text


@contextmanager
def _keys_at_once() -> Iterator[None]:
    """The terminal gives each key at once, unseen."""
    mode = termios.tcgetattr(0)
    try:
        tty.setcbreak(0)
        yield
    finally:
        with suppress(termios.error):  # it has gone
            termios.tcsetattr(0, termios.TCSANOW, mode)


@contextmanager
def _signals() -> Iterator[int]:
    """A pipe from which the numbers of signals can be read; those that are ignored stay so."""
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in handlers.items():
        if handler is not signal.SIG_IGN:
            signal.signal(number, lambda number, frame: None)
    try:
        yield reader
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(reader)
        os.close(writer)
