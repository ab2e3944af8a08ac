# SPDX-License-Identifier: GPL-2.0-or-later
"""Types of frames.

A frame has one type at a time, and a count of the uses that rely on it; only at a count of zero can
the type change. So a frame that is a page table, or holds descriptors, has no writable mapping, and
what was found harmless in it when it got its type stays so.
"""

from __future__ import annotations

from typing import Final

NONE: Final = 0
"""Nobody relies on a type."""

L1: Final = 1
L2: Final = 2
L3: Final = 3
L4: Final = 4
"""L1 to L4: a page table of this level."""

SEGMENT_DESCRIPTORS: Final = 5
"""Part of a GDT or LDT."""

WRITABLE: Final = 6
"""Mapped writable somewhere, or written by Xen itself."""
