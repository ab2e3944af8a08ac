# SPDX-License-Identifier: GPL-2.0-or-later
"""The paravirtual MMU: references to frames, their types, and every change of a page-table entry.

A PV guest builds its own page tables, which the CPU uses directly, so Xen must see to it that they
map nothing that the guest may not have. Two counts for each frame do that. *References* say how
often a frame is used at all: by its allocation, by each present entry of a page table that points
at it, by a pin, by a CPU that runs on it. *Type references* say how often it is used as what its
type says: as a table of one level, as a page of descriptors, or as a page that somebody can write.
A frame changes its type only when it has no type reference. Hence a table is never mapped writable,
and its entries change only through Xen (``mmu_update`` …), which checks each.

A frame is *validated* when it becomes a table, that is, when it gets its first type reference as
one: by a pin, as a CPU's base, or by an entry of a table above it. All its entries are then checked
as if each were written now, and each takes what it needs: an L1 entry a reference to the frame that
it maps, and a type reference as WRITABLE if it allows writing; an entry of a higher table a
reference to the table below and a type reference as one of that level, which may validate that one,
too. When the last type reference goes, the entries give up what they hold.

A table may also hold *linear* entries, read-only ones that point at a table of its own level (often
at itself), through which a guest sees its tables as an array in memory. One that points at its own
table counts nothing. For others, a table either has linear entries or is used by such, not both, so
that no chain of them is longer than one (``linear_counts``: above zero it has some, below it is
used).

All writes to page tables pass ``_write``, and all changes of types ``_get_type`` and
``_put_type``: an engine that shadows the tables is told there. The arrays are indexed by mfn;
entries are plain integers. Methods whose name begins with an underscore return an error number, 0
for success: they are C functions when compiled, and an exception would cost more than the work.
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
from pyxen.hypervisor.descriptor_tables import check_descriptors
from pyxen.hypervisor.guest_access import NOT_MAPPED, find_words
from pyxen.hypervisor.memory import DOMAIN, END_XEN_SLOT, FIRST_XEN_SLOT, IO, SHARED
from pyxen.hypervisor.page_flags import (
    ACCESSED,
    DIRTY,
    ENTRIES,
    FRAME,
    GLOBAL,
    PAGE_SHIFT,
    PAGE_SIZE,
    PCD,
    PRESENT,
    PSE,
    PWT,
    RW,
    USER,
)
from pyxen.hypervisor.page_types import L1, L4, NONE, SEGMENT_DESCRIPTORS, WRITABLE

if TYPE_CHECKING:
    from pyxen.hypervisor.memory import Memory
    from pyxen.hypervisor.vcpu import Vcpu

# Bits that a present entry must not have. Those that the CPU ignores are the guest's; cache
# attributes are for domains with devices.
_L1_DISALLOWED: Final = PWT | PCD | PSE
_TABLE_DISALLOWED: Final = PWT | PCD | PSE | GLOBAL

# An entry that differs in no other bits than the rest refers to the same thing in the same way.
_COMPARED: Final = FRAME | PRESENT | RW | PWT | PCD | PSE

# What Xen adds to entries that point at tables: only the last level decides whether user mode has
# access.
_TABLE_FLAGS: Final = USER
_L4_FLAGS: Final = USER | ACCESSED

_INVALID_MFN: Final = FRAME >> PAGE_SHIFT
_NO_TABLE: Final = 0xFFFFFFFFFFFFFFFF
_MAX_COUNT: Final = 0xFFFFFFFF
_MAX_LINEAR: Final = 0x7FFF

_COMMAND: Final = 7
_ADDRESS: Final = 0xFFFFFFFFFFFFFFFF
_OFFSET: Final = 0xFFF
_REQUEST: Final = 16
_STRIDE: Final = 16
"""So many requests are done between two looks at what else waits."""


class PageTables:
    """References, types and page tables of a domain's frames.

    ``refs``, ``types`` and ``type_counts`` are those of ``Memory``; ``pinned[mfn]`` is 1 for a
    table that the guest has pinned, which is one more reference and type reference.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.refs = memory.refs
        self.types = memory.types
        self.type_counts = memory.type_counts
        self.pinned = bytearray(memory.frames)
        self.linear_counts = array("h", bytes(2 * memory.frames))
        self.done = 0
        self._table_changed = False
        self._words = memory.words
        self._m2p = memory.m2p
        self._owner = memory.owner
        self._stamps = memory.stamps
        self._clock = memory.flush_clock
        self._frames = memory.frames

    # References

    def get_page(self, mfn: int) -> None:
        """Take a reference to a frame of the domain. Raises EINVAL if it is not the domain's."""
        if not self._get_page(mfn):
            raise XenError(EINVAL)

    def put_page(self, mfn: int) -> None:
        """Give up a reference. With the last one the frame is free."""
        self._put_page(mfn)

    def get_page_and_type(self, mfn: int, kind: int) -> None:
        """Take a reference to a frame of the domain, and one that relies on its type.

        If the type is new, the content is checked. Raises EINVAL if the frame is not the domain's
        or in use as something else, and what is wrong with the content.
        """
        error = self._get_page_and_type(mfn, kind)
        if error:
            raise XenError(error)

    def put_page_and_type(self, mfn: int) -> None:
        """Give up both."""
        self._put_type(mfn, _NO_TABLE)
        self._put_page(mfn)

    def pin(self, mfn: int, level: int) -> None:
        """Keep a frame as a table of this level.

        Raises EINVAL if it is pinned already, and what ``get_page_and_type`` does.
        """
        self.get_page_and_type(mfn, level)
        if self.pinned[mfn]:
            self.put_page_and_type(mfn)
            raise XenError(EINVAL)
        self.pinned[mfn] = 1

    def unpin(self, mfn: int) -> None:
        """Undo a pin. Raises EINVAL for a frame that is not pinned."""
        if mfn >= self._frames or not self.pinned[mfn]:
            raise XenError(EINVAL)
        self.pinned[mfn] = 0
        self.put_page_and_type(mfn)

    def unpin_all(self) -> None:
        """The domain is gone."""
        for mfn in range(self.memory.ram_mfn, self._frames):
            if self.pinned[mfn]:
                self.unpin(mfn)

    def release_all(self) -> None:
        """Release all frames of the domain."""
        for mfn in range(self.memory.ram_mfn, self._frames):
            if self._owner[mfn] == DOMAIN:
                self.memory.release(mfn)

    def _get_page(self, mfn: int) -> bool:
        if mfn >= self._frames or (self._owner[mfn] != DOMAIN and self._owner[mfn] != SHARED):
            return False
        if self.refs[mfn] == _MAX_COUNT:
            return False
        self.refs[mfn] += 1
        return True

    def _put_page(self, mfn: int) -> int:
        if not self.refs[mfn]:
            raise DomainCrash(f"frame {mfn:#x} has no reference to give up")
        self.refs[mfn] -= 1
        if not self.refs[mfn]:
            self.memory.free(mfn)
        return 0

    def _get_page_and_type(self, mfn: int, kind: int) -> int:
        if not self._get_page(mfn):
            return EINVAL
        error = self._get_type(mfn, kind)
        if error:
            self._put_page(mfn)
        return error

    # Types

    def _get_type(self, mfn: int, kind: int) -> int:
        """Take a type reference; the caller has a reference to the frame."""
        count = self.type_counts[mfn]
        if count:
            if self.types[mfn] != kind or count == _MAX_COUNT:
                return EINVAL
            self.type_counts[mfn] = count + 1
            return 0
        self.types[mfn] = kind
        self.type_counts[mfn] = 1
        if kind == WRITABLE:
            return 0
        if self._stamps[mfn] >= self._clock[1] or self._stamps[mfn] >= self._clock[2]:
            self.memory.flush_stale(mfn)
        if kind == L1:
            error = self._validate_l1(mfn)
        elif kind == SEGMENT_DESCRIPTORS:
            error = 0 if check_descriptors(self._words, mfn) else EINVAL
        else:
            error = self._validate_table(mfn, kind)
        if error:
            self.types[mfn] = NONE
            self.type_counts[mfn] = 0
        return error

    def _put_type(self, mfn: int, table: int) -> int:
        """Give up a type reference that an entry of ``table`` held, or _NO_TABLE."""
        count = self.type_counts[mfn]
        kind = self.types[mfn]
        if not count:
            raise DomainCrash(f"frame {mfn:#x} has no type reference to give up")
        if kind == WRITABLE:
            self._stamps[mfn] = self._clock[0]
        if count == 1:
            if kind == L1:
                self._devalidate_l1(mfn)
            elif kind != SEGMENT_DESCRIPTORS and kind != WRITABLE:
                self._devalidate_table(mfn, kind, ENTRIES)
            self.types[mfn] = NONE
        self.type_counts[mfn] = count - 1
        if table != _NO_TABLE and self.types[table] == kind:
            self.linear_counts[mfn] += 1
            self.linear_counts[table] -= 1
        return 0

    def _validate_l1(self, mfn: int) -> int:
        first = mfn * ENTRIES
        for index in range(first, first + ENTRIES):
            entry = self._words[index]
            if entry & PRESENT:
                error = self._get_from_l1(entry)
                if error:
                    while index > first:
                        index -= 1
                        self._put_from_l1(self._words[index])
                    return error
        return 0

    def _devalidate_l1(self, mfn: int) -> int:
        first = mfn * ENTRIES
        for index in range(first, first + ENTRIES):
            self._put_from_l1(self._words[index])
        return 0

    def _validate_table(self, mfn: int, level: int) -> int:
        first = mfn * ENTRIES
        flags = _L4_FLAGS if level == L4 else _TABLE_FLAGS
        for index in range(ENTRIES):
            if level == L4 and FIRST_XEN_SLOT <= index < END_XEN_SLOT:
                continue
            entry = self._words[first + index]
            if entry & PRESENT:
                error = self._get_from_table(entry, mfn, level)
                if error:
                    self._devalidate_table(mfn, level, index)
                    return error
        for index in range(first, first + ENTRIES):
            entry = self._words[index]
            if entry & PRESENT and entry & flags != flags:
                self._words[index] = entry | flags
        if level == L4:
            self.memory.install_xen_slots(mfn)
        return 0

    def _devalidate_table(self, mfn: int, level: int, end: int) -> int:
        """Give up what the first ``end`` entries of a table above L1 hold."""
        while end:
            end -= 1
            if level == L4 and FIRST_XEN_SLOT <= end < END_XEN_SLOT:
                continue
            self._put_from_table(self._words[mfn * ENTRIES + end], mfn)
        return 0

    # What entries hold

    def _get_from_l1(self, entry: int) -> int:
        """Take what a present L1 entry needs."""
        if entry & _L1_DISALLOWED:
            return EINVAL
        mfn = (entry & FRAME) >> PAGE_SHIFT
        if mfn >= self._frames or self._owner[mfn] == IO:
            return EINVAL if mfn == _INVALID_MFN else EPERM
        if not self._get_page(mfn):
            return EBUSY
        if entry & RW and self._get_type(mfn, WRITABLE):
            self._put_page(mfn)
            return EBUSY
        return 0

    def _put_from_l1(self, entry: int) -> int:
        if entry & PRESENT:
            mfn = (entry & FRAME) >> PAGE_SHIFT
            if entry & RW:
                self._put_type(mfn, _NO_TABLE)
            self._put_page(mfn)
        return 0

    def _get_from_table(self, entry: int, table: int, level: int) -> int:
        """Take what a present entry of a table above L1 needs."""
        if entry & _TABLE_DISALLOWED:
            return EINVAL
        mfn = (entry & FRAME) >> PAGE_SHIFT
        error = self._get_page_and_type(mfn, level - 1)
        if error == EINVAL and self._get_linear(entry, mfn, table, level):
            return 0
        return error

    def _put_from_table(self, entry: int, table: int) -> int:
        if entry & PRESENT:
            mfn = (entry & FRAME) >> PAGE_SHIFT
            if mfn != table:
                self._put_type(mfn, table)
                self._put_page(mfn)
        return 0

    def _get_linear(self, entry: int, mfn: int, table: int, level: int) -> bool:
        """Take what a linear entry needs, if it may be one: see the module."""
        if entry & RW:
            return False
        if mfn == table:
            return True
        if not self._get_page(mfn):
            return False
        if (
            self.types[mfn] != level
            or not self.type_counts[mfn]
            or self.type_counts[mfn] == _MAX_COUNT
            or self.linear_counts[table] < 0
            or self.linear_counts[table] == _MAX_LINEAR
            or self.linear_counts[mfn] > 0
            or self.linear_counts[mfn] == -_MAX_LINEAR
        ):
            self._put_page(mfn)
            return False
        self.linear_counts[table] += 1
        self.linear_counts[mfn] -= 1
        self.type_counts[mfn] += 1
        return True

    # Changes of entries

    def apply_batch(self, vcpu: Vcpu, requests: int, count: int, foreign: bool) -> None:
        """Carry out the requests of ``mmu_update`` at a linear address; ``done`` counts them.

        Raises EFAULT at the first that cannot be read, and what ``apply`` raises. Ends early to
        give way.
        """
        self.done = 0
        self._table_changed = False
        try:
            while self.done < count:
                if self.done and vcpu.domain.preempt_check(vcpu):
                    return
                address = (requests + _REQUEST * self.done) & _ADDRESS
                # Not beyond the page: those before one that cannot be read count.
                chunk = max(1, (PAGE_SIZE - (address & _OFFSET)) // _REQUEST)
                if chunk > _STRIDE:
                    chunk = _STRIDE
                if chunk > count - self.done:
                    chunk = count - self.done
                first = find_words(vcpu, address, 2 * chunk)
                if first == NOT_MAPPED:
                    raise XenError(EFAULT)
                self.apply(first, chunk, foreign)
        finally:
            if self._table_changed:
                vcpu.domain.engine.flush_tlb()

    def apply(self, first: int, count: int, foreign: bool) -> None:
        """Carry out requests of ``mmu_update`` that lie at this position of ``memory.words``.

        Adds to ``done`` for each. Raises what ``update`` does, and ENOSYS for an unknown command.
        ``foreign``: the entries are to map devices, of which the domain has none.
        """
        for number in range(count):
            pointer = self._words[first + 2 * number]
            value = self._words[first + 2 * number + 1]
            command = pointer & _COMMAND
            pointer = pointer - command
            if command in (MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE):
                error = self._update(pointer, value, False, foreign)
            elif command == MMU_PT_UPDATE_PRESERVE_AD:
                error = self._update(pointer, value, True, foreign)
            elif command == MMU_MACHPHYS_UPDATE:
                error = self._update_m2p(pointer >> PAGE_SHIFT, value, foreign)
            else:
                error = ENOSYS
            if error:
                raise XenError(error)
            self.done += 1

    def update(self, address: int, value: int, preserve_ad: bool) -> None:
        """Change the entry at a machine address, as the type of its frame demands.

        A frame that is in use as nothing, or writable, gets the value as it is. ``preserve_ad``
        keeps the accessed and dirty bits that the CPU has set meanwhile. Raises EINVAL for a frame
        that is not the domain's or holds descriptors, for an entry of Xen's and for flags that an
        entry may not have; where an L1 entry is to map a frame that the domain may not map so,
        EBUSY, and EPERM where it is no memory; and what validating a table below finds.
        """
        error = self._update(address, value, preserve_ad, False)
        if error:
            raise XenError(error)

    def _update(self, address: int, value: int, preserve_ad: bool, foreign: bool) -> int:
        mfn = address >> PAGE_SHIFT
        if address & 7 or not self._get_page(mfn):
            return EINVAL
        index = address >> 3
        error = 0
        if not self.type_counts[mfn]:
            self._get_type(mfn, WRITABLE)
            self._words[index] = value
            self._put_type(mfn, _NO_TABLE)
        elif self.types[mfn] == L1:
            error = self._update_l1(index, value, preserve_ad, foreign)
        elif self.types[mfn] == WRITABLE:
            self._words[index] = value
        elif self.types[mfn] == SEGMENT_DESCRIPTORS or foreign:
            error = EINVAL
        else:
            error = self._update_table(index, value, preserve_ad)
        self._put_page(mfn)
        return error

    def _update_l1(self, index: int, value: int, preserve_ad: bool, foreign: bool) -> int:
        old = self._words[index]
        if value & PRESENT:
            if value & _L1_DISALLOWED:
                return EINVAL
            if (old ^ value) & _COMPARED == 0:
                self._write(index, value, preserve_ad)
                return 0
            error = self._get_from_l1(value)
            if error:
                return error
            if foreign:
                self._put_from_l1(value)
                return EBUSY
        self._write(index, value, preserve_ad)
        self._put_from_l1(old)
        return 0

    def _update_table(self, index: int, value: int, preserve_ad: bool) -> int:
        mfn = index // ENTRIES
        level = self.types[mfn]
        if level == L4 and FIRST_XEN_SLOT <= index % ENTRIES < END_XEN_SLOT:
            return EINVAL
        old = self._words[index]
        moved = True
        if value & PRESENT:
            if value & _TABLE_DISALLOWED:
                return EINVAL
            value |= _L4_FLAGS if level == L4 else _TABLE_FLAGS
            moved = (old ^ value) & _COMPARED != 0
            if moved:
                error = self._get_from_table(value, mfn, level)
                if error:
                    return error
        self._write(index, value, preserve_ad)
        if old & PRESENT:
            self._table_changed = True
            if moved:
                self._put_from_table(old, mfn)
        return 0

    def _write(self, index: int, value: int, preserve_ad: bool) -> int:
        if preserve_ad:
            value |= self._words[index] & (ACCESSED | DIRTY)
        self._words[index] = value
        return 0

    def _update_m2p(self, mfn: int, value: int, foreign: bool) -> int:
        if foreign or not self._get_page(mfn):
            return EINVAL
        self._m2p[mfn] = value
        self._put_page(mfn)
        return 0

    def update_mapping(self, vcpu: Vcpu, address: int, value: int) -> None:
        """Change the L1 entry that maps a linear address in the running vCPU's kernel mode.

        Raises EINVAL if there is no L1 table, and what ``update`` does. Guests take the right to
        write from a page in this way before they make a table of it. If this was its last writable
        mapping, and nothing else can hold a translation by way of this entry, flushing the one page
        spares the flush of all.
        """
        entry = self.find_l1_entry(vcpu.cpu.kernel_page_table, address)
        # What a walk finds may be the entry of a higher table, by way of a linear one.
        if not entry or self.types[entry >> PAGE_SHIFT] != L1:
            raise XenError(EINVAL)
        old = self._words[entry >> 3]
        mfn = (old & FRAME) >> PAGE_SHIFT
        stamp = self._stamps[mfn] if old & PRESENT else 0
        error = self._update(entry, value, False, False)
        if error:
            raise XenError(error)
        if (
            old & (PRESENT | RW) == PRESENT | RW
            and self.refs[mfn]
            and not self.type_counts[mfn]
            and self._is_reached_once(vcpu, address)
        ):
            vcpu.domain.engine.flush_page(address)
            self._stamps[mfn] = stamp

    def _is_reached_once(self, vcpu: Vcpu, address: int) -> bool:
        """Whether the L1 entry of a linear address is that of no other address.

        All tables on the way have one use, but for a pin; the L3 table, which the base tables of
        all processes may share, stands in one place of those that the CPU runs on.
        """
        slot = address >> 39 & 511
        table = vcpu.cpu.kernel_page_table >> 3
        l3 = self._words[table + slot] & FRAME
        l2 = self._words[(l3 >> 3) + (address >> 30 & 511)] & FRAME
        l1 = self._words[(l2 >> 3) + (address >> 21 & 511)] & FRAME
        for mfn in (l2 >> PAGE_SHIFT, l1 >> PAGE_SHIFT):
            if self.type_counts[mfn] != 1 + self.pinned[mfn]:
                return False
        for index in range(ENTRIES):
            if index != slot and self._words[table + index] & (FRAME | PRESENT) == l3 | PRESENT:
                return False
        table = vcpu.cpu.user_page_table >> 3
        if table:
            for index in range(ENTRIES):
                if index != slot and self._words[table + index] & (FRAME | PRESENT) == l3 | PRESENT:
                    return False
        return True

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
