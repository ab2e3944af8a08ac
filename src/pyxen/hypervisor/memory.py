# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames of machine memory: whose they are, and the map from machine to pseudo-physical frames.

A paravirtual guest knows two numbers for each of its pages. The *machine frame number* (mfn) is
what stands in page tables; the *pseudo-physical frame number* (pfn) is an index into an unbroken
range that starts at 0, which the guest's own data structures use. The guest keeps the pfn-to-mfn
list (P2M); the mfn-to-pfn table (M2P) is Xen's, one for the machine, readable by guests at
``MACH2PHYS_VIRT_START`` and changed on request (``MMU_MACHPHYS_UPDATE``).

Machine memory below ``ram_mfn`` belongs to the hypervisor: the M2P, the shared info page,
grant-table frames, and the tables that map them into every address space ("Xen's slots" of each L4
table, 256 to 271).

Of each frame Xen keeps who owns it, how many *references* there are to it, its *type* (see
``page_types``) and how many of the references rely on the type. The allocation to the domain is one
reference; mappings and other uses hold more. A frame that the domain gives back stays its own until
the last of them is gone.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from pyxen.abi.arch_x86_64 import FIRST_RESERVED_GDT_PAGE, MACH2PHYS_VIRT_START
from pyxen.abi.errno import EINVAL, ENOMEM
from pyxen.errors import XenError
from pyxen.hypervisor import page_types
from pyxen.hypervisor.page_flags import (
    ACCESSED,
    ADDRESS_MASK,
    DIRTY,
    ENTRIES,
    NX,
    PAGE_SIZE,
    PRESENT,
    PSE,
    RW,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from pyxen.engine.protocol import Engine

INVALID_M2P_ENTRY: Final = ADDRESS_MASK
"""What the M2P says of a frame that is nobody's."""

FIRST_XEN_SLOT: Final = 256
END_XEN_SLOT: Final = 272

# Owners of frames.
XEN: Final = 0
DOMAIN: Final = 1
SHARED: Final = 2
"""A frame of Xen's that is the domain's, too: shared info, grant table."""
IO: Final = 3
"""No memory, but devices: the first MiB of a PC."""

_FIRST_MEMORY_MFN: Final = 0x100
_M2P_ADDRESS: Final = 0x200000
_LARGE_PAGE: Final = 0x200000

# The per-domain area (Xen's slot 4) holds 32 pages for each vCPU: 16 of its GDT, 16 of its LDT.
_PER_DOMAIN_SLOT: Final = 4
PER_DOMAIN_VIRT_START: Final = 0xFFFF820000000000
VCPU_PAGES: Final = 32
FIRST_LDT_PAGE: Final = 16
_VCPU_AREA: Final = VCPU_PAGES * PAGE_SIZE
_TABLE: Final = PRESENT | RW | ACCESSED

# Xen's own descriptors, at selectors that are part of the interface (FLAT_RING3_CS64 …).
_RESERVED_DESCRIPTORS: Final = {
    0xE008: 0x00AF9B000000FFFF,  # 64-bit code, ring 0
    0xE010: 0x00CF93000000FFFF,  # data, ring 0
    0xE018: 0x00CFBB000000FFFF,  # 32-bit code, ring 1
    0xE020: 0x00CFFB000000FFFF,  # FLAT_RING3_CS32
    0xE028: 0x00CFF3000000FFFF,  # FLAT_RING3_SS32, _DS32
    0xE030: 0x00AFFB000000FFFF,  # FLAT_RING3_CS64
}


class Memory:
    """All frames of the machine that one domain runs on.

    ``nr_pages`` frames are given to the domain at its start; ``p2m[pfn]`` tells which (the guest's
    own P2M starts as a copy of it). ``bytes`` and ``words`` view machine memory by address and by
    address // 8. ``owner[mfn]`` is XEN, DOMAIN, SHARED or IO; ``refs[mfn]`` the count of
    references, ``types[mfn]`` and ``type_counts[mfn]`` the type and its count. ``allocated[mfn]``
    tells whether one of the references is that of the allocation.

    The CPU may use a translation for a while after its entry has changed. ``stamps[mfn]`` is the
    moment, on the engine's ``flush_clock``, at which a frame last lost a writable mapping or was
    freed: see ``flush_stale``.
    """

    def __init__(self, engine: Engine, nr_pages: int, max_pages: int | None = None) -> None:
        machine = engine.memory
        self._engine = engine
        self.flush_clock = engine.flush_clock
        self.bytes = machine.bytes
        self.words = machine.words
        self.code_frames = machine.code_frames
        self.frames = machine.frames
        self.ram_mfn = machine.ram_mfn
        self.nr_pages = nr_pages
        self.max_pages = machine.frames - machine.ram_mfn if max_pages is None else max_pages
        self.owner = bytearray(machine.frames)
        self.refs = array("I", bytes(4 * machine.frames))
        self.types = bytearray(machine.frames)
        self.type_counts = array("I", bytes(4 * machine.frames))
        self.allocated = bytearray(machine.frames)
        self.stamps = array("Q", bytes(8 * machine.frames))
        self.m2p = self.words[_M2P_ADDRESS >> 3 : (_M2P_ADDRESS >> 3) + machine.frames]
        self.p2m = array("Q", range(self.ram_mfn, self.ram_mfn + nr_pages))
        self.free_list = array("Q", range(self.frames - 1, self.ram_mfn + nr_pages - 1, -1))
        self._next_xen_mfn = _FIRST_MEMORY_MFN
        self.owner[:_FIRST_MEMORY_MFN] = bytes((IO,)) * _FIRST_MEMORY_MFN
        self._fill_m2p()
        self.shared_info_mfn = self.allocate_shared()
        self.gdt_entries = self._map_per_domain_area(len(engine.cpus))
        self._xen_slots = self._build_slots()
        self.bounce_mfn = self.allocate_xen()
        """For data of a guest that does not lie in one piece in machine memory."""
        self.dummy_info_mfn = self.allocate_xen()
        """The vcpu_info of vCPUs that have no place in the shared info page, nor their own yet."""

    def _fill_m2p(self) -> None:
        size = self.frames * 8
        start = _M2P_ADDRESS
        self.bytes[start : start + size] = b"\xff" * size
        first = self.ram_mfn
        self.m2p[first : first + self.nr_pages] = memoryview(array("Q", range(self.nr_pages)))
        self.owner[first : first + self.nr_pages] = bytes((DOMAIN,)) * self.nr_pages
        self.allocated[first : first + self.nr_pages] = bytes((1,)) * self.nr_pages
        self.refs[first : first + self.nr_pages] = array("I", (1,)) * self.nr_pages
        self._after_m2p = start + -(-size // _LARGE_PAGE) * _LARGE_PAGE

    # Frames of Xen's

    def allocate_xen(self) -> int:
        """A zeroed frame of the hypervisor's own; returns its mfn."""
        mfn = self._next_xen_mfn
        if mfn == _M2P_ADDRESS // PAGE_SIZE:
            mfn = self._after_m2p // PAGE_SIZE
        if mfn >= self.ram_mfn:
            raise XenError(ENOMEM)
        self._next_xen_mfn = mfn + 1
        return mfn

    def allocate_shared(self) -> int:
        """A zeroed frame of Xen's that the guest may map, also writable.

        Xen's own use of it is a reference, and keeps it from becoming anything else.
        """
        mfn = self.allocate_xen()
        self.owner[mfn] = SHARED
        self.refs[mfn] = 1
        self.types[mfn] = page_types.WRITABLE
        self.type_counts[mfn] = 1
        return mfn

    def _map_per_domain_area(self, vcpus: int) -> int:
        """Build the tables of the per-domain slot. Returns where in ``words`` its L1 entries are.

        They lie in consecutive frames, so that entry ``32 * vcpu + page`` is found by addition.
        """
        tables = -(-vcpus * VCPU_PAGES // ENTRIES)
        l3, l2 = self.allocate_xen(), self.allocate_xen()
        l1 = [self.allocate_xen() for _ in range(tables)]
        descriptors, zero = self.allocate_xen(), self.allocate_xen()
        self._per_domain_l3 = l3
        self._zero_mfn = zero
        words = self.words
        words[l3 * ENTRIES] = l2 * PAGE_SIZE | _TABLE
        for number, mfn in enumerate(l1):
            words[l2 * ENTRIES + number] = mfn * PAGE_SIZE | _TABLE
        for selector, descriptor in _RESERVED_DESCRIPTORS.items():
            words[descriptors * ENTRIES + (selector >> 3) % ENTRIES] = descriptor
        first = l1[0] * ENTRIES
        for vcpu in range(vcpus):
            entry = first + vcpu * VCPU_PAGES
            for page in range(FIRST_RESERVED_GDT_PAGE):
                words[entry + page] = zero * PAGE_SIZE | PRESENT | ACCESSED | NX
            words[entry + FIRST_RESERVED_GDT_PAGE] = (
                descriptors * PAGE_SIZE | PRESENT | ACCESSED | NX
            )
        return first

    def _build_slots(self) -> memoryview:
        """The sixteen entries that every L4 table has for Xen."""
        l3, l2 = self.allocate_xen(), self.allocate_xen()
        self.words[l3 * ENTRIES] = l2 * PAGE_SIZE | _TABLE
        for number in range(-(-self.frames * 8 // _LARGE_PAGE)):
            self.words[l2 * ENTRIES + number] = (
                _M2P_ADDRESS + number * _LARGE_PAGE | PRESENT | ACCESSED | DIRTY | PSE | NX
            )
        slots = array("Q", bytes(8 * (END_XEN_SLOT - FIRST_XEN_SLOT)))
        slots[0] = l3 * PAGE_SIZE | _TABLE
        slots[_PER_DOMAIN_SLOT] = self._per_domain_l3 * PAGE_SIZE | _TABLE
        return memoryview(slots)

    def install_xen_slots(self, l4_mfn: int) -> None:
        """Put Xen's entries into an L4 table."""
        first = l4_mfn * ENTRIES + FIRST_XEN_SLOT
        self.words[first : first + len(self._xen_slots)] = self._xen_slots

    def m2p_mfns(self) -> list[int]:
        """First frame of each 2 MiB of the machine-to-phys table."""
        large_pages = -(-self.frames * 8 // _LARGE_PAGE)
        first = _M2P_ADDRESS // PAGE_SIZE
        return [first + number * (_LARGE_PAGE // PAGE_SIZE) for number in range(large_pages)]

    # Descriptor tables

    @staticmethod
    def gdt_address(vcpu: int) -> int:
        """Linear address at which a vCPU's descriptor table is mapped."""
        return PER_DOMAIN_VIRT_START + vcpu * _VCPU_AREA

    @staticmethod
    def ldt_address(vcpu: int) -> int:
        """Linear address at which a vCPU's local descriptor table is mapped."""
        return PER_DOMAIN_VIRT_START + vcpu * _VCPU_AREA + FIRST_LDT_PAGE * PAGE_SIZE

    def map_descriptors(self, vcpu: int, page: int, mfn: int) -> None:
        """Let the CPU find a frame at this page of a vCPU's part of the per-domain area.

        Read-only: the guest's kernel has the same privilege here as the CPU's own accesses.
        """
        entry = self.gdt_entries + vcpu * VCPU_PAGES + page
        self.words[entry] = mfn * PAGE_SIZE | PRESENT | ACCESSED | NX

    def unmap_descriptors(self, vcpu: int, page: int) -> None:
        """Let the CPU find empty descriptors there, or nothing in the LDT's part."""
        if page < FIRST_RESERVED_GDT_PAGE:
            self.map_descriptors(vcpu, page, self._zero_mfn)
        else:
            self.words[self.gdt_entries + vcpu * VCPU_PAGES + page] = 0

    # Frames of the domain

    def is_domains(self, mfn: int) -> bool:
        """Whether a frame is the domain's own memory (any number is allowed)."""
        return mfn < self.frames and self.owner[mfn] == DOMAIN

    def is_unused(self, mfn: int) -> bool:
        """Whether a frame is the domain's, and nothing but its allocation refers to it."""
        return self.is_domains(mfn) and bool(self.allocated[mfn]) and self.refs[mfn] == 1

    def is_owned(self, mfn: int) -> bool:
        """Whether a frame is the domain's memory or one that Xen shares with it."""
        return mfn < self.frames and self.owner[mfn] in (DOMAIN, SHARED)

    def allocate(self, order: int = 0, limit: int | None = None) -> int:
        """Give the domain 2**order zeroed frames in a row, aligned to their number.

        They lie below the frame ``limit``. Returns the first. Raises ENOMEM when there are none, or
        when the domain would have more than its maximum.
        """
        if self.nr_pages + (1 << order) > self.max_pages:
            raise XenError(ENOMEM)
        return self.take_free(order, limit)

    def take_free(self, order: int = 0, limit: int | None = None) -> int:
        """The same, whatever the domain's maximum."""
        size = 1 << order
        mfn = self._find_free(order, self.frames if limit is None else limit)
        for frame in range(mfn, mfn + size):
            self.flush_stale(frame)
        self.owner[mfn : mfn + size] = bytes((DOMAIN,)) * size
        self.allocated[mfn : mfn + size] = bytes((1,)) * size
        self.refs[mfn : mfn + size] = array("I", (1,)) * size
        self.bytes[mfn * PAGE_SIZE : (mfn + size) * PAGE_SIZE] = bytes(size * PAGE_SIZE)
        if any(self.code_frames[mfn : mfn + size]):
            self._engine.invalidate_code(mfn * PAGE_SIZE, size * PAGE_SIZE)
        self.nr_pages += size
        return mfn

    def _find_free(self, order: int, limit: int) -> int:
        """``free_list`` is a hint: frames of it may have been taken as parts of larger extents."""
        while not order and limit >= self.frames and self.free_list:
            mfn = self.free_list.pop()
            if self.owner[mfn] == XEN:
                return mfn
        size = 1 << order
        free = bytes((XEN,)) * size
        mfn = self.ram_mfn - 1
        while (mfn := self.owner.find(free, mfn + 1, min(limit, self.frames))) >= 0:
            if mfn % size == 0:
                return mfn
            mfn += -mfn % size - 1
        raise XenError(ENOMEM)

    def release(self, mfn: int) -> None:
        """Give up the allocation of a frame; it is free as soon as nothing refers to it any more.

        Doing so again changes nothing. Raises EINVAL when the frame is not the domain's.
        """
        if not self.is_domains(mfn):
            raise XenError(EINVAL)
        if self.allocated[mfn]:
            self.allocated[mfn] = 0
            self.refs[mfn] -= 1
            if not self.refs[mfn]:
                self.free(mfn)

    def free(self, mfn: int) -> None:
        """The last reference to one of the domain's frames has gone: it is nobody's."""
        self.owner[mfn] = XEN
        self.stamps[mfn] = self.flush_clock[0]
        self.m2p[mfn] = INVALID_M2P_ENTRY
        if len(self.free_list) >= self.frames:
            self.free_list = self.free_frames()
        self.free_list.append(mfn)
        self.nr_pages -= 1

    def free_frames(self) -> array[int]:
        """The frames that are nobody's and may become the domain's."""
        return array("Q", (mfn for mfn in range(self.ram_mfn, self.frames) if not self.owner[mfn]))

    def flush_stale(self, mfn: int) -> None:
        """Let no CPU have a translation from before the frame's stamp."""
        _, kernel, user = self.flush_clock
        if self.stamps[mfn] >= min(kernel, user):
            self._engine.flush_tlb()

    def copy_to_pfn(self, pfn: int, data: Buffer, offset: int = 0) -> None:
        """Copy bytes over consecutive pfns of the initial allotment, from ``offset`` on.

        Raises ValueError when they would not fit.
        """
        view = memoryview(data).cast("B")
        pfn += offset // PAGE_SIZE
        offset %= PAGE_SIZE
        pages = -(-(offset + len(view)) // PAGE_SIZE)
        mfns = self.p2m[pfn : pfn + pages]
        if len(mfns) < pages:
            raise ValueError(f"{len(view)} bytes at pfn {pfn:#x}: behind the domain's memory")
        # Looked at as a whole: there are thousands, and nearly always they lie together.
        together = pages > 0 and mfns == array("Q", range(mfns[0], mfns[0] + pages))
        run = pages if together else 1
        for position in range(0, pages, run):
            start = mfns[position] * PAGE_SIZE + offset
            part = view[: run * PAGE_SIZE - offset]
            self.bytes[start : start + len(part)] = part
            view = view[len(part) :]
            offset = 0


assert MACH2PHYS_VIRT_START >> 39 & 511 == FIRST_XEN_SLOT
