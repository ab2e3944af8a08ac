# SPDX-License-Identifier: GPL-2.0-or-later
"""Bits of an x86-64 page-table entry, and the arithmetic of frames."""

from __future__ import annotations

from typing import Final

PAGE_SHIFT: Final = 12
PAGE_SIZE: Final = 4096

PRESENT: Final = 0x001
RW: Final = 0x002
USER: Final = 0x004
PWT: Final = 0x008
PCD: Final = 0x010
ACCESSED: Final = 0x020
DIRTY: Final = 0x040
PSE: Final = 0x080
"""A large page; in an L1 entry this bit is PAT, a part of the cache attributes."""
GLOBAL: Final = 0x100
NX: Final = 1 << 63

FRAME: Final = 0x000FFFFFFFFFF000
"""The machine address in an entry."""
ENTRIES: Final = 512
ADDRESS_MASK: Final = 0xFFFFFFFFFFFFFFFF
