# SPDX-License-Identifier: GPL-2.0-or-later
"""Output that is kept: until its reader takes it, or for whoever comes later. Both are bounded, as
a guest may print without end."""

from __future__ import annotations

from typing import Final

DEFAULT_LIMIT: Final = 1 << 20
"""Bytes; what libxl writes to the ``limit`` node of each console."""


class OutputBuffer:
    """What waits for a reader who is slow, or not there.

    When there is too much, the middle is discarded, as xenconsoled does: the oldest output that was
    not read yet and the newest are kept, half of the limit each.

    Args:
        limit: how many bytes may wait; a fourth more for a moment.
    """

    def __init__(self, limit: int = DEFAULT_LIMIT) -> None:
        if limit <= 0:
            raise ValueError("output buffer: the limit must be positive")
        self._limit = limit
        self._data = bytearray()
        self.discarded = 0

    def __len__(self) -> int:
        return len(self._data)

    def append(self, data: bytes) -> None:
        """Add output."""
        self._data += data
        # Rarely, so that each byte is moved twice at most.
        if len(self._data) > self._limit * 5 // 4:
            half = self._limit // 2
            end = len(self._data) - (self._limit - half)
            self.discarded += end - half
            del self._data[half:end]

    def first(self, size: int) -> bytes:
        """The oldest bytes, at most so many."""
        return bytes(self._data[:size])

    def consume(self, size: int) -> None:
        """The oldest bytes have been read."""
        del self._data[:size]


class Scrollback:
    """The last output of a console, for whoever comes later: a reader, a crash report.

    Args:
        limit: how many bytes are kept.
    """

    def __init__(self, limit: int = 256 * 1024) -> None:
        if limit <= 0:
            raise ValueError("scrollback: the limit must be positive")
        self._limit = limit
        self._buffer = bytearray()

    def append(self, data: bytes) -> None:
        """Add output; the oldest bytes beyond the limit are forgotten."""
        self._buffer += data
        # Cut rarely, so that an append does not move the whole window each time.
        if len(self._buffer) > 2 * self._limit:
            del self._buffer[: -self._limit]

    def contents(self) -> bytes:
        """The last bytes, at most the limit."""
        return bytes(self._buffer[-self._limit :])

    def tail(self, lines: int) -> str:
        """The last lines as text, without carriage returns; undecodable bytes are replaced."""
        text = self.contents().decode("utf-8", "replace").replace("\r", "")
        return "\n".join(text.rstrip("\n").split("\n")[-lines:])
