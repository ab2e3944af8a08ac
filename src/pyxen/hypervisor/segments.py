# SPDX-License-Identifier: GPL-2.0-or-later
"""Descriptors of a vCPU, and whether a segment register can be loaded with one.

A selector is the number of a descriptor (bits 3 to 15), the table that it is in (bit 2: 0 for the
GDT, 1 for the LDT) and a requested privilege level (RPL). A descriptor is one 64-bit word. The
tables are pages of the guest that Xen maps in the vCPU's part of the per-domain area: those of the
GDT when ``set_gdt`` names them, those of the LDT when one of their descriptors is first used.

Both modes of a 64-bit guest are ring 3 to the processor: every descriptor of a guest has privilege
level 3. The processor does most loads by itself. Xen has to judge selectors where it loads them for
the guest: on the way back (``iret`` ends in the processor's own IRETQ, whose fault the guest gets
as an exception at the place to which it returned), when a vCPU gets a processor again, and in
``set_segment_base``.

Reference: the SDM's pages on IRET and MOV; Xen's ``pv_map_ldt_shadow_page``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyxen.hypervisor.descriptor_tables import map_ldt_page
from pyxen.hypervisor.memory import FIRST_LDT_PAGE
from pyxen.hypervisor.msr import is_canonical
from pyxen.hypervisor.page_flags import FRAME, PRESENT

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

LOCAL: Final = 4
RPL: Final = 3

_WRITABLE: Final = 1 << 41
_READABLE: Final = 1 << 41
_CONFORMING: Final = 1 << 42
_CODE: Final = 1 << 43
_CODE_OR_DATA: Final = 1 << 44
_DPL: Final = 3 << 45
_SEGMENT_PRESENT: Final = 1 << 47
LONG: Final = 1 << 53
_BIG: Final = 1 << 54
_GRANULARITY: Final = 1 << 55

_NO_SEGMENT: Final = 11
_STACK_ERROR: Final = 12
_GENERAL_PROTECTION: Final = 13
_PAGE_FAULT: Final = 14


class SegmentFault(Exception):
    """A segment register cannot be loaded: the exception that a guest gets of it.

    ``address`` is what CR2 becomes, if the exception is a page fault.
    """

    def __init__(self, vector: int, error_code: int, address: int = 0) -> None:
        super().__init__(vector, error_code, address)
        self.vector = vector
        self.error_code = error_code
        self.address = address


def find_descriptor(vcpu: Vcpu, selector: int) -> int:
    """The descriptor that a selector names; 0 for a selector beyond the end of its table.

    Raises SegmentFault for one in a page of the LDT that the guest kernel has not mapped.
    """
    index = selector >> 3
    page = index >> 9
    if selector & LOCAL:
        if index >= vcpu.ldt_entries:
            return 0
        page += FIRST_LDT_PAGE
    entry = vcpu.words[vcpu.descriptor_pages + page]
    if not entry & PRESENT:
        if page < FIRST_LDT_PAGE:
            return 0
        map_local_page(vcpu, index << 3)
        entry = vcpu.words[vcpu.descriptor_pages + page]
    return vcpu.words[((entry & FRAME) >> 3) + (index & 511)]


def map_local_page(vcpu: Vcpu, offset: int) -> None:
    """Map the page of the LDT with this byte. Raises SegmentFault if that cannot be done."""
    if map_ldt_page(vcpu, offset):
        return
    address = vcpu.ldt_base + offset
    if not is_canonical(address):
        raise SegmentFault(_GENERAL_PROTECTION, offset & ~3 | LOCAL)
    raise SegmentFault(_PAGE_FAULT, 0, address)


def check_code(vcpu: Vcpu, selector: int) -> int:
    """The descriptor of a code segment that ring 3 can run in. Raises SegmentFault."""
    error_code = selector & ~RPL
    if not error_code:
        raise SegmentFault(_GENERAL_PROTECTION, 0)
    descriptor = find_descriptor(vcpu, selector)
    if (
        not descriptor & _CODE_OR_DATA
        or not descriptor & _CODE
        or (not descriptor & _CONFORMING and descriptor & _DPL != _DPL)
        or (descriptor & LONG and descriptor & _BIG)
    ):
        raise SegmentFault(_GENERAL_PROTECTION, error_code)
    if not descriptor & _SEGMENT_PRESENT:
        raise SegmentFault(_NO_SEGMENT, error_code)
    return descriptor


def check_stack(vcpu: Vcpu, selector: int) -> int:
    """The descriptor of a stack segment for ring 3. Raises SegmentFault."""
    error_code = selector & ~RPL
    if not error_code:
        raise SegmentFault(_GENERAL_PROTECTION, 0)
    descriptor = find_descriptor(vcpu, selector)
    if (
        not descriptor & _CODE_OR_DATA
        or descriptor & _CODE
        or not descriptor & _WRITABLE
        or descriptor & _DPL != _DPL
    ):
        raise SegmentFault(_GENERAL_PROTECTION, error_code)
    if not descriptor & _SEGMENT_PRESENT:
        raise SegmentFault(_STACK_ERROR, error_code)
    return descriptor


def check_data(vcpu: Vcpu, selector: int) -> int:
    """The descriptor with which Xen can load DS, ES, FS or GS; 0 for a null selector.

    Raises SegmentFault.
    """
    error_code = selector & ~RPL
    if not error_code:
        return 0
    descriptor = find_descriptor(vcpu, selector)
    code = descriptor & _CODE
    if (
        not descriptor & _CODE_OR_DATA
        or (code and not descriptor & _READABLE)
        or (not (code and descriptor & _CONFORMING) and (descriptor & _DPL) >> 45 < selector & RPL)
    ):
        raise SegmentFault(_GENERAL_PROTECTION, error_code)
    if not descriptor & _SEGMENT_PRESENT:
        raise SegmentFault(_NO_SEGMENT, error_code)
    return descriptor


def segment_base(descriptor: int) -> int:
    return descriptor >> 16 & 0xFFFFFF | (descriptor >> 56) << 24


def segment_limit(descriptor: int) -> int:
    """The offset of the last byte."""
    limit = descriptor & 0xFFFF | descriptor >> 32 & 0xF0000
    return limit << 12 | 0xFFF if descriptor & _GRANULARITY else limit
