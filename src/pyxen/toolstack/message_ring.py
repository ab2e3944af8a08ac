# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypervisor's messages, which ``pyxen dmesg`` prints: Xen's console ring.

Xen keeps its messages in a ring in memory, the oldest of which give way. Here each domain has a
hypervisor of its own in its process, and all of them append to one file in the run folder, whole
lines at a time; whoever comes to the limit drops the oldest. The file is locked meanwhile.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from pyxen.errors import PyxenError
from pyxen.hypervisor.printable import printable

FILE: Final = "dmesg"
LIMIT: Final = 256 * 1024
_KEPT: Final = LIMIT * 3 // 4
"""What is left when the oldest are dropped, which is not done for each line."""


class MessageRing:
    """The messages in this run folder."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def append(self, lines: Iterable[str]) -> None:
        """Add lines as Xen shows them, with the time of day. Raises OSError."""
        stamp = time.strftime("(XEN) [%Y-%m-%d %H:%M:%S] ", time.gmtime())
        text = "".join(f"{stamp}{printable(line)}\n" for line in lines).encode(errors="replace")
        with self._locked() as fd:
            end = os.lseek(fd, 0, os.SEEK_END)
            end += os.pwrite(fd, text, end)
            if end > LIMIT:
                _drop_oldest(fd, end)

    def read(self, *, clear: bool = False) -> str:
        """All that is there; and then forget it. Raises PyxenError."""
        if not self.path.exists():
            return ""
        try:
            with self._locked() as fd:
                text = os.pread(fd, os.fstat(fd).st_size, 0)
                if clear:
                    os.ftruncate(fd, 0)
        except OSError as error:
            raise PyxenError(f"{self.path}: {error.strerror}") from None
        return text.decode(errors="replace")

    @contextmanager
    def _locked(self) -> Iterator[int]:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield fd
        finally:
            os.close(fd)


class RingHandler(logging.Handler):
    """Puts what is logged into the ring, as of the domain that has this number at the moment."""

    def __init__(self, ring: MessageRing, domid: Callable[[], int]) -> None:
        super().__init__(logging.INFO)
        self._ring = ring
        self._domid = domid

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = self.format(record)
            self._ring.append(f"d{self._domid()} {line}" for line in text.splitlines())
        except Exception:  # as all handlers do: the domain goes on
            self.handleError(record)


def _drop_oldest(fd: int, end: int) -> None:
    """Keep the newest whole lines."""
    kept = os.pread(fd, _KEPT, end - _KEPT)
    kept = kept[kept.find(b"\n") + 1 :]
    os.pwrite(fd, kept, 0)
    os.ftruncate(fd, len(kept))
