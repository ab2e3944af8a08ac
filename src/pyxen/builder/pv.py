# SPDX-License-Identifier: GPL-2.0-or-later
"""The start of day of a 64-bit paravirtual domain.

A PV kernel begins with paging on, in a memory that is already laid out: no firmware, no real mode.
Its builder places these *bootstrap elements* one after the other in the domain's pseudo-physical
memory, each on a page of its own, and maps them, in the same order, from VIRT_BASE on
(`xen/include/public/xen.h`, "Start-of-day memory layout"; the details are those of Xen's
`tools/libs/guest/xg_dom_core.c` and `xg_dom_x86.c`):

1. the kernel's segments, where its program headers want them;
2. the ramdisk;
3. the P2M, the list that gives the machine frame of each page (pfn -> mfn);
4. `start_info`, which tells the kernel where all the rest is;
5. the ring page of xenstore, then that of the console;
6. the page tables of this very mapping, read-only, since the hypervisor alone writes page tables;
7. the boot stack.

The mapping goes on for at least 512 KiB behind the stack and up to an aligned 4 MiB boundary: space
for the kernel to use before it can allocate. Two kinds of elements may lie behind the mapping, if
the kernel says in its notes that it can do with that: the ramdisk (MOD_START_PFN; it is then not
mapped at all), and the P2M (INIT_P2M: mapped at the address that the note names, by page tables of
its own which lie behind it). Both would otherwise limit the memory of a domain, as the initial
mapping of Linux has to fit into 2 GiB or less.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Protocol

from msgspec import Struct

from pyxen.abi import xen
from pyxen.builder.elf import PF_X, SHF_EXECINSTR
from pyxen.builder.files import OpenFile, open_for_reading
from pyxen.builder.image import KernelImage
from pyxen.builder.notes import PvKernel, XenNotes
from pyxen.errors import PyxenError
from pyxen.hypervisor.page_flags import (
    ACCESSED,
    DIRTY,
    NX,
    PAGE_SHIFT,
    PAGE_SIZE,
    PRESENT,
    RW,
)

_MIB: Final = 1 << 20

# Xen also sets the user bit, as its 64-bit guests' kernels run in ring 3 like their processes. Here
# the guest kernel runs at privilege level 1, so that the paging hardware protects it from them.
_KERNEL: Final = PRESENT | RW | ACCESSED | DIRTY

# A page table of level n maps 1 << _TABLE_SHIFT[n] bytes.
_TABLE_SHIFT: Final = {1: 21, 2: 30, 3: 39, 4: 48}
_VA_MASK: Final = (1 << 48) - 1

_MAPPING_ALIGNMENT: Final = 4 * _MIB
_PADDING: Final = 512 << 10

# Xen's own part of the address space, and the addresses that are not canonical.
_RESERVED: Final = (
    (0x0000_8000_0000_0000, 0xFFFF_8800_0000_0000, "addresses that are Xen's or not canonical"),
    (1 << 64, 1 << 128, "addresses beyond 64 bits"),
)


class GuestMemory(Protocol):
    """The domain's memory, as far as a builder needs it. It is all zero at the start."""

    @property
    def nr_pages(self) -> int:
        """Pages given to the domain: pfn 0 up to, not including, this."""

    @property
    def p2m(self) -> array[int]:
        """The mfn of each pfn, as 64-bit numbers."""

    @property
    def words(self) -> memoryview:
        """All machine memory as 64-bit numbers, by machine address / 8."""

    @property
    def shared_info_mfn(self) -> int: ...

    def copy_to_pfn(self, pfn: int, data: memoryview | bytes, offset: int = 0, /) -> None:
        """Copy to consecutive pages, from `offset` bytes into the first."""


class PvDomain(Protocol):
    """A domain, as far as a builder needs it."""

    @property
    def memory(self) -> GuestMemory: ...

    def install_hypervisor_slots(self, l4_mfn: int, /) -> None:
        """Put Xen's own entries into an L4 page table."""

    def fill_hypercall_page(self, mfn: int, /) -> None: ...


class PvStart(Struct, frozen=True):
    """What the first vcpu begins with, and where the pages shared with the back ends are.

    `entry`, `stack_pointer` and `start_info_address` are virtual addresses, for rip, rsp and rsi.
    `page_table_pfns` are those of the initial mapping, the L4 first; the tables of a separately
    mapped P2M are reached from the L4 only.
    """

    entry: int
    stack_pointer: int
    start_info_address: int
    l4_mfn: int
    page_table_pfns: range
    console_pfn: int
    console_mfn: int
    store_pfn: int
    store_mfn: int


def build_pv(
    domain: PvDomain,
    kernel: KernelImage,
    ramdisk: Path | None,
    command_line: str,
    *,
    console_port: int,
    store_port: int,
    offered_features: int,
    open_file: OpenFile = open_for_reading,
) -> PvStart:
    """Fill the memory of a new domain with all that its kernel expects at its start.

    `offered_features` is the mask that the hypervisor answers to XENVER_get_features. `open_file`
    opens the ramdisk.

    Raises PyxenError if the kernel cannot run as a PV domain, the ramdisk cannot be read, the
    command line is too long, or the domain has too little memory for all of them.
    """
    memory = domain.memory
    place = kernel.check_pv(offered_features)
    arguments = _encode_command_line(command_line)
    module = _read_ramdisk(ramdisk, open_file, memory.nr_pages) if ramdisk else b""
    try:
        layout = _plan(kernel.notes, place, len(module), memory.nr_pages)
        _check_fits(layout, kernel.notes, place, ramdisk, len(module), memory.nr_pages)
    except PyxenError as error:
        raise PyxenError(f"{kernel.path}: {error}") from None

    _load_kernel(domain, kernel, layout)
    if module:
        memory.copy_to_pfn(layout.ramdisk_pfn, module)
    memory.copy_to_pfn(layout.p2m_pfn, memoryview(memory.p2m).cast("B"))
    _write_page_tables(memory, kernel, layout)
    l4_mfn = memory.p2m[layout.page_tables[0]]
    domain.install_hypervisor_slots(l4_mfn)
    store_mfn = memory.p2m[layout.store_pfn]
    console_mfn = memory.p2m[layout.console_pfn]
    flags = xen.SIF_VIRT_P2M_4TOOLS
    module_start = 0
    if module and layout.ramdisk_mapped:
        module_start = layout.address_of(layout.ramdisk_pfn)
    elif module:
        module_start = layout.ramdisk_pfn
        flags |= xen.SIF_MOD_START_PFN
    start_info = xen.START_INFO.pack(
        b"xen-3.0-x86_64",
        memory.nr_pages,
        memory.shared_info_mfn << PAGE_SHIFT,
        flags,
        store_mfn,
        store_port,
        console_mfn,
        console_port,
        layout.address_of(layout.page_tables[0]),
        len(layout.page_tables),
        layout.p2m_address,
        module_start,
        len(module),
        arguments,
        layout.p2m_pfn if layout.p2m_separate else 0,
        layout.p2m_pages + len(layout.p2m_tables) if layout.p2m_separate else 0,
    )
    memory.copy_to_pfn(layout.start_info_pfn, start_info)
    return PvStart(
        entry=place.entry,
        stack_pointer=layout.address_of(layout.boot_stack_pfn + 1),
        start_info_address=layout.address_of(layout.start_info_pfn),
        l4_mfn=l4_mfn,
        page_table_pfns=layout.page_tables,
        console_pfn=layout.console_pfn,
        console_mfn=console_mfn,
        store_pfn=layout.store_pfn,
        store_mfn=store_mfn,
    )


class _Layout(Struct, frozen=True):
    """Where everything goes. Ranges and `_pfn` count pages; the mapping is of pfn 0 and up.

    `tables` gives the pfn of each page table by its level and its place among all the tables of
    this level in the 48-bit address space; `p2m_tables` are those that lie behind the P2M.
    """

    virt_base: int
    ramdisk_pfn: int
    ramdisk_mapped: bool
    p2m_pfn: int
    p2m_pages: int
    p2m_address: int
    p2m_separate: bool
    start_info_pfn: int
    store_pfn: int
    console_pfn: int
    page_tables: range
    boot_stack_pfn: int
    mapped_pages: int
    p2m_tables: range
    tables: dict[tuple[int, int], int]
    total_pages: int

    def address_of(self, pfn: int) -> int:
        """The virtual address of a page in the initial mapping."""
        return self.virt_base + (pfn << PAGE_SHIFT)


def _plan(notes: XenNotes, place: PvKernel, ramdisk_size: int, nr_pages: int) -> _Layout:
    """Place everything in a domain of `nr_pages`, whether or not it has as many as that takes."""
    virt_base = notes.virt_base
    if virt_base % PAGE_SIZE or notes.paddr_offset % PAGE_SIZE:
        raise PyxenError(
            f"kernel with the notes VIRT_BASE {virt_base:#x} and PADDR_OFFSET "
            f"{notes.paddr_offset:#x}, expected multiples of {PAGE_SIZE}"
        )
    ramdisk_pages = _pages(ramdisk_size)
    p2m_pages = _pages(nr_pages * 8)
    init_p2m = notes.init_p2m
    # As Xen does: a note that names an address at which the P2M cannot lie is ignored.
    if init_p2m is not None and (init_p2m >= virt_base or init_p2m % PAGE_SIZE):
        init_p2m = None

    pfn = _pages(place.end - virt_base)
    ramdisk_pfn = p2m_pfn = 0
    if not notes.mod_start_pfn:
        ramdisk_pfn, pfn = pfn, pfn + ramdisk_pages
    if init_p2m is None:
        p2m_pfn, pfn = pfn, pfn + p2m_pages
    start_info_pfn, store_pfn, console_pfn = pfn, pfn + 1, pfn + 2
    pfn += 3
    mapping_end, boot_tables = _plan_initial_mapping(virt_base, pfn)
    tables = {table: pfn + i for i, table in enumerate(boot_tables)}
    page_tables = range(pfn, pfn + len(tables))
    boot_stack_pfn = page_tables.stop

    mapped_pages = pfn = (mapping_end - virt_base) >> PAGE_SHIFT
    if notes.mod_start_pfn:
        ramdisk_pfn, pfn = pfn, pfn + ramdisk_pages
    p2m_tables = range(0)
    p2m_address = virt_base + (p2m_pfn << PAGE_SHIFT)
    if init_p2m is not None:
        p2m_pfn, pfn = pfn, pfn + p2m_pages
        p2m_address = init_p2m
        p2m_end = init_p2m + p2m_pages * PAGE_SIZE
        _check_addresses("P2M", init_p2m, p2m_end)
        if p2m_end > virt_base:
            raise PyxenError(
                f"P2M at INIT_P2M {init_p2m:#x} would reach to {p2m_end:#x}, "
                f"into the initial mapping at {virt_base:#x}"
            )
        more = [table for table in _tables_of(init_p2m, p2m_end) if table not in tables]
        tables.update((table, pfn + i) for i, table in enumerate(more))
        p2m_tables = range(pfn, pfn + len(more))
        pfn = p2m_tables.stop
    return _Layout(
        virt_base=virt_base,
        ramdisk_pfn=ramdisk_pfn,
        ramdisk_mapped=not notes.mod_start_pfn,
        p2m_pfn=p2m_pfn,
        p2m_pages=p2m_pages,
        p2m_address=p2m_address,
        p2m_separate=init_p2m is not None,
        start_info_pfn=start_info_pfn,
        store_pfn=store_pfn,
        console_pfn=console_pfn,
        page_tables=page_tables,
        boot_stack_pfn=boot_stack_pfn,
        mapped_pages=mapped_pages,
        p2m_tables=p2m_tables,
        tables=tables,
        total_pages=pfn,
    )


def _plan_initial_mapping(virt_base: int, pfn: int) -> tuple[int, list[tuple[int, int]]]:
    """The end of the initial mapping and its page tables, if these begin at `pfn`.

    The mapping must have room for its own tables, and each of them makes it possibly longer.
    """
    nr_tables = 0
    while True:
        # The stack is the one page more.
        least = virt_base + ((pfn + nr_tables + 1) << PAGE_SHIFT) + _PADDING
        end = (least // _MAPPING_ALIGNMENT + 1) * _MAPPING_ALIGNMENT
        _check_addresses("initial mapping", virt_base, end)
        tables = list(_tables_of(virt_base, end))
        if len(tables) == nr_tables:
            return end, tables
        nr_tables = len(tables)


def _check_addresses(what: str, start: int, end: int) -> None:
    for first, after, name in _RESERVED:
        if start < after and first < end:
            raise PyxenError(f"{what} would lie at {start:#x} to {end:#x}, which reaches {name}")


def _tables_of(start: int, end: int) -> Iterator[tuple[int, int]]:
    """The page tables, level and place, which map the addresses from start to end; top first."""
    for level in (4, 3, 2, 1):
        shift = _TABLE_SHIFT[level]
        first, last = (start & _VA_MASK) >> shift, (end - 1 & _VA_MASK) >> shift
        for place in range(first, last + 1):
            yield level, place


def _pages(size: int) -> int:
    return -(-size // PAGE_SIZE)


def _check_fits(
    layout: _Layout,
    notes: XenNotes,
    place: PvKernel,
    ramdisk: Path | None,
    ramdisk_size: int,
    nr_pages: int,
) -> None:
    if layout.total_pages <= nr_pages:
        return
    # A domain with more memory has a longer P2M and so needs a little more.
    needed = layout.total_pages
    while (total := _plan(notes, place, ramdisk_size, needed).total_pages) > needed:
        needed = total
    what = "kernel needs"
    if ramdisk_size and _plan(notes, place, 0, nr_pages).total_pages <= nr_pages:
        what = f"kernel and its ramdisk {ramdisk} of {_mib(_pages(ramdisk_size))} MiB need"
    raise PyxenError(
        f"{what} at least {_mib(needed)} MiB of memory, "
        f"the domain has {nr_pages * PAGE_SIZE // _MIB}"
    )


def _mib(pages: int) -> int:
    return -(-pages * PAGE_SIZE // _MIB)


def _encode_command_line(command_line: str) -> bytes:
    arguments = command_line.encode("utf-8", "surrogateescape")
    limit = xen.MAX_GUEST_CMDLINE - 1
    if len(arguments) > limit:
        raise PyxenError(f"command line has {len(arguments)} bytes, expected at most {limit}")
    if b"\0" in arguments:
        raise PyxenError("command line contains a zero byte, expected text")
    return arguments


def _read_ramdisk(path: Path, open_file: OpenFile, nr_pages: int) -> bytes:
    memory_size = nr_pages * PAGE_SIZE
    try:
        with open_file(path) as file:
            data = file.read(memory_size + 1)
    except OSError as error:
        raise PyxenError(f"{path}: cannot read the ramdisk: {error.strerror}") from None
    if not data:
        raise PyxenError(f"{path}: ramdisk is empty")
    if len(data) > memory_size:
        raise PyxenError(
            f"{path}: ramdisk is larger than the domain's memory of {memory_size // _MIB} MiB"
        )
    return data


def _load_kernel(domain: PvDomain, kernel: KernelImage, layout: _Layout) -> None:
    notes = kernel.notes
    for segment in kernel.elf.loadable:
        pfn, offset = divmod(segment.paddr - notes.paddr_offset, PAGE_SIZE)
        domain.memory.copy_to_pfn(pfn, kernel.elf.segment_data(segment), offset)
    if notes.hypercall_page is not None:
        pfn = (notes.hypercall_page - layout.virt_base) // PAGE_SIZE
        domain.fill_hypercall_page(domain.memory.p2m[pfn])


def _write_page_tables(memory: GuestMemory, kernel: KernelImage, layout: _Layout) -> None:
    p2m, words = memory.p2m, memory.words
    for (level, place), pfn in layout.tables.items():
        if level < 4:
            parent = layout.tables[level + 1, place >> 9]
            words[(p2m[parent] << 9) + (place & 511)] = p2m[pfn] << PAGE_SHIFT | _KERNEL
    _write_leaves(memory, layout, layout.virt_base, 0, _initial_flags(kernel, layout))
    if layout.p2m_separate:
        flags = array("Q", [_KERNEL | NX]) * layout.p2m_pages
        _write_leaves(memory, layout, layout.p2m_address, layout.p2m_pfn, flags)


def _initial_flags(kernel: KernelImage, layout: _Layout) -> array[int]:
    """The flags of each page of the initial mapping.

    Xen maps all of it executable. Here only what the file calls executable is, because an emulator
    that meets stores to a page that might hold code has to take a slow path for them. The program
    headers say it by segment (that of Linux which holds the code for its start holds 17 MB of bss,
    too); the section headers, where a kernel has them, by page. Linux 7.2 has its first code in a
    section that is executable, of a segment that is not.
    """
    flags = array("Q", [_KERNEL | NX]) * layout.mapped_pages
    for start, size in _executable_parts(kernel):
        first, end = start // PAGE_SIZE, _pages(start + size)
        flags[first:end] = array("Q", [_KERNEL]) * (end - first)
    if kernel.notes.hypercall_page is not None:
        flags[(kernel.notes.hypercall_page - layout.virt_base) // PAGE_SIZE] = _KERNEL
    tables = layout.page_tables
    flags[tables.start : tables.stop] = array("Q", [_KERNEL & ~RW | NX]) * len(tables)
    return flags


def _executable_parts(kernel: KernelImage) -> Iterator[tuple[int, int]]:
    """Offsets from the start of memory, and sizes, of what may hold code."""
    for segment in kernel.elf.loadable:
        start = segment.paddr - kernel.notes.paddr_offset
        inside = [
            section
            for section in kernel.elf.sections
            if section.flags & SHF_EXECINSTR
            and segment.vaddr <= section.address < segment.vaddr + segment.memory_size
        ]
        if not inside and segment.flags & PF_X:
            yield start, segment.memory_size
        for section in inside:
            offset = section.address - segment.vaddr
            yield start + offset, min(section.size, segment.memory_size - offset)


def _write_leaves(
    memory: GuestMemory, layout: _Layout, address: int, first_pfn: int, flags: array[int]
) -> None:
    """Map consecutive pages, one for each of `flags`, at consecutive addresses."""
    mfns = memory.p2m[first_pfn : first_pfn + len(flags)]
    entries = memoryview(
        array("Q", [mfn << PAGE_SHIFT | flag for mfn, flag in zip(mfns, flags, strict=True)])
    )
    page = (address & _VA_MASK) >> PAGE_SHIFT
    while entries:
        slot = page & 511
        count = min(512 - slot, len(entries))
        table = memory.p2m[layout.tables[1, page >> 9]] << 9
        memory.words[table + slot : table + slot + count] = entries[:count]
        entries = entries[count:]
        page += count
