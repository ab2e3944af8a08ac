# SPDX-License-Identifier: GPL-2.0-or-later
"""How long work tells its user how far it is.

Work that takes time receives a `Progress` and opens one step after another on it. What becomes of
that is up to the receiver: a bar on a terminal, one line for each step in a log, nothing in a test.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TextIO

Report = Callable[[int], None]
"""Tells how much of a step is done, in the unit of the step's total."""


class Progress(Protocol):
    """Somebody who is told how far the work is."""

    def step(self, text: str, total: int | None = None) -> AbstractContextManager[Report]:
        """Begin a step that ends with the context; `total` is in bytes, None when unknown."""


class SilentProgress:
    """Shows nothing."""

    @contextmanager
    def step(self, text: str, total: int | None = None) -> Iterator[Report]:
        yield lambda done: None


class PlainProgress:
    """Writes one line for each step that begins: for logs and pipes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextmanager
    def step(self, text: str, total: int | None = None) -> Iterator[Report]:
        size = "" if total is None else f" ({total / 1e6:.1f} MB)"
        print(f"{text}{size}", file=self._stream, flush=True)
        yield lambda done: None


class BarProgress:
    """Draws a bar for each step on a terminal; the bar of a finished step stays."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    @contextmanager
    def step(self, text: str, total: int | None = None) -> Iterator[Report]:
        # rich takes a noticeable time to import: only who sees a bar pays for it.
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, ProgressColumn, TextColumn
        from rich.progress import Progress as RichProgress

        columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn()]
        if total is not None:
            columns.append(DownloadColumn())
        with RichProgress(*columns, console=Console(file=self._stream)) as bars:
            task = bars.add_task(text, total=total)
            yield lambda done: bars.update(task, completed=done)
            # A step that ends without an error is full, whatever its last report was.
            bars.update(task, total=total or 1, completed=total or 1)


def progress_on(stream: TextIO) -> Progress:
    """Return what suits the stream: bars on a terminal, plain lines elsewhere."""
    return BarProgress(stream) if stream.isatty() else PlainProgress(stream)
