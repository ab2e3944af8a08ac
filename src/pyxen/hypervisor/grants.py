# SPDX-License-Identifier: GPL-2.0-or-later
"""The grant table: pages of a domain that it lets others map or copy.

The table is an array in frames that Xen shares with the guest. The guest writes an entry (whom,
which frame, read-only or not) and passes its index, the *grant reference*, to the other domain,
which asks Xen to map the frame or to copy to or from it. Xen believes the entry at the first use
only: it then notes frame and domain in an *active entry* of its own, which also counts the uses
(*pins*), and what the guest writes to its entry afterwards changes nothing for those who use it.
While there are uses, Xen shows the guest ``GTF_reading`` and ``GTF_writing``: in the flags of the
entry itself (version 1), or in the entry's word of the *status frames* (version 2). A guest takes
an entry back by clearing its flags when these two bits are clear.

Version 2 entries are twice as large and may grant a part of a page (``GTF_sub_page``, for copies
only), or pass on another domain's grant (``GTF_transitive``, likewise). A guest changes the version
while no entry is in use; only the first eight stay what they are, which the tools use.

Guests change entries by atomic operations and so does Xen. Here nothing of a table is touched but
in the thread of the vCPUs, while no guest code runs, and plain reads and writes are enough.

Reference: ``public/grant_table.h``.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from pyxen.abi.errno import EBUSY, EINVAL, ERANGE
from pyxen.abi.grant_table import (
    GNTST_NAMES,
    GNTTAB_NR_RESERVED_ENTRIES,
    GNTMAP_device_map,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_domain,
    GNTST_bad_gntref,
    GNTST_bad_page,
    GNTST_eagain,
    GNTST_general_error,
    GTF_accept_transfer,
    GTF_permit_access,
    GTF_reading,
    GTF_readonly,
    GTF_sub_page,
    GTF_transfer_committed,
    GTF_transfer_completed,
    GTF_transitive,
    GTF_type_mask,
    GTF_writing,
)
from pyxen.errors import XenError
from pyxen.hypervisor.maptrack import Maptrack
from pyxen.hypervisor.memory import DOMAIN, SHARED, XEN
from pyxen.hypervisor.page_flags import ENTRIES, PAGE_SIZE
from pyxen.hypervisor.page_types import NONE, WRITABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyxen.hypervisor.grant_access import GrantAccess
    from pyxen.hypervisor.memory import Memory
    from pyxen.hypervisor.pagetables import PageTables

_V1_PER_FRAME: Final = 512
_V2_PER_FRAME: Final = 256
_STATUS_PER_FRAME: Final = 2048
_STATUS_BITS: Final = GTF_reading | GTF_writing

# A pin count is four counters of eight bits. The public header gives them no names; Xen has
# counters of mappings for CPUs (host) and for devices, each writing or reading.
HOST_WRITE: Final = 1
HOST_READ: Final = 1 << 8
DEVICE_WRITE: Final = 1 << 16
DEVICE_READ: Final = 1 << 24
_WRITERS: Final = 0x00FF00FF
_OVERFLOW_SHIFT: Final = 7
"""A counter that has reached 128 is full."""

_DOM0_ENTRIES: Final = 512
"""Domain 0 has a table of one frame, and grants nothing."""


class GrantError(Exception):
    """A grant operation was refused. ``status`` is a GNTST_* code, below 0."""

    def __init__(self, status: int) -> None:
        super().__init__(GNTST_NAMES.get(status, status))
        self.status = status


class GrantLimits(Struct, frozen=True):
    """What a domain may have: frames of its table, frames of its maptrack, and the version.

    The defaults are Xen's. Raises ValueError for what Xen would not make a domain with.
    """

    max_frames: int = 64
    max_maptrack_frames: int = 1024
    max_version: int = 2

    def __post_init__(self) -> None:
        if self.max_frames < 1 or self.max_maptrack_frames < 0 or self.max_version not in (1, 2):
            raise ValueError(f"grant tables: {self} is out of range")


def pin_increment(flags: int) -> int:
    """What a mapping with these GNTMAP_* flags adds to the pin count; 0 if it maps nothing."""
    increment = 0
    if flags & GNTMAP_device_map:
        increment += DEVICE_READ if flags & GNTMAP_readonly else DEVICE_WRITE
    if flags & GNTMAP_host_map:
        increment += HOST_READ if flags & GNTMAP_readonly else HOST_WRITE
    return increment


def dom0_status(ref: int) -> int:
    """The GNTST_* code with which a grant of domain 0 is refused to a guest."""
    return GNTST_general_error if ref < _DOM0_ENTRIES else GNTST_bad_gntref


def _status_frames(frames: int) -> int:
    return -(-frames * _V2_PER_FRAME // _STATUS_PER_FRAME)


class GrantTable:
    """The table of a domain, its active entries, and its mappings of grants (``maptrack``).

    The first ``nr_frames`` of ``mfns`` are the frames of the table, one from the start as under
    Xen, with ``entries`` entries; the first ``nr_status_frames`` of ``status_mfns`` are those of
    the status words, none in version 1. The arrays of active entries are indexed by reference:
    ``pins``, and where a pin is not 0, ``domids`` and ``frames``.
    """

    def __init__(
        self, memory: Memory, pagetables: PageTables, domid: int, limits: GrantLimits
    ) -> None:
        self.memory = memory
        self.pagetables = pagetables
        self.domid = domid
        self.limits = limits
        self.version = 1
        self.entries = 0
        self.nr_frames = 0
        self.nr_status_frames = 0
        self.mfns = array("Q", bytes(8 * limits.max_frames))
        self.status_mfns = array("Q", bytes(8 * _status_frames(limits.max_frames)))
        most = limits.max_frames * _V1_PER_FRAME
        self.pins = array("I", bytes(4 * most))
        self.domids = array("H", bytes(2 * most))
        self.frames = array("Q", bytes(8 * most))
        self.maptrack = Maptrack(limits.max_maptrack_frames)
        self.accesses: list[GrantAccess] = []
        self._words = memory.words
        self._halfwords = memory.bytes.cast("H")
        self._owner = memory.owner
        self.grow(1)

    # Frames of the table

    def grow(self, frames: int) -> None:
        """Have at least this many frames. Raises EINVAL above the maximum."""
        if frames > self.limits.max_frames:
            raise XenError(EINVAL)
        while self.nr_frames < frames:
            self.mfns[self.nr_frames] = self.memory.allocate_shared()
            self.nr_frames += 1
        if self.version == 2:
            self._populate_status()
        self._count_entries()

    def _count_entries(self) -> None:
        per_frame = _V1_PER_FRAME if self.version == 1 else _V2_PER_FRAME
        self.entries = self.nr_frames * per_frame

    def _populate_status(self) -> None:
        """Frames that were given up are used again."""
        needed = _status_frames(self.nr_frames)
        while self.nr_status_frames < needed:
            mfn = self.status_mfns[self.nr_status_frames]
            if mfn:
                self._clear(mfn)
                self.memory.owner[mfn] = SHARED
            else:
                self.status_mfns[self.nr_status_frames] = self.memory.allocate_shared()
            self.nr_status_frames += 1

    def _unpopulate_status(self) -> None:
        """Raises EBUSY while the guest has one of them mapped."""
        mfns = list(self.status_mfns[: self.nr_status_frames])
        if any(self._is_mapped(mfn) for mfn in mfns):
            raise XenError(EBUSY)
        for mfn in mfns:
            self.memory.owner[mfn] = XEN
        self.nr_status_frames = 0

    def _is_mapped(self, mfn: int) -> bool:
        return self.pagetables.refs[mfn] > 1

    def _clear(self, mfn: int) -> None:
        self.memory.bytes[mfn * PAGE_SIZE : (mfn + 1) * PAGE_SIZE] = bytes(PAGE_SIZE)

    def seed(self, ref: int, mfn: int) -> None:
        """Grant a frame to domain 0 in the guest's place, before it runs: a reserved entry."""
        self._words[self._entry(ref)] = GTF_permit_access | mfn << 32

    # The version

    def set_version(self, version: int) -> None:
        """Change the layout, 1 or 2; the reserved entries stay, all others are cleared.

        Raises EBUSY while others are in use or the guest has a status frame mapped that would go,
        ERANGE when version 1 cannot express a reserved entry.
        """
        if version == self.version:
            return
        if any(self.pins[GNTTAB_NR_RESERVED_ENTRIES : self.entries]):
            raise XenError(EBUSY)
        reserved = range(GNTTAB_NR_RESERVED_ENTRIES)
        if version == 2:
            kept = [self._words[self._entry(ref)] for ref in reserved]
            self._populate_status()
        else:
            kept = [self._in_version_1(ref) for ref in reserved]
            self._unpopulate_status()
        for mfn in self.mfns[: self.nr_frames]:
            self._clear(mfn)
        self.version = version
        self._count_entries()
        for ref in reserved:
            entry = self._entry(ref)
            if version == 1:
                self._words[entry] = kept[ref]
            else:
                self._words[entry] = kept[ref] & 0xFFFFFFFF & ~_STATUS_BITS
                self._words[entry + 1] = kept[ref] >> 32
                self._halfwords[self._status(ref)] = kept[ref] & _STATUS_BITS

    def _in_version_1(self, ref: int) -> int:
        """A version 2 entry as the other layout has it; 0 if it grants nothing. Raises ERANGE."""
        header, frame = self._words[self._entry(ref)], self._words[self._entry(ref) + 1]
        kind = header & GTF_type_mask
        if kind == GTF_transitive or (kind == GTF_permit_access and frame >> 32):
            raise XenError(ERANGE)
        if kind != GTF_permit_access:
            return 0
        return header & 0xFFFFFFFF | self._halfwords[self._status(ref)] | frame << 32

    # Entries

    def _entry(self, ref: int) -> int:
        """Position of an entry in ``memory.words``."""
        if self.version == 1:
            return self.mfns[ref // _V1_PER_FRAME] * ENTRIES + ref % _V1_PER_FRAME
        return self.mfns[ref // _V2_PER_FRAME] * ENTRIES + ref % _V2_PER_FRAME * 2

    def _status(self, ref: int) -> int:
        """Position of the 16 bits with GTF_reading and GTF_writing, in memory as such words."""
        if self.version == 1:
            return self._entry(ref) * 4
        return self.status_mfns[ref // _STATUS_PER_FRAME] * _STATUS_PER_FRAME + (
            ref % _STATUS_PER_FRAME
        )

    def swap(self, first: int, second: int) -> None:
        """Let two references change their meaning. Raises GrantError."""
        if first >= self.entries or second >= self.entries:
            raise GrantError(GNTST_bad_gntref)
        if first == second:
            return
        if self.pins[first] or self.pins[second]:
            raise GrantError(GNTST_eagain)
        self._exchange(self._words, self._entry(first), self._entry(second))
        if self.version == 2:
            self._exchange(self._words, self._entry(first) + 1, self._entry(second) + 1)
            self._exchange(self._halfwords, self._status(first), self._status(second))

    @staticmethod
    def _exchange(words: memoryview, first: int, second: int) -> None:
        words[first], words[second] = words[second], words[first]

    # Uses

    def acquire(self, ref: int, domid: int, increment: int) -> int:
        """Count a mapping by a domain: ``pin_increment``. Returns the frame.

        It takes no reference on the frame. Raises GrantError.
        """
        if ref >= self.entries:
            raise GrantError(GNTST_bad_gntref)
        pin = self.pins[ref]
        if pin and (self.domids[ref] != domid or pin & increment << _OVERFLOW_SHIFT):
            raise GrantError(GNTST_general_error)
        writing = increment & _WRITERS
        if not pin or (writing and not pin & _WRITERS):
            header = self._words[self._entry(ref)]
            if not pin:
                kind = header & (GTF_type_mask | GTF_sub_page)
                if kind != GTF_permit_access or header >> 16 & 0xFFFF != domid:
                    raise GrantError(GNTST_general_error)
            if writing and header & GTF_readonly:
                raise GrantError(GNTST_general_error)
            self._halfwords[self._status(ref)] |= _STATUS_BITS if writing else GTF_reading
            if not pin:
                entry = self._entry(ref)
                mfn = header >> 32 if self.version == 1 else self._words[entry + 1]
                if not self._is_owned(mfn):
                    self._reduce_status(ref, writing)
                    raise GrantError(GNTST_bad_page)
                self.domids[ref] = domid
                self.frames[ref] = mfn
        self.pins[ref] = pin + increment
        return self.frames[ref]

    def release(self, ref: int, increment: int) -> None:
        """Undo ``acquire``."""
        self.pins[ref] -= increment
        self._reduce_status(ref, increment & _WRITERS)

    def _reduce_status(self, ref: int, writing: int) -> None:
        """Clear what the pins no longer account for, after a use that was writing or not."""
        pin = self.pins[ref]
        clear = 0 if pin else GTF_reading
        if writing and not pin & _WRITERS:
            clear |= GTF_writing
        if clear:
            self._halfwords[self._status(ref)] &= ~clear

    def check_copy(self, ref: int, domid: int, writing: bool) -> tuple[int, int, int]:
        """Whether a domain may copy from or to a grant: the frame, and from where to where in it.

        A copy has begun and ended when it returns to anybody, so that it leaves no pin; the status
        bits become what they are after one. Raises GrantError.
        """
        if ref >= self.entries:
            raise GrantError(GNTST_bad_gntref)
        pin = self.pins[ref]
        increment = HOST_WRITE if writing else HOST_READ
        if pin and (self.domids[ref] != domid or pin & increment << _OVERFLOW_SHIFT):
            raise GrantError(GNTST_general_error)
        entry = self._entry(ref)
        header = self._words[entry]
        kind = header & GTF_type_mask
        transitive = self.version == 2 and kind == GTF_transitive
        if not pin or (writing and not pin & _WRITERS):
            if not pin and (
                (kind != GTF_permit_access and not transitive) or header >> 16 & 0xFFFF != domid
            ):
                raise GrantError(GNTST_general_error)
            if writing and header & GTF_readonly:
                raise GrantError(GNTST_general_error)
            self._reduce_status(ref, writing)
        if transitive:
            raise GrantError(self._transitive_status(entry))
        if pin:
            if not self._is_owned(self.frames[ref]):  # the guest took its entry away first
                raise GrantError(GNTST_bad_domain)
            return self.frames[ref], 0, PAGE_SIZE
        start, end = 0, PAGE_SIZE
        if self.version == 1:
            mfn = header >> 32
        else:
            mfn = self._words[entry + 1]
            if header & GTF_sub_page:
                start = header >> 32 & 0xFFFF
                end = start + (header >> 48)
        if not self._is_owned(mfn):
            raise GrantError(GNTST_bad_page)
        return mfn, start, end

    def _is_owned(self, mfn: int) -> bool:
        """``Memory.is_owned``, for the compiled form."""
        return mfn < len(self._owner) and self._owner[mfn] in (DOMAIN, SHARED)

    def _transitive_status(self, entry: int) -> int:
        """With what a grant of another domain's grant is refused: there is none that would do."""
        domid = self._words[entry] >> 32 & 0xFFFF
        if domid != 0:  # the granting domain itself, which may not be, or one that is not there
            return GNTST_general_error
        return dom0_status(self._words[entry + 1] & 0xFFFFFFFF)

    def accept_transfer(self, ref: int, mfn: int) -> bool:
        """Take a frame over that the guest transfers to itself, if it said so in the entry."""
        if ref >= self.entries:
            return False
        entry = self._entry(ref)
        header = self._words[entry] & 0xFFFFFFFF
        if header != GTF_accept_transfer | self.domid << 16:
            return False
        header |= GTF_transfer_committed | GTF_transfer_completed
        if self.version == 1:
            self.memory.m2p[mfn] = self._words[entry] >> 32
            self._words[entry] = header | mfn << 32
        else:
            self.memory.m2p[mfn] = self._words[entry + 1]
            self._words[entry] = self._words[entry] & ~0xFFFFFFFF | header
            self._words[entry + 1] = mfn
        return True

    # References on frames

    def check_writable(self, mfn: int) -> None:
        """Whether a frame could be taken for writing now. Raises GrantError."""
        tables = self.pagetables
        if tables.type_counts[mfn] and tables.types[mfn] != WRITABLE:
            raise GrantError(GNTST_general_error)

    def take(self, mfn: int, writing: int) -> None:
        """Hold a frame for a mapping. Raises GrantError where it cannot be used for writing."""
        try:
            if writing:
                self.pagetables.get_page_and_type(mfn, WRITABLE)
            else:
                self.pagetables.get_page(mfn)
        except XenError:
            raise GrantError(GNTST_general_error) from None

    def give_back(self, mfn: int, writing: int) -> None:
        if writing:
            self.pagetables.put_page_and_type(mfn)
        else:
            self.pagetables.put_page(mfn)

    def held_frames(self) -> Iterator[tuple[int, int]]:
        """The frames that mappings hold, for the audit: of other domains, and for devices.

        What the guest maps for its CPUs are entries of its page tables.
        """
        for access in self.accesses:
            yield from access.held_frames()
        for handle in self.maptrack.handles():
            flags = self.maptrack.flags[handle]
            if flags & GNTMAP_device_map:
                kind = NONE if flags & GNTMAP_readonly else WRITABLE
                yield self.frames[self.maptrack.refs[handle]], kind

    def release_all(self) -> None:
        """Undo all mappings, when the domain has died. Its page tables go by themselves."""
        for access in self.accesses:
            access.close()
        for handle in list(self.maptrack.handles()):
            flags, ref = self.maptrack.flags[handle], self.maptrack.refs[handle]
            if flags & GNTMAP_device_map:
                self.give_back(self.frames[ref], not flags & GNTMAP_readonly)
            self.maptrack.free(handle)
            self.release(ref, pin_increment(flags))
