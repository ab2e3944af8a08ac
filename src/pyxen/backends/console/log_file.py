# SPDX-License-Identifier: GPL-2.0-or-later
"""A console's output in a file, as xenconsoled keeps it with ``--log=guest``.

The file is appended to. Whoever moves it away, as logrotate does, finds a new one at the next
output; it needs no SIGHUP for that, as xenconsoled does. With a limit the file is rotated when it
would grow beyond: ``console.log`` becomes ``console.log.1``, that one ``console.log.2``, and so on.

With timestamps each line begins with ``[2026-11-23 03:14:15] ``, the local time of its first byte.
A line is then what ends with a newline; carriage returns behind that are left out.

The log never harms the domain. What cannot be written, on a full disk say, is lost; this is told
once, and each later output is tried again.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Final

from pyxen.errors import PyxenError

log = logging.getLogger("pyxen")

DEFAULT_KEPT: Final = 4
_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""Not to wait matters where the file is a pipe."""
_MODE: Final = 0o600
_TIMESTAMP: Final = "[%Y-%m-%d %H:%M:%S] "


class LogFile:
    """See the module.

    Args:
        path: the file. Raises PyxenError if it cannot be opened.
        timestamps: whether each line begins with its time.
        limit: how large the file may grow in bytes; 0: without end.
        kept: how many older files are kept beside it, if there is a limit.
        opener: opens the file in place of ``open_log``, after a rotation if it is told so.

    All in one thread at a time.
    """

    def __init__(
        self,
        path: Path,
        *,
        timestamps: bool = False,
        limit: int = 0,
        kept: int = DEFAULT_KEPT,
        opener: Callable[[bool], int] | None = None,
    ) -> None:
        self.path = path
        self.lost = 0
        """Bytes that could not be written."""
        self._timestamps = timestamps
        self._limit = limit
        self._opener = opener or (lambda rotate: open_log(path, kept if rotate else None))
        self._fd = -1
        self._told = False
        self._at_line_start = True
        try:
            self._open()
        except OSError as error:
            raise PyxenError(f"{path}: {error.strerror}") from error

    def write(self, data: bytes) -> None:
        """Add output. Raises nothing."""
        if self._timestamps:
            data = self._stamped(data)
        try:
            if not self._is_in_place():
                self._open()
            if self._must_rotate(len(data)):
                self._open(rotate=True)
            while data:
                written = os.write(self._fd, data)
                self._size += written
                data = data[written:]
        except OSError as error:
            self.lost += len(data)
            if not self._told:
                self._told = True
                log.error(
                    "%s: %s; console output is missing there until it can be written",
                    self.path,
                    error.strerror,
                )

    def close(self) -> None:
        """A second time does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self, *, rotate: bool = False) -> None:
        fd = self._opener(rotate)
        self.close()
        self._fd = fd
        status = os.fstat(fd)
        self._place = (status.st_dev, status.st_ino)
        self._size = status.st_size
        self._regular = stat.S_ISREG(status.st_mode)

    def _is_in_place(self) -> bool:
        """Whether the open file is still the one of that name."""
        try:
            status = os.stat(self.path)
        except FileNotFoundError:
            return False
        return (status.st_dev, status.st_ino) == self._place

    def _must_rotate(self, more: int) -> bool:
        beyond = 0 < self._limit < self._size + more
        return beyond and self._regular and self._size > 0

    def _stamped(self, data: bytes) -> bytes:
        stamp = time.strftime(_TIMESTAMP).encode()
        parts = []
        for line in _lines(data):
            if self._at_line_start:
                line = line.lstrip(b"\r")
                if not line:
                    continue
                parts.append(stamp)
            parts.append(line)
            self._at_line_start = line.endswith(b"\n")
        return b"".join(parts)


def open_log(path: Path, rotate: int | None = None) -> int:
    """Open the file. ``rotate``: give it another name before, and keep so many older ones. Raises
    OSError."""
    if rotate is not None:
        names = [path, *(Path(f"{path}.{age + 1}") for age in range(rotate))]
        for newer, older in reversed(list(pairwise(names))):
            if newer.exists():
                newer.replace(older)
        if not rotate:
            path.unlink()
    return os.open(path, _FLAGS, _MODE)


def _lines(data: bytes) -> list[bytes]:
    """Pieces that end with a newline, but for the last one."""
    *whole, rest = data.split(b"\n")
    return [line + b"\n" for line in whole] + ([rest] if rest else [])
