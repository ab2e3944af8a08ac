# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether all counts of a domain's frames are right.

``audit`` counts anew who uses which frame: allocations, page-table entries, pins, the tables that
the CPUs run on, descriptor tables, and what ``frame_holders`` hold. The result must be what
``PageTables`` has counted step by step. This is slow, and is for tests and for debugging.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from pyxen.hypervisor.descriptor_tables import mapped_pages
from pyxen.hypervisor.memory import (
    DOMAIN,
    END_XEN_SLOT,
    FIRST_XEN_SLOT,
    INVALID_M2P_ENTRY,
    SHARED,
)
from pyxen.hypervisor.page_flags import ENTRIES, FRAME, PAGE_SHIFT, PRESENT, RW
from pyxen.hypervisor.page_types import L1, L4, NONE, SEGMENT_DESCRIPTORS, WRITABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.memory import Memory


class FrameHolder(Protocol):
    """What uses frames of the domain otherwise than through page tables."""

    def held_frames(self) -> Iterator[tuple[int, int]]:
        """The mfn and the type of each use; NONE for a plain reference."""


def frame_holders(domain: Domain) -> list[FrameHolder]:
    """All of them."""
    return [domain, *domain.vcpus, domain.events, domain.grants]


def audit(domain: Domain) -> list[str]:
    """A line for each thing that is wrong."""
    counts = _Counts(domain)
    return [*counts.compare(), *_check_memory(domain)]


class _Counts:
    """What is counted anew: ``refs``, ``types`` (as mfn and type), ``linear``."""

    def __init__(self, domain: Domain) -> None:
        self.memory = domain.memory
        self.tables = domain.pagetables
        self.refs: Counter[int] = Counter()
        self.types: Counter[tuple[int, int]] = Counter()
        self.linear: Counter[int] = Counter()
        self.frames = [
            *_shared_frames(self.memory),
            *range(self.memory.ram_mfn, self.memory.frames),
        ]
        self._add_frames()
        self._add_uses(domain)
        for mfn in self.frames:
            kind = self.tables.types[mfn]
            if self.tables.type_counts[mfn] and L1 <= kind <= L4:
                self._add_table(mfn, kind)

    def _use(self, mfn: int, kind: int) -> None:
        self.refs[mfn] += 1
        if kind != NONE:
            self.types[mfn, kind] += 1

    def _add_frames(self) -> None:
        for mfn in self.frames:
            if self.memory.owner[mfn] == SHARED:
                self._use(mfn, WRITABLE)
            elif self.memory.allocated[mfn]:
                self._use(mfn, NONE)

    def _add_uses(self, domain: Domain) -> None:
        for mfn in self.frames:
            if self.tables.pinned[mfn]:
                self._use(mfn, self.tables.types[mfn])
        for vcpu in domain.vcpus:
            for mfn in (vcpu.kernel_table_mfn, vcpu.user_table_mfn):
                if mfn:
                    self._use(mfn, L4)
            for _, mfn in mapped_pages(self.memory, vcpu.index):
                self._use(mfn, SEGMENT_DESCRIPTORS)
        for holder in frame_holders(domain):
            for mfn, kind in holder.held_frames():
                self._use(mfn, kind)

    def _add_table(self, table: int, level: int) -> None:
        first = table * ENTRIES
        for index, entry in enumerate(self.memory.words[first : first + ENTRIES].tolist()):
            if not entry & PRESENT or (level == L4 and FIRST_XEN_SLOT <= index < END_XEN_SLOT):
                continue
            mfn = (entry & FRAME) >> PAGE_SHIFT
            if level == L1:
                self._use(mfn, WRITABLE if entry & RW else NONE)
            elif mfn == table:
                continue
            elif mfn < self.memory.frames and self.tables.types[mfn] == level:
                self._use(mfn, level)
                self.linear[table] += 1
                self.linear[mfn] -= 1
            else:
                self._use(mfn, level - 1)

    def compare(self) -> Iterator[str]:
        tables = self.tables
        mfns = {mfn for mfn in self.frames if tables.refs[mfn] or tables.type_counts[mfn]}
        mfns |= set(self.refs)
        kinds: dict[int, dict[int, int]] = {}
        for (mfn, kind), count in self.types.items():
            kinds.setdefault(mfn, {})[kind] = count
        for mfn in sorted(mfns):
            if not self.memory.is_owned(mfn):
                yield f"frame {mfn:#x} is used, but not the domain's"
                continue
            if tables.refs[mfn] != self.refs[mfn]:
                yield f"frame {mfn:#x} has {tables.refs[mfn]} references, not {self.refs[mfn]}"
            count = tables.type_counts[mfn]
            counted = {tables.types[mfn]: count} if count else {}
            if kinds.get(mfn, {}) != counted:
                yield f"frame {mfn:#x} has type references {counted}, not {kinds.get(mfn, {})}"
            if tables.linear_counts[mfn] != self.linear[mfn]:
                yield (
                    f"frame {mfn:#x} has a linear count of {tables.linear_counts[mfn]}, "
                    f"not {self.linear[mfn]}"
                )


def _shared_frames(memory: Memory) -> Iterator[int]:
    mfn = memory.owner.find(SHARED)
    while mfn >= 0:
        yield mfn
        mfn = memory.owner.find(SHARED, mfn + 1)


def _check_memory(domain: Domain) -> Iterator[str]:
    """Who owns what, what is free, and the M2P."""
    memory = domain.memory
    owned = memory.owner.count(DOMAIN)
    if memory.nr_pages != owned:
        yield f"the domain has {owned} frames, not {memory.nr_pages}"
    for mfn in memory.free_frames():
        if memory.refs[mfn] or memory.allocated[mfn]:
            yield f"frame {mfn:#x} is free and somebody refers to it"
        if memory.m2p[mfn] != INVALID_M2P_ENTRY:
            yield f"frame {mfn:#x} is free and has a pfn"
