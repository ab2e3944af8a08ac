# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring of block devices (public/io/blkif.h, public/io/ring.h).

A block device is driven by one or more rings. Each is a shared page, or several, with four indices
and then an array of slots: the front end puts requests in, and the back end puts each response into
a slot whose request it has taken. Data does not go through the ring: a request names grants of
pages, and which sectors of each page to transfer. More than eleven pages need an indirect request,
whose list of segments is in granted pages itself.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.layout import Layout
from pyxen.abi.names import names_of

BLKIF_OP_READ: Final = 0
BLKIF_OP_WRITE: Final = 1
BLKIF_OP_WRITE_BARRIER: Final = 2
BLKIF_OP_FLUSH_DISKCACHE: Final = 3
BLKIF_OP_RESERVED_1: Final = 4
BLKIF_OP_DISCARD: Final = 5
BLKIF_OP_INDIRECT: Final = 6

BLKIF_OP_NAMES: Final[dict[int, str]] = names_of(globals(), "BLKIF_OP_")

BLKIF_MAX_SEGMENTS_PER_REQUEST: Final = 11
BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST: Final = 8

# blkif_request_discard.flag.
BLKIF_DISCARD_SECURE: Final = 1 << 0

BLKIF_RSP_EOPNOTSUPP: Final = -2
BLKIF_RSP_ERROR: Final = -1
BLKIF_RSP_OKAY: Final = 0

# The node "info" of the back end.
VDISK_CDROM: Final = 0x1
VDISK_REMOVABLE: Final = 0x2
VDISK_READONLY: Final = 0x4

# Sectors of a page, first to last and both included, whatever the size of the device's sectors.
BLKIF_REQUEST_SEGMENT: Final = Layout(
    "struct blkif_request_segment",
    ("gref", "I"),
    ("first_sect", "B"),
    ("last_sect", "B"),
)
BLKIF_REQUEST: Final = Layout(
    "blkif_request_t",
    ("operation", "B"),
    ("nr_segments", "B"),
    ("handle", "H"),
    ("id", "Q"),
    ("sector_number", "Q"),
    ("seg", (BLKIF_REQUEST_SEGMENT, BLKIF_MAX_SEGMENTS_PER_REQUEST)),
)
BLKIF_REQUEST_DISCARD: Final = Layout(
    "blkif_request_discard_t",
    ("operation", "B"),
    ("flag", "B"),
    ("handle", "H"),
    ("id", "Q"),
    ("sector_number", "Q"),
    ("nr_sectors", "Q"),
)
BLKIF_REQUEST_INDIRECT: Final = Layout(
    "blkif_request_indirect_t",
    ("operation", "B"),
    ("indirect_op", "B"),
    ("nr_segments", "H"),
    ("id", "Q"),
    ("sector_number", "Q"),
    ("handle", "H"),
    ("indirect_grefs", f"{BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST}I"),
    size=64,
)
BLKIF_RESPONSE: Final = Layout(
    "blkif_response_t",
    ("id", "Q"),
    ("operation", "B"),
    ("status", "h"),
    size=16,
)

# The ring begins so; `ring` is its first slot, a request or a response.
BLKIF_SRING: Final = Layout(
    "struct blkif_sring",
    ("req_prod", "I"),
    ("req_event", "I"),
    ("rsp_prod", "I"),
    ("rsp_event", "I"),
    ("pvt.pvt_pad", "4s"),
    ("__pad", "44s"),
    ("ring", (BLKIF_REQUEST, 1)),
)
