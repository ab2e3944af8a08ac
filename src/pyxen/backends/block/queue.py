# SPDX-License-Identifier: GPL-2.0-or-later
"""One ring of a disk at work: its requests, from the slot to the response.

At an event all waiting requests are taken and begun. What the image can do at once is done at once;
the rest is handed to other threads, which do nothing but wait for the disk, and whose results are
collected in the thread of the vCPUs. Responses are shown to the front end together, with one event.

*Grants.* The pages of a request are mapped while it is in progress. With *persistent* grants the
front end promises to use the same ones again and again: then the first mappings, up to a limit,
are kept. All are writable then, since a page may be read to another time.

*Order.* Requests may pass each other, except at a barrier: it begins when all before it have
ended, and nothing behind it begins until it has.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Final

from pyxen.abi.io_blkif import (
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
)
from pyxen.backends.block.request import BadRequest, Request
from pyxen.backends.block.ring import Ring
from pyxen.hypervisor.grants import GrantError
from pyxen.hypervisor.page_flags import PAGE_SIZE

if TYPE_CHECKING:
    from pyxen.backends.block.backend import BlockBackend
    from pyxen.hypervisor.events_back_end import BackEndPort
    from pyxen.hypervisor.grant_access import Mapping

log = logging.getLogger("pyxen")

_MAX_PERSISTENT: Final = 4096
"""Mappings that a ring keeps: a front end with more pages has the others mapped each time."""
_AT_ONCE: Final = 1 << 20
"""Bytes that are moved in the thread of the vCPUs at one event: the guest stands still then."""


class Queue:
    """``pages`` are the mapped pages of the ring."""

    def __init__(self, device: BlockBackend, pages: Sequence[Mapping], persistent: bool) -> None:
        self.port: BackEndPort | None = None
        self._device = device
        self._doors = device.doors
        self._grants = device.doors.grants
        self._image = device.image
        self._counters = device.counters
        self._limits = device.limits
        self._pages = pages
        self._ring = Ring([mapping.page for mapping in pages])
        self._persistent = persistent
        self._kept: dict[int, Mapping] = {}
        self._left_at_once = 0
        self._running: dict[Request, Future[None]] = {}
        self._ended: deque[Request] = deque()
        self._collecting = False
        self._barrier: Request | None = None
        self._resuming = False
        self._closed = False

    # Requests

    def on_event(self) -> None:
        """The front end has put in requests, or may have. Raises BackendError for a broken ring."""
        self._counters["events"] += 1
        self._device.follow_size()
        self._serve()

    def _serve(self) -> None:
        self._left_at_once = _AT_ONCE
        while not self._closed:
            for _ in range(self._ring.waiting()):
                if self._must_wait():
                    break
                self._begin(self._ring.take())
            else:
                if self._ring.ask_for_events():
                    continue
            break
        self._push()

    def _push(self) -> None:
        if self._ring.push() and self.port is not None:
            self.port.send()

    def _must_wait(self) -> bool:
        """No request may begin now; someone will call again."""
        if self._barrier is not None or self._resuming:
            return True
        delay = self._limits.wait()
        if delay == 0:
            return False
        self._resuming = True
        loop = self._doors.loop
        loop.call_soon_threadsafe(loop.call_later, delay, self._doors.post, self._resume)
        return True

    def _resume(self) -> None:
        self._resuming = False
        if not self._closed:
            self._device.guarded(self._serve)

    def _begin(self, entry: bytes) -> None:
        request = Request(entry)
        try:
            request.parse(entry, self._grants)
            request.check_place(self._image.size, self._image.sector_size)
            self._limits.spend(request.size)
            _BEGIN[request.operation](self, request)
        except BadRequest as error:
            self._refuse(request, error.status, str(error))
        except GrantError as error:
            self._refuse(request, BLKIF_RSP_ERROR, f"a grant is refused: {error}")

    def _refuse(self, request: Request, status: int, reason: str) -> None:
        request.status = status
        self._counters["refused"] += 1
        self._device.tell_once(f"request refused: {reason}")
        self._end(request)

    def _begin_read(self, request: Request) -> None:
        self._counters["reads"] += 1
        self._map(request, False)
        if not self._try_now(self._image.read_now, request):
            self._hand_over(request, self._read)

    def _begin_write(self, request: Request) -> None:
        self._counters["writes"] += 1
        self._check_writable()
        self._map(request, True)
        if not self._try_now(self._image.write_now, request):
            self._hand_over(request, self._write)

    def _begin_flush(self, request: Request) -> None:
        self._counters["flushes"] += 1
        if request.size:
            self._check_writable()
            self._map(request, True)
        self._hand_over(request, self._flush)

    def _begin_barrier(self, request: Request) -> None:
        self._counters["barriers"] += 1
        self._check_writable()
        self._map(request, True)
        self._barrier = request
        self._pass_barrier()

    def _begin_discard(self, request: Request) -> None:
        self._counters["discards"] += 1
        self._check_writable()
        if not self._image.discards:
            raise BadRequest(BLKIF_RSP_EOPNOTSUPP, "discard, which was not offered")
        self._hand_over(request, self._discard)

    def _check_writable(self) -> None:
        if self._image.readonly:
            raise BadRequest(BLKIF_RSP_ERROR, "writing to a read-only disk")

    def _pass_barrier(self) -> None:
        """Begin the barrier, if nothing is before it any more."""
        if self._barrier is not None and not self._running:
            self._hand_over(self._barrier, self._flush)

    # Pages

    def _map(self, request: Request, readonly: bool) -> None:
        """Make the buffers. Raises GrantError; what was mapped is given back with the response."""
        if not self._persistent:
            request.mapped = self._grants.map_segments(request.segments, readonly)
            request.buffers = request.mapped.buffers
            return
        for reference, start, end in request.segments:
            mapping = self._kept.get(reference)
            if mapping is None:
                mapping = self._grants.map(reference)
                if len(self._kept) < _MAX_PERSISTENT:
                    self._kept[reference] = mapping
                else:
                    request.mappings.append(mapping)
            page = mapping.page
            request.buffers.append(page if end - start == PAGE_SIZE else page[start:end])

    def _unmap(self, request: Request) -> None:
        """Nobody uses its buffers any more."""
        if request.mapped is not None:
            self._grants.unmap_segments(request.mapped)
        else:
            request.buffers.clear()
            self._grants.unmap_all(request.mappings)
            request.mappings.clear()

    # Doing it

    def _try_now(self, move: Callable[[list[memoryview], int], bool], request: Request) -> bool:
        """Read or write in this thread. Whether that was possible; a failure ends the request."""
        if request.size > self._left_at_once:
            return False
        try:
            if not move(request.buffers, request.offset):
                return False
        except OSError as error:
            self._note_failure(request, error)
        self._left_at_once -= request.size
        self._end(request)
        return True

    def _hand_over(self, request: Request, work: Callable[[Request], None]) -> None:
        """Do it in another thread."""
        self._counters["handed_over"] += 1
        self._running[request] = self._doors.executor.submit(self._work, work, request)

    def _work(self, work: Callable[[Request], None], request: Request) -> None:
        """In another thread."""
        try:
            work(request)
        except OSError as error:
            self._note_failure(request, error)
        self._ended.append(request)
        if not self._collecting:  # one post for all that end until it is done
            self._collecting = True
            self._doors.post(self._collect)

    def _note_failure(self, request: Request, error: OSError) -> None:
        unsupported = error.errno == errno.EOPNOTSUPP
        request.status = BLKIF_RSP_EOPNOTSUPP if unsupported else BLKIF_RSP_ERROR
        request.failure = f"{error.strerror or error} (at byte {request.offset})"

    def _read(self, request: Request) -> None:
        self._image.read(request.buffers, request.offset)

    def _write(self, request: Request) -> None:
        self._image.write(request.buffers, request.offset)

    def _flush(self, request: Request) -> None:
        """What comes with it is written behind all that was before, and is on the disk, too."""
        self._image.flush()
        if request.size:
            self._image.write(request.buffers, request.offset)
            self._image.flush()

    def _discard(self, request: Request) -> None:
        self._image.discard(request.offset, request.size)

    # The end

    def _collect(self) -> None:
        self._collecting = False
        if self._closed:
            return
        while self._ended:
            request = self._ended.popleft()
            del self._running[request]
            if request is self._barrier:
                self._barrier = None
            self._end(request)
        self._pass_barrier()
        self._device.guarded(self._serve)

    def _end(self, request: Request) -> None:
        """Give its pages back, and put the response in."""
        if request.failure:
            self._counters["errors"] += 1
            self._device.tell_once(f"input/output error: {request.failure}")
        elif request.status == 0 and request.size:
            name = _BYTES.get(request.operation, "bytes_written")
            self._counters[name] += request.size
        self._unmap(request)
        self._ring.respond(request.identity, request.operation, request.status)

    def close(self) -> None:
        """Wait for what is in progress, let go of all pages and the port, and answer nothing."""
        if self._closed:
            return
        self._closed = True
        if self.port is not None:
            self.port.close()
        for future in self._running.values():
            future.cancel()
        wait(self._running.values())
        for request in [*self._running, *([self._barrier] if self._barrier else [])]:
            self._unmap(request)
        self._grants.unmap_all(self._kept.values())
        self._grants.unmap_all(self._pages)


_BEGIN: Final[dict[int, Callable[[Queue, Request], None]]] = {
    BLKIF_OP_READ: Queue._begin_read,
    BLKIF_OP_WRITE: Queue._begin_write,
    BLKIF_OP_FLUSH_DISKCACHE: Queue._begin_flush,
    BLKIF_OP_WRITE_BARRIER: Queue._begin_barrier,
    BLKIF_OP_DISCARD: Queue._begin_discard,
}
_BYTES: Final = {BLKIF_OP_READ: "bytes_read", BLKIF_OP_DISCARD: "bytes_discarded"}
