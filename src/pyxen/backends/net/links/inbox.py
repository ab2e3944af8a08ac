# SPDX-License-Identifier: GPL-2.0-or-later
"""The way of frames from the I/O thread, which reads them, to the thread of the vCPUs, where the
back end takes them: many at a time, held back while the guest takes none, and bounded."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from pyxen.backends.net.link import Frame, Receive

if TYPE_CHECKING:
    from pyxen.backends.doors import Doors

_FULL: Final = 1 << 20
"""Bytes that wait. Who reads stops for so many, so that there is never much more."""
_AT_ONCE: Final = 256 << 10
"""Bytes for the back end, which holds somewhat more for a guest that takes none."""


class Inbox:
    """See the module. ``on_room`` is called in the I/O thread when reading may go on after ``put``
    has said that there is no room."""

    def __init__(self, doors: Doors, on_room: Callable[[], None]) -> None:
        self._post = doors.post
        self._loop = doors.loop
        self._on_room = on_room
        self._lock = threading.Lock()  # of what both threads change: the next four
        self._frames: deque[Frame] = deque()
        self._size = 0
        self._posted = False
        self._full = False
        self._receive: Receive | None = None
        self._held = False
        self.dropped = 0
        """Frames that came while the card was not connected."""

    def put(self, frames: Sequence[Frame]) -> bool:
        """In the I/O thread: hand in what has come. False: read no more until ``on_room``."""
        with self._lock:
            self._frames += frames
            self._size += sum(len(frame.data) for frame in frames)
            room = self._size < _FULL
            self._full = not room
            posted, self._posted = self._posted, True
        if not posted:
            self._post(self._deliver)
        return room

    # In the thread of the vCPUs

    def open(self, receive: Receive) -> None:
        self._receive = receive
        self._held = False

    def close(self) -> None:
        """Frames are dropped from now on."""
        self._receive = None
        self._held = False
        self._deliver()

    def resume(self) -> None:
        self._held = False
        self._deliver()

    def _deliver(self) -> None:
        with self._lock:
            self._posted = False
        while self._frames and not self._held:
            frames, full = self._take()
            if self._receive is None:
                self.dropped += len(frames)
            elif not self._receive(frames):
                self._held = True
            if full:
                self._loop.call_soon_threadsafe(self._on_room)

    def _take(self) -> tuple[list[Frame], bool]:
        """As many as the back end has room for at once, and whether reading had stopped."""
        frames = []
        size = 0
        with self._lock:
            while self._frames and size < _AT_ONCE:
                frame = self._frames.popleft()
                size += len(frame.data)
                frames.append(frame)
            self._size -= size
            full = self._full and self._size < _FULL
            self._full = self._full and not full
        return frames, full
