# SPDX-License-Identifier: GPL-2.0-or-later
"""The paravirtual MMU: which frames are page tables, and every change of their entries.

A PV guest builds its own page tables, which the CPU uses directly, so Xen must see to it that they
map nothing that the guest may not have. It gives each frame a *type*: a frame in use as an L1 to
L4 table is mapped read-only by the guest, and its entries change only through Xen (``mmu_update``
…), which checks each new entry. A frame gets its type when it is *pinned*, when a CPU's base
pointer is set to it, or when an entry of a higher table comes to point at it; all entries are
validated then, recursively. The type count says how many such uses there are; the type is lost
with the last one.

All writes to page tables pass ``update``, and all changes of types ``_get`` and ``_put``: an
engine that shadows the tables is told there. The arrays are indexed by mfn; entries are plain
integers.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from pyxen.abi.errno import EBUSY, EFAULT, EINVAL, ENOSYS, EPERM
from pyxen.abi.xen import (
    MMU_MACHPHYS_UPDATE,
    MMU_NORMAL_PT_UPDATE,
    MMU_PT_UPDATE_NO_TRANSLATE,
    MMU_PT_UPDATE_PRESERVE_AD,
)
from pyxen.errors import XenError
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.guest_access import NOT_MAPPED, find_words
from pyxen.hypervisor.memory import DOMAIN, END_XEN_SLOT, FIRST_XEN_SLOT
from pyxen.hypervisor.page_flags import (
    ACCESSED,
    DIRTY,
    ENTRIES,
    FRAME,
    PAGE_SHIFT,
    PAGE_SIZE,
    PRESENT,
    PSE,
)

if TYPE_CHECKING:
    from pyxen.hypervisor.memory import Memory
    from pyxen.hypervisor.vcpu import Vcpu

WRITABLE: Final = 0
"""Not a table. Types 1 to 4 are the levels of tables."""

L1: Final = 1
L4: Final = 4
_COMMAND: Final = 7
_ADDRESS: Final = 0xFFFFFFFFFFFFFFFF
_OFFSET: Final = 0xFFF
_REQUEST: Final = 16


class PageTables:
    """The types of a domain's frames. ``types[mfn]`` is a level or WRITABLE."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.types = bytearray(memory.frames)
        self.pinned = bytearray(memory.frames)
        self.counts = array("I", bytes(4 * memory.frames))
        self.done = 0
        self._words = memory.words
        self._m2p = memory.m2p
        self._owner = memory.owner
        self._frames = memory.frames

    # Entries

    def apply_batch(self, vcpu: Vcpu, requests: int, count: int) -> None:
        """Carry out the requests of ``mmu_update`` at a linear address; ``done`` counts them.

        Raises EFAULT at the first that cannot be read, and what ``apply`` raises. Ends early when
        the domain stops.
        """
        self.done = 0
        while self.done < count:
            address = (requests + _REQUEST * self.done) & _ADDRESS
            # Not beyond the page: those before one that cannot be read count.
            chunk = max(1, (PAGE_SIZE - (address & _OFFSET)) // _REQUEST)
            if chunk > count - self.done:
                chunk = count - self.done
            first = find_words(vcpu, address, 2 * chunk)
            if first == NOT_MAPPED:
                raise XenError(EFAULT)
            self.apply(first, chunk)
            if self.done < count and vcpu.domain.must_leave():
                return

    def apply(self, first: int, count: int) -> None:
        """Carry out requests of ``mmu_update`` that lie at this position of ``memory.words``.

        Adds to ``done`` for each. Raises what ``update`` does, and ENOSYS for an unknown command.
        """
        words = self._words
        for number in range(count):
            pointer = words[first + 2 * number]
            value = words[first + 2 * number + 1]
            command = pointer & _COMMAND
            if command in (MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE):
                self.update(pointer & ~_COMMAND & _ADDRESS, value, False)
            elif command == MMU_PT_UPDATE_PRESERVE_AD:
                self.update(pointer & ~_COMMAND & _ADDRESS, value, True)
            elif command == MMU_MACHPHYS_UPDATE:
                mfn = pointer >> PAGE_SHIFT
                if mfn >= self._frames or self._owner[mfn] != DOMAIN:
                    raise XenError(EINVAL)
                self._m2p[mfn] = value
            else:
                raise XenError(ENOSYS)
            self.done += 1

    def update(self, address: int, value: int, preserve_ad: bool) -> None:
        """Change the entry at a machine address, as the type of its frame demands.

        ``preserve_ad`` keeps the accessed and dirty bits that the CPU has set meanwhile. Raises
        EINVAL for a frame that is not the domain's and for an entry that it may not have; in an L1
        table, EBUSY for an entry that maps a frame of Xen's and EPERM for one beyond memory.
        """
        mfn = address >> PAGE_SHIFT
        if mfn >= self._frames or self._owner[mfn] != DOMAIN or address & 7:
            raise XenError(EINVAL)
        level = self.types[mfn]
        index = address >> 3
        if level == L1:
            if value & PRESENT:
                target = (value & FRAME) >> PAGE_SHIFT
                if target >= self._frames or not self._owner[target]:
                    raise XenError(EPERM if target >= self._frames else EBUSY)
                if preserve_ad:
                    value |= self._words[index] & (ACCESSED | DIRTY)
            self._words[index] = value
        elif level == WRITABLE:
            self._words[index] = value
        else:
            self._update_upper(index, value, level, preserve_ad)

    def _update_upper(self, index: int, value: int, level: int, preserve_ad: bool) -> None:
        if level == L4 and FIRST_XEN_SLOT <= index % ENTRIES < END_XEN_SLOT:
            raise XenError(EINVAL)
        old = self._words[index]
        if value & PRESENT:
            if preserve_ad:
                value |= old & (ACCESSED | DIRTY)
            if old & PRESENT and (old ^ value) & FRAME == 0 and not value & PSE:
                self._words[index] = value  # other flags, the same table
                return
            self._get_child(value, level)
        self._words[index] = value
        if old & PRESENT:
            self._put((old & FRAME) >> PAGE_SHIFT)

    def _get_child(self, entry: int, level: int) -> None:
        """Take a use of the table that an entry of a table of ``level`` points at."""
        if entry & PSE:
            raise XenError(EINVAL)
        self._get((entry & FRAME) >> PAGE_SHIFT, level - 1)

    # Types

    def _get(self, mfn: int, level: int) -> None:
        """Use a frame as a table of this level, validating it if it is none yet."""
        if mfn >= self._frames or self._owner[mfn] != DOMAIN:
            raise XenError(EINVAL)
        if self.counts[mfn]:
            if self.types[mfn] != level:
                raise XenError(EINVAL)
            self.counts[mfn] += 1
            return
        self.types[mfn] = level
        self.counts[mfn] = 1
        try:
            self._validate(mfn, level)
        except XenError:
            self.types[mfn] = WRITABLE
            self.counts[mfn] = 0
            raise

    def _validate(self, mfn: int, level: int) -> None:
        words = self._words
        first = mfn * ENTRIES
        if level == L1:
            frames = self._frames
            owner = self._owner
            for index in range(ENTRIES):
                entry = words[first + index]
                if entry & PRESENT:
                    target = (entry & FRAME) >> PAGE_SHIFT
                    if target >= frames or not owner[target]:
                        raise XenError(EINVAL)
            return
        taken = 0
        try:
            for index in range(ENTRIES):
                entry = words[first + index]
                if entry & PRESENT and not (level == L4 and FIRST_XEN_SLOT <= index < END_XEN_SLOT):
                    self._get_child(entry, level)
                taken = index + 1
        except XenError:
            self._put_children(mfn, level, taken)
            raise
        if level == L4:
            self.memory.install_xen_slots(mfn)

    def _put(self, mfn: int) -> None:
        """Give up one use of a table.

        Raises DomainCrash if there is none: the guest has changed a table behind our back.
        """
        if mfn >= self._frames or not self.counts[mfn]:
            raise DomainCrash(f"frame {mfn:#x} is no page table, but an entry says so")
        self.counts[mfn] -= 1
        if self.counts[mfn]:
            return
        level = self.types[mfn]
        self.types[mfn] = WRITABLE
        if level != L1:
            self._put_children(mfn, level, ENTRIES)

    def _put_children(self, mfn: int, level: int, end: int) -> None:
        """Give up the tables that the first ``end`` entries of a table point at."""
        for index in range(end):
            entry = self._words[mfn * ENTRIES + index]
            if entry & PRESENT and not (level == L4 and FIRST_XEN_SLOT <= index < END_XEN_SLOT):
                self._put((entry & FRAME) >> PAGE_SHIFT)

    # Uses from outside the tables

    def pin(self, mfn: int, level: int) -> None:
        """Keep a frame as a table of this level. Raises EINVAL, also when it is pinned already."""
        if mfn >= self._frames or self.pinned[mfn]:
            raise XenError(EINVAL)
        self._get(mfn, level)
        self.pinned[mfn] = 1

    def unpin(self, mfn: int) -> None:
        """Undo a pin. Raises EINVAL for a frame that is not pinned."""
        if mfn >= self._frames or not self.pinned[mfn]:
            raise XenError(EINVAL)
        self.pinned[mfn] = 0
        self._put(mfn)

    def use_as_base(self, mfn: int) -> None:
        """A CPU is going to run on this L4 table. Raises EINVAL."""
        self._get(mfn, L4)

    def leave_base(self, mfn: int) -> None:
        """A CPU no longer runs on this L4 table."""
        self._put(mfn)

    def check_free(self, mfn: int) -> None:
        """Raises EBUSY while the frame is a table, so that it cannot be given back."""
        if self.counts[mfn]:
            raise XenError(EBUSY)

    def find_l1_entry(self, table: int, address: int) -> int:
        """Machine address of the L1 entry that maps a linear address; 0 if there is no L1 table."""
        words = self._words
        try:
            for shift in (39, 30, 21):
                entry = words[(table >> 3) + (address >> shift & 511)]
                if not entry & PRESENT or entry & PSE:
                    return 0
                table = entry & FRAME
        except IndexError:
            return 0
        return int(table + (address >> 12 & 511) * 8)
