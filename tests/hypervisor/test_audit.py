# SPDX-License-Identifier: GPL-2.0-or-later
"""The audit finds each kind of mistake, and a domain that ends leaves nothing."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from small_domain import FREE, L1, L4, PAGES, SCRATCH, SmallDomain, small_domain

from pyxen.abi import vcpu, xen
from pyxen.hypervisor.descriptor_tables import load_gdt, map_ldt_page
from pyxen.hypervisor.memory import DOMAIN
from pyxen.hypervisor.page_flags import ENTRIES, PRESENT, RW
from pyxen.hypervisor.page_types import NONE, WRITABLE


def flip(array: object, index: int, value: int) -> Callable[[], None]:
    """Spoil one number; what this returns puts it right again."""
    old = array[index]  # type: ignore[index]
    array[index] = value  # type: ignore[index]

    def undo() -> None:
        array[index] = old  # type: ignore[index]

    return undo


MISTAKES: dict[str, Callable[[SmallDomain], Callable[[], None]]] = {
    "references": lambda guest: flip(guest.tables.refs, guest.mfn(SCRATCH), 3),
    "no references": lambda guest: flip(guest.tables.refs, guest.mfn(FREE), 0),
    "type references": lambda guest: flip(guest.tables.type_counts, guest.mfn(SCRATCH), 2),
    "type": lambda guest: flip(guest.tables.types, guest.mfn(SCRATCH), NONE),
    "type of a table": lambda guest: flip(guest.tables.types, guest.mfn(L1), WRITABLE),
    "pin": lambda guest: flip(guest.tables.pinned, guest.mfn(L4), 0),
    "linear count": lambda guest: flip(guest.tables.linear_counts, guest.mfn(L4), 1),
    "allocation": lambda guest: flip(guest.memory.allocated, guest.mfn(FREE), 0),
    "shared frame": lambda guest: flip(guest.tables.refs, guest.memory.shared_info_mfn, 2),
    "owner": lambda guest: flip(guest.memory.owner, guest.mfn(FREE), 0),
    "free frame": lambda guest: flip(guest.memory.owner, guest.mfn(PAGES), DOMAIN),
    "pfn of a free frame": lambda guest: flip(guest.memory.m2p, guest.mfn(PAGES), 7),
    "entry behind Xen's back": lambda guest: flip(
        guest.memory.words, guest.mfn(L1) * ENTRIES + 99, guest.maddr(FREE) | PRESENT
    ),
    "writable entry behind Xen's back": lambda guest: flip(
        guest.memory.words, guest.mfn(L1) * ENTRIES + L1, guest.maddr(L1) | PRESENT | RW
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_found(guest: SmallDomain, mistake: str) -> None:
    assert guest.domain.audit() == []
    undo = MISTAKES[mistake](guest)
    assert guest.domain.audit() != []
    undo()
    assert guest.domain.audit() == []


def test_registered_vcpu_info_is_a_use(guest: SmallDomain) -> None:
    mfn = guest.mfn(FREE)
    place = guest.put_struct(vcpu.VCPU_REGISTER_VCPU_INFO, mfn, 64, 0)
    call = (xen.HYPERVISOR_vcpu_op, vcpu.VCPUOP_register_vcpu_info, 0, place)
    assert guest.call(*call) == 0
    assert (guest.tables.refs[mfn], guest.tables.types[mfn]) == (2, WRITABLE)
    guest.memory.release(mfn)
    assert guest.memory.is_domains(mfn)


def test_everything_is_given_up_at_the_end() -> None:
    with small_domain(2) as guest:
        memory, tables = guest.memory, guest.tables
        guest.set_entry(L1, 100, memory.shared_info_mfn, PRESENT | RW)
        guest.set_entry(L1, 101, guest.mfn(FREE), PRESENT)
        guest.set_entry(L1, 102, guest.mfn(L1), PRESENT)
        load_gdt(guest.vcpu, [guest.mfn(FREE + 1)])
        operation = guest.put(xen.MMUEXT_OP.pack(xen.MMUEXT_SET_LDT, guest.address(101), 8))
        guest.call(xen.HYPERVISOR_mmuext_op, operation, 1, 0, xen.DOMID_SELF)
        assert map_ldt_page(guest.vcpu, 0)
        place = guest.put_struct(vcpu.VCPU_REGISTER_VCPU_INFO, guest.mfn(FREE + 2), 0, 0)
        guest.call(xen.HYPERVISOR_vcpu_op, vcpu.VCPUOP_register_vcpu_info, 0, place)
        tables.pin(guest.mfn(FREE + 3), 3)
        guest.domain.load_user_base(guest.vcpu, guest.mfn(L4))
        memory.release(guest.mfn(FREE))
        memory.release(guest.mfn(L1))
        guest.put(struct.pack("<Q", 0))
        assert guest.domain.audit() == []
    assert not any(tables.pinned)
    assert not any(tables.linear_counts)
    assert memory.owner.count(DOMAIN) == 0
    assert memory.nr_pages == 0
    first = memory.ram_mfn
    assert not any(tables.refs[first:])
    assert not any(tables.types[first:])
    assert tables.refs[memory.shared_info_mfn] == 1
