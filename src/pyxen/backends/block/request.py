# SPDX-License-Identifier: GPL-2.0-or-later
"""Block requests: what a slot of the ring asks for.

A request to read or write names the first sector on the disk and up to eleven segments: a granted
page each, with the first and the last of its sectors. Sectors are always of 512 bytes here, also
where those of the disk are larger; then all must begin and end with one of the disk's. An
*indirect* request is the same with its segments in granted pages, 512 in each. A flush or a
barrier may write as well.

Nothing of it is believed: what does not fit the disk or a page is a BadRequest, which the front end
gets as an error.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from pyxen.abi.io_blkif import (
    BLKIF_MAX_SEGMENTS_PER_REQUEST,
    BLKIF_OP_DISCARD,
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_INDIRECT,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_REQUEST,
    BLKIF_REQUEST_DISCARD,
    BLKIF_REQUEST_INDIRECT,
    BLKIF_REQUEST_SEGMENT,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
)
from pyxen.backends.block.images import SECTOR
from pyxen.hypervisor.page_flags import PAGE_SIZE

if TYPE_CHECKING:
    from pyxen.hypervisor.grant_access import GrantAccess, MappedSegments, Mapping

MAX_INDIRECT_SEGMENTS: Final = 256
"""More than eleven need an indirect request; this many are 1 MiB."""

_SECTORS_PER_PAGE: Final = PAGE_SIZE // SECTOR
_SEGMENTS: Final = BLKIF_REQUEST.offsets["seg"]
_SEGMENT_SIZE: Final = BLKIF_REQUEST_SEGMENT.size
_SEGMENTS_PER_PAGE: Final = PAGE_SIZE // _SEGMENT_SIZE
_HEAD: Final = struct.Struct("<BBHxxxxQQ")
"""A request without its segments."""
_MAY_BE_EMPTY: Final = (BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_WRITE_BARRIER)


class BadRequest(Exception):
    """The front end is to get an error. The response's ``status`` is a BLKIF_RSP_*, below 0."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Request:
    """One request. ``offset`` and ``size`` are its bytes on the disk.

    ``segments`` has (reference, first byte, end) for each page. ``buffers`` are the views of the
    pages in use; ``mapped``, or ``mappings``, the grants to give up at its end. ``failure`` says
    why the disk failed.
    """

    __slots__ = (
        "buffers",
        "failure",
        "identity",
        "mapped",
        "mappings",
        "offset",
        "operation",
        "segments",
        "size",
        "status",
    )

    def __init__(self, entry: bytes) -> None:
        """What the response needs, which is the same in all forms. ``parse`` is next."""
        operation, indirect_operation, _, self.identity, sector = _HEAD.unpack_from(entry)
        self.operation: int = operation
        if operation == BLKIF_OP_INDIRECT:
            self.operation = indirect_operation
        self.offset: int = sector * SECTOR
        self.size = 0
        self.status = 0
        self.failure = ""
        self.segments: list[tuple[int, int, int]] = []
        self.buffers: list[memoryview] = []
        self.mapped: MappedSegments | None = None
        self.mappings: list[Mapping] = []

    def parse(self, entry: bytes, grants: GrantAccess) -> None:
        """Read and check the rest. Raises BadRequest, and GrantError for the pages of segments."""
        form, count = entry[0], entry[1]
        if form <= BLKIF_OP_FLUSH_DISKCACHE:
            if count > BLKIF_MAX_SEGMENTS_PER_REQUEST:
                raise BadRequest(BLKIF_RSP_ERROR, f"{count} segments")
            segments = entry[_SEGMENTS : _SEGMENTS + count * _SEGMENT_SIZE]
            self._take_segments(segments)
        elif form == BLKIF_OP_INDIRECT:
            if self.operation not in (BLKIF_OP_READ, BLKIF_OP_WRITE):
                raise BadRequest(BLKIF_RSP_ERROR, f"indirect operation {self.operation}")
            self._take_segments(_indirect_segments(entry, grants))
        elif form == BLKIF_OP_DISCARD:
            *_, sectors = BLKIF_REQUEST_DISCARD.unpack_from(entry)
            self.size = sectors * SECTOR
        else:
            raise BadRequest(BLKIF_RSP_EOPNOTSUPP, f"operation {form}")

    def _take_segments(self, segments: bytes) -> None:
        total = 0
        for reference, first, last in BLKIF_REQUEST_SEGMENT.iter_unpack(segments):
            if first > last or last >= _SECTORS_PER_PAGE:
                raise BadRequest(BLKIF_RSP_ERROR, f"sectors {first} to {last} of a page")
            self.segments.append((reference, first * SECTOR, (last + 1) * SECTOR))
            total += (last + 1 - first) * SECTOR
        if not total and self.operation not in _MAY_BE_EMPTY:
            raise BadRequest(BLKIF_RSP_ERROR, "no segments")
        self.size = total

    def check_place(self, disk_size: int, sector_size: int) -> None:
        """Raises BadRequest if it does not fit the disk."""
        if not self.size and self.operation in _MAY_BE_EMPTY:
            return
        if self.offset + self.size > disk_size:
            raise BadRequest(
                BLKIF_RSP_ERROR, f"{self.size} bytes at {self.offset}, of {disk_size} there are"
            )
        if (self.offset | self.size) % sector_size:
            raise BadRequest(BLKIF_RSP_ERROR, f"{self.size} bytes at {self.offset} are no sectors")


def _indirect_segments(entry: bytes, grants: GrantAccess) -> bytes:
    """Those of an indirect request, copied from its pages."""
    _, _, count, _, _, _, *references = BLKIF_REQUEST_INDIRECT.unpack_from(entry)
    if not 1 <= count <= MAX_INDIRECT_SEGMENTS:
        raise BadRequest(BLKIF_RSP_ERROR, f"{count} indirect segments")
    segments = b""
    for reference in references[: -(-count // _SEGMENTS_PER_PAGE)]:
        here = min(count, _SEGMENTS_PER_PAGE)
        segments += grants.copy_from(reference, 0, here * _SEGMENT_SIZE)
        count -= here
    return segments
