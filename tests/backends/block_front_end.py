# SPDX-License-Identifier: GPL-2.0-or-later
"""A front end of a disk, as simple as it can be, and its back end on an image."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pyxen.abi.io_blkif import (
    BLKIF_OP_INDIRECT,
    BLKIF_REQUEST,
    BLKIF_REQUEST_DISCARD,
    BLKIF_REQUEST_INDIRECT,
    BLKIF_REQUEST_SEGMENT,
    BLKIF_RESPONSE,
    BLKIF_SRING,
)
from pyxen.backends.block import BlockBackend, Image, Limits, RawImage
from pyxen.backends.block.images import open_raw
from pyxen.testing import FakeDoors

BACKEND = "/local/domain/0/backend/vbd/1/51712"
FRONTEND = "/local/domain/1/device/vbd/51712"
ERROR = "/local/domain/0/error/backend/vbd/1/51712/error"
FIRST_RING_PAGE = 200
PAGE = 4096
SECTOR = 512
SLOTS = BLKIF_SRING.offsets["ring"]
SLOT = BLKIF_REQUEST.size
MASK = 0xFFFF_FFFF

Segment = tuple[int, int, int]
"""Reference, first and last sector."""


def image_file(folder: Path, size: int = 1 << 20) -> Path:
    """A file in which each sector says which one it is."""
    path = folder / "disk.img"
    path.write_bytes(b"".join(struct.pack("<Q", n) * 64 for n in range(size // SECTOR)))
    return path


def raw_image(path: Path, **options: Any) -> RawImage:
    """A file or a device as the image of a disk."""
    kept = {key: options[key] for key in ("readonly", "sector_size", "direct") if key in options}
    return RawImage(path, open_raw(path, **kept), **options)


class FrontRing:
    """The front end's side of one ring, on pages of the guest."""

    def __init__(self, fake: FakeDoors, first_page: int, pages: int, start: int) -> None:
        self.fake = fake
        self.pages = [fake.page(first_page + n) for n in range(pages)]
        self.refs = [fake.grant(first_page + n) for n in range(pages)]
        self.port = fake.alloc_port()
        self.slots = 1
        while self.slots * 2 * SLOT + SLOTS <= pages * PAGE:
            self.slots *= 2
        self.req_prod = start
        self.rsp_cons = start
        self.words = self.pages[0].cast("I")
        self.pages[0][:16] = struct.pack("4I", start, start + 1, start, start + 1)

    def put(self, entry: bytes) -> None:
        start = SLOTS + self.req_prod % self.slots * SLOT
        for place, byte in enumerate(entry, start):
            self.pages[place // PAGE][place % PAGE] = byte
        self.req_prod = (self.req_prod + 1) & MASK

    def show(self) -> None:
        """Let the back end see what was put in."""
        old, self.words[0] = self.words[0], self.req_prod
        if (self.req_prod - self.words[1]) & MASK < (self.req_prod - old) & MASK:
            self.fake.notify(self.port)

    def take(self) -> list[tuple[int, int, int]]:
        """The responses that have come: identity, operation, status."""
        found = []
        while self.rsp_cons != self.words[2]:
            start = SLOTS + self.rsp_cons % self.slots * SLOT
            places = range(start, start + BLKIF_RESPONSE.size)
            data = bytes(self.pages[place // PAGE][place % PAGE] for place in places)
            found.append(BLKIF_RESPONSE.unpack(data))
            self.rsp_cons = (self.rsp_cons + 1) & MASK
        self.words[3] = (self.rsp_cons + 1) & MASK
        return found


class FrontEnd:
    """``image`` is served, or else a RawImage of ``path`` with these options."""

    def __init__(
        self,
        fake: FakeDoors,
        path: Path | None = None,
        *,
        image: Image | None = None,
        limits: Limits | None = None,
        persistent: bool = True,
        **options: Any,
    ) -> None:
        self.fake = fake
        if image is None:
            assert path is not None
            image = raw_image(path, **options)
        self.image = image
        self.backend = BlockBackend(
            fake.doors, BACKEND, FRONTEND, image, limits, persistent=persistent
        )
        self.rings: list[FrontRing] = []
        self.next_identity = 1
        fake.store.write(f"{BACKEND}/state", "1")
        self.write(state="1")
        self.backend.machine.attach()
        fake.run()

    def write(self, folder: str = "", **nodes: object) -> None:
        for name, value in nodes.items():
            self.fake.store.write(f"{FRONTEND}/{folder}{name.replace('_', '-')}", str(value))

    def read(self, name: str) -> str:
        return self.fake.store.read(f"{BACKEND}/{name}").decode()

    def connect(
        self, queues: int = 1, order: int = 0, persistent: bool = False, start: int = 0
    ) -> None:
        self.rings = []
        for number in range(queues):
            first = FIRST_RING_PAGE + (number << order)
            self.rings.append(FrontRing(self.fake, first, 1 << order, start))
        for number, ring in enumerate(self.rings):
            folder = f"queue-{number}/" if queues > 1 else ""
            self.write(folder, event_channel=ring.port)
            for index, ref in enumerate(ring.refs):
                self.write(folder, **{f"ring-ref{index if order else ''}": ref})
        if queues > 1:
            self.write(multi_queue_num_queues=queues)
        if order:
            self.write(ring_page_order=order)
        self.write(feature_persistent=int(persistent), protocol="x86_64-abi", state=4)
        self.fake.run()

    @property
    def state(self) -> int:
        return int(self.read("state"))

    # Requests

    def entry(self, operation: int, sector: int, segments: Iterable[Segment] = ()) -> bytes:
        packed = [BLKIF_REQUEST_SEGMENT.pack(*each) for each in segments]
        identity = self._identity()
        return BLKIF_REQUEST.pack(operation, len(packed), 0, identity, sector, b"".join(packed))

    def discard_entry(self, sector: int, count: int, flag: int = 0) -> bytes:
        return BLKIF_REQUEST_DISCARD.pack(5, flag, 0, self._identity(), sector, count)

    def indirect_entry(
        self, operation: int, sector: int, segments: Iterable[Segment], page: int = 100
    ) -> bytes:
        """With its list of segments on this page and those behind it."""
        packed = b"".join(BLKIF_REQUEST_SEGMENT.pack(*each) for each in segments)
        refs = []
        for start in range(0, len(packed), PAGE):
            part = packed[start : start + PAGE]
            self.fake.page(page + len(refs))[: len(part)] = part
            refs.append(self.fake.grant(page + len(refs), readonly=True))
        refs += [0] * (8 - len(refs))
        count = len(packed) // BLKIF_REQUEST_SEGMENT.size
        return BLKIF_REQUEST_INDIRECT.pack(
            BLKIF_OP_INDIRECT, operation, count, self._identity(), sector, 0, *refs
        )

    def _identity(self) -> int:
        self.next_identity += 1
        return self.next_identity

    def do(self, *entries: bytes, ring: int = 0) -> list[int]:
        """Put these in, and wait for the statuses, in the same order."""
        front = self.rings[ring]
        for entry in entries:
            front.put(entry)
        front.show()
        got: dict[int, int] = {}

        def all_there() -> bool:
            for identity, _, status in front.take():
                assert identity not in got
                got[identity] = status
            return len(got) == len(entries)

        self.fake.run(until=all_there)
        return [got[struct.unpack_from("<Q", entry, 8)[0]] for entry in entries]

    def end(self) -> None:
        self.backend.machine.detach(force=True)
        self.fake.run()
