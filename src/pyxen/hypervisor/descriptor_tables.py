# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's descriptor tables, which the CPU reads when a segment register is loaded.

A PV guest gives Xen the frames of its GDT (``set_gdt``) and the address of its LDT
(``MMUEXT_SET_LDT``). Xen maps the frames into its own per-domain area, and that is where the CPU
finds them: each vCPU has 16 pages there for its GDT, of which the last two are Xen's own, and 16
for its LDT. A frame that is mapped there has the type SEGMENT_DESCRIPTORS, so that the guest cannot
write to it, and holds only what is harmless: code and data segments of privilege level 3, and call
gates to level 0, which fault.

The pages of the GDT are mapped at once, those of the LDT when the CPU first needs one: the access
faults, and ``map_ldt_page`` looks up which frame the guest has mapped at that place of its LDT.
They are given up when the guest names another LDT or switches its page tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyxen.abi.arch_x86_64 import FIRST_RESERVED_GDT_ENTRY, FLAT_KERNEL_CS
from pyxen.abi.errno import EINVAL
from pyxen.errors import XenError
from pyxen.hypervisor.memory import FIRST_LDT_PAGE, VCPU_PAGES
from pyxen.hypervisor.page_flags import ENTRIES, FRAME, PAGE_SHIFT, PRESENT
from pyxen.hypervisor.page_types import SEGMENT_DESCRIPTORS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyxen.hypervisor.memory import Memory
    from pyxen.hypervisor.vcpu import Vcpu

_PRESENT: Final = 1 << 47
_DPL_SHIFT: Final = 45
_DPL: Final = 3 << _DPL_SHIFT
_CODE_OR_DATA: Final = 1 << 44
_ACCESSED: Final = 1 << 40
_TYPE: Final = 15 << 40
_CALL_GATE: Final = 12 << 40
_GATE_RESERVED: Final = 0xFF << 32
_SELECTOR_SHIFT: Final = 16
_SELECTOR: Final = 0xFFFF << _SELECTOR_SHIFT
_LOCAL: Final = 4


def check_descriptor(descriptor: int) -> int:
    """The descriptor as the guest may have it. Raises EINVAL for one that it may not have.

    Not Xen's, but needed: the accessed bit of a segment is set, since the CPU sees these pages
    read-only.
    """
    if not descriptor & _PRESENT:
        return descriptor
    if descriptor & _CODE_OR_DATA:
        return descriptor | _DPL | _ACCESSED
    kind = descriptor & _TYPE
    if not kind:  # what the second half of a call gate looks like
        return descriptor
    selector = (descriptor & _SELECTOR) >> _SELECTOR_SHIFT
    if kind != _CALL_GATE or descriptor & _GATE_RESERVED or not _may_be_called(selector):
        raise XenError(EINVAL)
    return descriptor & ~_DPL | 3 << _SELECTOR_SHIFT


def _may_be_called(selector: int) -> bool:
    """Whether a gate may lead to this code segment."""
    return (
        selector >> 3 < FIRST_RESERVED_GDT_ENTRY
        or selector == FLAT_KERNEL_CS
        or bool(selector & _LOCAL)
    )


def check_descriptors(words: memoryview, mfn: int) -> bool:
    """Make all descriptors of a frame harmless. False if one cannot be: nothing has changed."""
    first = mfn * ENTRIES
    try:
        checked = [check_descriptor(each) for each in words[first : first + ENTRIES]]
    except XenError:
        return False
    for number, descriptor in enumerate(checked):
        words[first + number] = descriptor
    return True


def load_gdt(vcpu: Vcpu, mfns: list[int]) -> None:
    """Make these frames a vCPU's GDT. Raises EINVAL; nothing has changed then."""
    domain = vcpu.domain
    tables = domain.pagetables
    for taken, mfn in enumerate(mfns):
        try:
            tables.get_page_and_type(mfn, SEGMENT_DESCRIPTORS)
        except XenError:
            for other in mfns[:taken]:
                tables.put_page_and_type(other)
            raise
    release_gdt(vcpu)
    for page, mfn in enumerate(mfns):
        domain.memory.map_descriptors(vcpu.index, page, mfn)


def release_gdt(vcpu: Vcpu) -> None:
    """Give up the frames of a vCPU's GDT."""
    domain = vcpu.domain
    for page, mfn in mapped_pages(domain.memory, vcpu.index):
        if page < FIRST_LDT_PAGE:
            domain.memory.unmap_descriptors(vcpu.index, page)
            domain.pagetables.put_page_and_type(mfn)


def map_ldt_page(vcpu: Vcpu, offset: int) -> bool:
    """Map the page of the LDT with the byte at ``offset``; the CPU has missed it.

    False if there is none: the guest has mapped nothing there, or a frame that cannot hold
    descriptors, or the LDT ends before.
    """
    domain = vcpu.domain
    if offset >> 3 >= vcpu.ldt_entries:
        return False
    table = vcpu.cpu.kernel_page_table
    entry = domain.pagetables.find_l1_entry(table, vcpu.ldt_base + offset & (1 << 64) - 1)
    mapping = domain.memory.words[entry >> 3] if entry else 0
    if not mapping & PRESENT:
        return False
    mfn = (mapping & FRAME) >> PAGE_SHIFT
    try:
        domain.pagetables.get_page_and_type(mfn, SEGMENT_DESCRIPTORS)
    except XenError:
        return False
    domain.memory.map_descriptors(vcpu.index, FIRST_LDT_PAGE + (offset >> PAGE_SHIFT), mfn)
    return True


def release_ldt_pages(vcpu: Vcpu) -> bool:
    """Give up the frames of a vCPU's LDT. Returns whether there were any: the TLB is to be flushed
    then."""
    if not vcpu.ldt_entries:
        return False
    domain = vcpu.domain
    dropped = False
    for page, mfn in mapped_pages(domain.memory, vcpu.index):
        if page >= FIRST_LDT_PAGE:
            domain.memory.unmap_descriptors(vcpu.index, page)
            domain.pagetables.put_page_and_type(mfn)
            dropped = True
    return dropped


def mapped_pages(memory: Memory, vcpu: int) -> Iterator[tuple[int, int]]:
    """The guest's frames in a vCPU's part of the per-domain area: page there, and mfn."""
    first = memory.gdt_entries + vcpu * VCPU_PAGES
    for page in range(VCPU_PAGES):
        entry = memory.words[first + page]
        mfn = (entry & FRAME) >> PAGE_SHIFT
        if entry & PRESENT and memory.is_owned(mfn):
            yield page, mfn
