# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames over a stream socket: each after its length, in four bytes of big-endian order. It is what
QEMU speaks with its ``stream`` network back end, and so what passt understands.

Sending happens where the frames are, in the thread of the vCPUs, for as long as the socket takes
them. What it does not take waits in a bounded queue, which the I/O thread empties; when that is
full, too, frames are dropped. Reading happens in the I/O thread.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections import deque
from collections.abc import Callable, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import asyncio

LENGTH: Final = struct.Struct("!I")

_QUEUE_LIMIT: Final = 8 << 20
_BUFFER_SIZE: Final = 512 << 10
_VECTOR: Final = 256
"""Buffers for one sendmsg; Linux takes 1024."""
_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL


class FrameStream:
    """One end of such a socket, which it owns. ``largest`` is the size of a frame beyond which the
    other end is not believed. ``on_frames`` and ``on_end`` are called in the I/O thread; the latter
    once, if the other end goes or sends nonsense. ``dropped`` counts what could not be sent."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        largest: int,
        on_frames: Callable[[FrameStream, list[bytes]], None],
        on_end: Callable[[FrameStream], None],
    ) -> None:
        sock.setblocking(False)
        self._loop = loop
        self._sock = sock
        self._largest = largest
        self._on_frames = on_frames
        self._on_end = on_end
        self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        self._filled = 0
        self._closed = False
        self._lock = threading.Lock()  # of what both threads change: the next four
        self._queue: deque[bytes | memoryview] = deque()
        self._queued = 0
        self._writing = False
        self.dropped = 0

    def start(self) -> None:
        """Begin to read. In any thread."""
        self._loop.call_soon_threadsafe(self.resume_reading)

    def close(self) -> None:
        """In any thread: send and read no more."""
        with self._lock:
            self._drop_queue()
        self._loop.call_soon_threadsafe(self.dispose)

    def dispose(self) -> None:
        """The same in the I/O thread, at once."""
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._sock)
            self._loop.remove_writer(self._sock)
            with self._lock:
                self._sock.close()

    # Reading, in the I/O thread

    def pause_reading(self) -> None:
        if not self._closed:
            self._loop.remove_reader(self._sock)

    def resume_reading(self) -> None:
        if not self._closed:
            self._loop.add_reader(self._sock, self._read)

    def _read(self) -> None:
        try:
            count = self._sock.recv_into(self._buffer[self._filled :])
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if count == 0:
            self._end()
            return
        self._filled += count
        frames = self._take_frames()
        if frames is None:
            self._end()
        elif frames:
            self._on_frames(self, frames)

    def _take_frames(self) -> list[bytes] | None:
        """The whole frames in the buffer; None if what is there makes no sense."""
        frames = []
        buffer, at, filled = self._buffer, 0, self._filled
        while filled - at >= LENGTH.size:
            (length,) = LENGTH.unpack_from(buffer, at)
            if length > self._largest:
                return None
            end = at + LENGTH.size + length
            if end > filled:
                break
            frames.append(bytes(buffer[at + LENGTH.size : end]))
            at = end
        buffer[: filled - at] = bytes(buffer[at:filled])
        self._filled = filled - at
        return frames

    def _end(self) -> None:
        with self._lock:
            self._drop_queue()
        self.dispose()
        self._on_end(self)

    # Sending

    def send(self, frames: Sequence[Sequence[bytes]]) -> None:
        """Frames, each of one part or more. In the thread of the vCPUs; never blocks."""
        with self._lock:
            if self._closed:
                self.dropped += len(frames)
                return
            for parts in frames:
                length = sum(map(len, parts))
                if self._queued + length > _QUEUE_LIMIT:
                    self.dropped += 1
                    continue
                self._queue.append(LENGTH.pack(length))
                self._queue.extend(parts)
                self._queued += LENGTH.size + length
            if self._writing:
                return
            self._write()
            if not self._queue:
                return
            self._writing = True
        self._loop.call_soon_threadsafe(self._wait_to_write)

    def _wait_to_write(self) -> None:
        if not self._closed:
            self._loop.add_writer(self._sock, self._write_more)

    def _write_more(self) -> None:
        """In the I/O thread: the socket takes more."""
        with self._lock:
            self._write()
            if self._queue:
                return
            self._writing = False
        self._loop.remove_writer(self._sock)

    def _write(self) -> None:
        """As much as the socket takes."""
        queue = self._queue
        while queue:
            try:
                sent = self._sock.sendmsg(list(islice(queue, _VECTOR)), (), _FLAGS)
            except BlockingIOError:
                return
            except OSError:  # the reader sees the end, too, and tells it
                self._drop_queue()
                return
            self._queued -= sent
            while queue and sent >= len(queue[0]):
                sent -= len(queue.popleft())
            if sent:
                queue[0] = memoryview(queue[0])[sent:]

    def _drop_queue(self) -> None:
        self._queue.clear()
        self._queued = 0
