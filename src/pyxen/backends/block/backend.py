# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end of a disk, as the xenstore sees it: ``BlockBackend``.

It offers what it can (``feature-*``, how large and how many the rings may be), the front end
answers with what it uses: the references of its rings' pages and their ports, in its directory
itself or, with several rings, in ``queue-N``. Then the back end tells the size. A disk may change
its size while it is used: the back end writes the new ``sectors`` and its state again, and the
front end looks.

Reference: ``public/io/blkif.h``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import ClassVar, Final

from pyxen.abi.io_blkif import VDISK_CDROM, VDISK_READONLY
from pyxen.backends.block.images import SECTOR, Image
from pyxen.backends.block.limits import Limits
from pyxen.backends.block.queue import Queue
from pyxen.backends.block.request import MAX_INDIRECT_SEGMENTS
from pyxen.backends.doors import Doors
from pyxen.backends.xenbus import Backend, BackendError

log = logging.getLogger("pyxen")

MAX_QUEUES: Final = 4
MAX_RING_PAGE_ORDER: Final = 4
_NATIVE_PROTOCOL: Final = "x86_64-abi"
_LOOK_AT_SIZE: Final = 1.0
"""Seconds from one look at the image's size to the next."""
_COUNTERS: Final = (
    *("reads", "writes", "flushes", "barriers", "discards", "refused", "errors"),
    *("bytes_read", "bytes_written", "bytes_discarded", "events", "handed_over"),
)


class BlockBackend(Backend):
    """Serves an image, which it closes at its end.

    ``persistent`` offers persistent grants. A front end that uses them copies all data to and from
    the pages that it keeps for that; an emulated one is slower by it than by mapping each time.
    """

    kind: ClassVar[str] = "vbd"

    def __init__(
        self,
        doors: Doors,
        backend_path: str,
        frontend_path: str,
        image: Image,
        limits: Limits | None = None,
        *,
        cdrom: bool = False,
        persistent: bool = False,
    ) -> None:
        super().__init__(doors, backend_path, frontend_path)
        self._persistent = persistent
        self.image = image
        self.limits = limits or Limits()
        self.counters = dict.fromkeys(_COUNTERS, 0)
        self._info = (VDISK_READONLY if image.readonly else 0) | (VDISK_CDROM if cdrom else 0)
        self._queues: list[Queue] = []
        self._told: set[str] = set()
        self._next_look = 0.0

    def advertise(self) -> dict[str, str]:
        image = self.image
        flushes = str(int(image.volatile and not image.readonly))
        nodes = {
            "feature-flush-cache": flushes,
            "feature-barrier": flushes,
            "feature-discard": str(int(image.discards)),
            "feature-persistent": str(int(self._persistent)),
            "feature-max-indirect-segments": str(MAX_INDIRECT_SEGMENTS),
            "max-ring-page-order": str(MAX_RING_PAGE_ORDER),
            "multi-queue-max-queues": str(MAX_QUEUES),
        }
        if image.discards:
            nodes["discard-granularity"] = str(image.sector_size)
            nodes["discard-alignment"] = "0"
            nodes["discard-secure"] = "0"
        return nodes

    def connect(self) -> None:
        protocol = self.read_frontend("protocol", _NATIVE_PROTOCOL)
        if protocol != _NATIVE_PROTOCOL:
            raise BackendError(f"the protocol {protocol!a} is not served, only {_NATIVE_PROTOCOL}")
        queues = self.read_frontend_int("multi-queue-num-queues", 1, 1, MAX_QUEUES)
        pages = 1 << self.read_frontend_int("ring-page-order", 0, 0, MAX_RING_PAGE_ORDER)
        wanted = self.read_frontend_int("feature-persistent", 0, 0, 1)  # whether offered or not
        persistent = self._persistent and bool(wanted)
        for number in range(queues):
            self._connect_queue(f"queue-{number}/" if queues > 1 else "", pages, persistent)
        self.image.size = self.image.measure()
        self.write(
            {
                **self._size_node(),
                "sector-size": str(self.image.sector_size),
                "physical-sector-size": str(self.image.sector_size),
                "info": str(self._info),
            }
        )

    def _connect_queue(self, folder: str, pages: int, persistent: bool) -> None:
        names = [f"ring-ref{number}" for number in range(pages)]
        if pages == 1 and not self.read_frontend(f"{folder}ring-ref0", ""):
            names = ["ring-ref"]
        references = [self.read_frontend_int(folder + name) for name in names]
        guest_port = self.read_frontend_int(f"{folder}event-channel")
        mappings = self.doors.grants.map_all(references)
        try:
            queue = Queue(self, mappings, persistent)
        except BackendError:
            self.doors.grants.unmap_all(mappings)
            raise
        self._queues.append(queue)
        queue.port = self.bind(guest_port, queue.on_event)

    def _size_node(self) -> dict[str, str]:
        return {"sectors": str(self.image.size // SECTOR)}

    def disconnect(self) -> None:
        for queue in self._queues:
            queue.close()
        self._queues.clear()

    def close(self) -> None:
        try:
            self.image.close()
        except OSError as error:
            log.error("%s: %s: its last writes may be lost", self.image.name, error.strerror)

    def statistics(self) -> dict[str, int]:
        return dict(self.counters)

    # What the queues need

    def follow_size(self) -> None:
        """Tell the front end when the image has another size. Looks once in a second."""
        now = monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_AT_SIZE
        size = self.image.measure()
        if size != self.image.size:
            log.info("%s: its size is %d bytes now", self.image.name, size)
            self.image.size = size
            self.write(self._size_node())
            self.announce()

    def guarded(self, work: Callable[[], None]) -> None:
        """Do it; a BackendError closes the device."""
        self.guard(work)()

    def tell_once(self, message: str) -> None:
        """Log what a front end can do without end."""
        kind = message.partition(":")[0]
        if kind not in self._told:
            self._told.add(kind)
            log.warning("%s: %s; more of this is not told", self.image.name, message)
