# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's mappings of grants into its own page tables.

A domain may grant a page to itself and map it: programs of one guest that talk by grants do so. The
mapping is an L1 entry, which the guest names by the linear address that it maps or, with
``GNTMAP_contains_pte``, by the entry's machine address. The entry holds the frame as every entry
does; a mapping "for devices" holds it once more. It is to be undone by the handle. A guest that
takes the entry away by an update of the table instead gives up the entry's hold as well, but can
undo the mapping no more: its grant stays in use, as under Xen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyxen.abi.grant_table import (
    GNTMAP_application_map,
    GNTMAP_contains_pte,
    GNTMAP_device_map,
    GNTMAP_guest_avail0,
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_dev_addr,
    GNTST_bad_handle,
    GNTST_general_error,
    GNTST_no_space,
)
from pyxen.errors import XenError
from pyxen.hypervisor.addresses import is_guest_address
from pyxen.hypervisor.grants import GrantError, pin_increment
from pyxen.hypervisor.maptrack import NO_HANDLE
from pyxen.hypervisor.page_flags import (
    ACCESSED,
    DIRTY,
    FRAME,
    NX,
    PAGE_SHIFT,
    PRESENT,
    RW,
    USER,
)
from pyxen.hypervisor.page_types import L1

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

_AVAILABLE_SHIFT: Final = 9
_BOTH: Final = GNTMAP_host_map | GNTMAP_device_map


def reserve_handle(vcpu: Vcpu) -> int:
    """Raises GrantError."""
    handle = vcpu.domain.grants.maptrack.reserve()
    if handle == NO_HANDLE:
        raise GrantError(GNTST_no_space)
    return handle


def map_own(vcpu: Vcpu, handle: int, host_address: int, flags: int, ref: int) -> int:
    """Map a grant of the guest's own with a reserved handle; returns its frame.

    ``flags`` ask for at least one mapping. Raises GrantError.
    """
    table = vcpu.domain.grants
    increment = pin_increment(flags)
    writing = not flags & GNTMAP_readonly
    mfn = table.acquire(ref, vcpu.domain.domid, increment)
    try:
        if flags & GNTMAP_device_map:
            table.take(mfn, writing)
        if flags & GNTMAP_host_map:
            try:
                _create(vcpu, host_address, mfn, flags)
            except GrantError:
                if flags & GNTMAP_device_map:
                    table.give_back(mfn, writing)
                raise
    except GrantError:
        table.release(ref, increment)
        raise
    table.maptrack.refs[handle] = ref
    table.maptrack.flags[handle] = flags & 0xFFFF
    return mfn


def unmap_own(
    vcpu: Vcpu, handle: int, host_address: int, bus_address: int, new_address: int = 0
) -> None:
    """Undo the mapping for CPUs, for devices or both: those whose address is not 0.

    ``new_address`` is one whose entry moves to the place of the mapping's. Raises GrantError.
    """
    table = vcpu.domain.grants
    maptrack = table.maptrack
    if not maptrack.is_used(handle):
        raise GrantError(GNTST_bad_handle)
    flags = maptrack.flags[handle]
    ref = maptrack.refs[handle]
    mfn = table.frames[ref]
    undone = 0
    if bus_address and flags & GNTMAP_device_map and bus_address != mfn << PAGE_SHIFT:
        raise GrantError(GNTST_bad_dev_addr)
    if host_address and flags & GNTMAP_host_map:
        _replace(vcpu, host_address, mfn, flags, new_address)
        undone |= GNTMAP_host_map
    if bus_address and flags & GNTMAP_device_map:
        table.give_back(mfn, not flags & GNTMAP_readonly)
        undone |= GNTMAP_device_map
    if not flags & ~undone & _BOTH:
        maptrack.free(handle)
    else:
        maptrack.flags[handle] = flags & ~undone
    if undone:
        table.release(ref, pin_increment(undone | flags & GNTMAP_readonly))


def _create(vcpu: Vcpu, address: int, mfn: int, flags: int) -> None:
    entry = _find_entry(vcpu, address, flags)
    value = mfn << PAGE_SHIFT | PRESENT | ACCESSED | DIRTY | NX
    value |= (flags >> GNTMAP_guest_avail0 & 7) << _AVAILABLE_SHIFT
    if flags & GNTMAP_application_map:
        value |= USER
    if not flags & GNTMAP_readonly:
        value |= RW
    _update(vcpu, entry, value)


def _replace(vcpu: Vcpu, address: int, mfn: int, flags: int, new_address: int) -> None:
    """Take the mapping's entry away, or put that of ``new_address`` there, which is emptied."""
    new = 0
    if new_address:
        if flags & GNTMAP_contains_pte:
            raise GrantError(GNTST_general_error)
        source = _find_entry(vcpu, new_address, 0)
        new = vcpu.domain.memory.words[source >> 3]
        _update(vcpu, source, 0)
    entry = _find_entry(vcpu, address, flags)
    old = vcpu.domain.memory.words[entry >> 3]
    expected = PRESENT if flags & GNTMAP_readonly else PRESENT | RW
    if (old & FRAME) >> PAGE_SHIFT != mfn or old & (PRESENT | RW) != expected:
        raise GrantError(GNTST_general_error)
    _update(vcpu, entry, new)


def _find_entry(vcpu: Vcpu, address: int, flags: int) -> int:
    """Machine address of an entry of one of the guest's L1 tables."""
    domain = vcpu.domain
    if flags & GNTMAP_contains_pte:
        entry = address if address & 7 == 0 else 0
    elif is_guest_address(address):
        entry = domain.pagetables.find_l1_entry(vcpu.cpu.kernel_page_table, address)
    else:
        entry = 0
    mfn = entry >> PAGE_SHIFT
    if not domain.memory.is_domains(mfn) or domain.pagetables.types[mfn] != L1:
        raise GrantError(GNTST_general_error)
    return entry


def _update(vcpu: Vcpu, entry: int, value: int) -> None:
    try:
        vcpu.domain.pagetables.update(entry, value, False)
    except XenError:
        raise GrantError(GNTST_general_error) from None
