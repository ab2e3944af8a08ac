# SPDX-License-Identifier: GPL-2.0-or-later
"""set_gdt, update_descriptor, SET_LDT, and the pages behind them."""

from __future__ import annotations

import pytest
from small_domain import BASE, FREE, L1, READ_ONLY, SCRATCH, USER_L4, SmallDomain

from pyxen.abi import arch_x86_64 as arch
from pyxen.abi import xen
from pyxen.abi.errno import EINVAL
from pyxen.errors import XenError
from pyxen.hypervisor.descriptor_tables import (
    check_descriptor,
    map_ldt_page,
    mapped_pages,
    release_ldt_pages,
)
from pyxen.hypervisor.memory import FIRST_LDT_PAGE
from pyxen.hypervisor.page_flags import ENTRIES, PAGE_SIZE, PRESENT, RW
from pyxen.hypervisor.page_types import NONE, SEGMENT_DESCRIPTORS, WRITABLE
from pyxen.hypervisor.segments import find_descriptor

CODE_RING_0 = 0x00AF9A000000FFFF
CODE_RING_3 = 0x00AFFB000000FFFF
CONFORMING = 0x00AF9E000000FFFF
TSS = 0x0000890000000067
GDT = 20
DPL3, ACCESSED = 3 << 45, 1 << 40


def call_gate(selector: int, dpl: int = 3, reserved: int = 0) -> int:
    return 0x00008C0000000000 | dpl << 45 | selector << 16 | reserved << 32 | 0x1234 << 48 | 0x5678


BAD = [
    TSS,
    0x0000820000000000,  # an LDT
    0x00008E0000000000,  # an interrupt gate
    0x00008F0000000000,  # a trap gate
    0x0000850000000000,  # a task gate
    call_gate(0xE008),  # into Xen's own code segment
    call_gate(0xE010),
    call_gate(0x10, reserved=1),
    call_gate(0x10, reserved=0x80),
]


class TestChecks:
    @pytest.mark.parametrize("descriptor", BAD)
    def test_refused(self, descriptor: int) -> None:
        with pytest.raises(XenError) as caught:
            check_descriptor(descriptor)
        assert caught.value.errno == EINVAL

    @pytest.mark.parametrize("descriptor", [*BAD, CODE_RING_0])
    def test_what_is_not_present_is_harmless(self, descriptor: int) -> None:
        assert check_descriptor(descriptor & ~(1 << 47)) == descriptor & ~(1 << 47)

    @pytest.mark.parametrize("dpl", range(4))
    def test_code_and_data_get_level_3(self, dpl: int) -> None:
        for descriptor in (CODE_RING_0, CONFORMING, 0x00CF92000000FFFF):
            given = descriptor | dpl << 45
            assert check_descriptor(given) == descriptor | DPL3 | ACCESSED

    @pytest.mark.parametrize("selector", [0x10, 0x13, arch.FLAT_KERNEL_CS, 0xE00C, 7])
    @pytest.mark.parametrize("dpl", range(4))
    def test_call_gates_fault(self, selector: int, dpl: int) -> None:
        """Level 0, so that nobody can use it; the selector's level is the kernel's."""
        checked = check_descriptor(call_gate(selector, dpl))
        assert checked == call_gate(selector | 3, 0)
        assert check_descriptor(checked) == checked


class TestDescriptors:
    def put_gdt(self, guest: SmallDomain, pfn: int, index: int, descriptor: int) -> None:
        guest.memory.words[guest.mfn(pfn) * ENTRIES + index] = descriptor

    def set_gdt(self, guest: SmallDomain, mfns: list[int], entries: int) -> int:
        data = b"".join(mfn.to_bytes(8, "little") for mfn in mfns)
        return guest.call(xen.HYPERVISOR_set_gdt, guest.put(data), entries)

    def test_descriptors_get_ring_3_and_can_be_found(self, guest: SmallDomain) -> None:
        self.put_gdt(guest, GDT, 2, CODE_RING_0)
        assert self.set_gdt(guest, [guest.mfn(GDT)], 16) == 0
        assert find_descriptor(guest.vcpu, 2 << 3) >> 45 & 3 == 3
        assert guest.entry(GDT, 2) == find_descriptor(guest.vcpu, 2 << 3)

    def test_no_entries_need_no_pointer(self, guest: SmallDomain) -> None:
        self.put_gdt(guest, GDT, 1, CODE_RING_3)
        self.set_gdt(guest, [guest.mfn(GDT)], 16)
        assert guest.call(xen.HYPERVISOR_set_gdt, 0, 0) == 0
        assert find_descriptor(guest.vcpu, 1 << 3) == 0

    def test_xens_descriptors_are_behind_the_guests(self, guest: SmallDomain) -> None:
        assert find_descriptor(guest.vcpu, arch.FLAT_KERNEL_CS) == 0x00AFFB000000FFFF
        assert find_descriptor(guest.vcpu, arch.FLAT_KERNEL_SS) == 0x00CFF3000000FFFF

    def test_too_many_entries(self, guest: SmallDomain) -> None:
        mfns = [guest.mfn(GDT)] * 15
        assert self.set_gdt(guest, mfns, arch.FIRST_RESERVED_GDT_ENTRY + 1) == -EINVAL

    @pytest.mark.parametrize("index", [0, 3, 511])
    @pytest.mark.parametrize("descriptor", BAD)
    def test_the_whole_page_is_checked(
        self, guest: SmallDomain, index: int, descriptor: int
    ) -> None:
        """Also behind the entries that are asked for: they are mapped, so can be loaded."""
        self.put_gdt(guest, GDT, index, descriptor)
        self.put_gdt(guest, GDT, 1, CODE_RING_0)
        snapshot = guest.snapshot()
        assert self.set_gdt(guest, [guest.mfn(GDT)], 2) == -EINVAL
        assert guest.entry(GDT, 1) == CODE_RING_0
        assert find_descriptor(guest.vcpu, 1 << 3) == 0
        guest.put(bytes(8))
        assert guest.snapshot()[PAGE_SIZE * 7 :] == snapshot[PAGE_SIZE * 7 :]

    @pytest.mark.parametrize("pfn", [L1, USER_L4 + 1000, -1])
    def test_frames_that_cannot_hold_descriptors(self, guest: SmallDomain, pfn: int) -> None:
        assert self.set_gdt(guest, [guest.mfn(GDT), guest.mfn(pfn)], 1024) == -EINVAL

    def test_update_descriptor(self, guest: SmallDomain) -> None:
        call, address = xen.HYPERVISOR_update_descriptor, guest.maddr(GDT, 24)
        assert guest.call(call, address, CODE_RING_0) == 0
        assert guest.entry(GDT, 3) == CODE_RING_0 | 3 << 45 | 1 << 40
        for descriptor in (0, TSS & ~(1 << 47), 1 << 47, 1 << 47 | 3 << 45):
            assert guest.call(call, address, descriptor) == 0  # not present, or of type 0
            assert guest.entry(GDT, 3) == descriptor

    @pytest.mark.parametrize("descriptor", BAD)
    def test_update_descriptor_refuses_system_segments(
        self, guest: SmallDomain, descriptor: int
    ) -> None:
        call, address = xen.HYPERVISOR_update_descriptor, guest.maddr(GDT, 24)
        assert guest.call(call, address, descriptor) == -EINVAL
        assert guest.entry(GDT, 3) == 0

    def test_update_descriptor_refuses_bad_places(self, guest: SmallDomain) -> None:
        call = xen.HYPERVISOR_update_descriptor
        snapshot = guest.snapshot()
        for address in (guest.maddr(GDT, 4), guest.maddr(L1), 0x1000, 1 << 60):
            assert guest.call(call, address, CODE_RING_3) == -EINVAL
        assert guest.snapshot() == snapshot

    def test_call_gate(self, guest: SmallDomain) -> None:
        call, address = xen.HYPERVISOR_update_descriptor, guest.maddr(GDT, 24)
        assert guest.call(call, address, call_gate(0x10)) == 0
        assert guest.entry(GDT, 3) == call_gate(0x13, 0)


class TestPages:
    """Frames of descriptor tables cannot be written, and are given up."""

    def set_gdt(self, guest: SmallDomain, *pfns: int) -> int:
        data = b"".join(guest.mfn(pfn).to_bytes(8, "little") for pfn in pfns)
        return guest.call(xen.HYPERVISOR_set_gdt, guest.put(data), len(pfns) * ENTRIES)

    def uses(self, guest: SmallDomain, pfn: int) -> tuple[int, int, int]:
        mfn = guest.mfn(pfn)
        tables = guest.tables
        return tables.refs[mfn], tables.types[mfn], tables.type_counts[mfn]

    def test_gdt_pages_hold_their_type(self, guest: SmallDomain) -> None:
        assert self.set_gdt(guest, GDT, GDT + 1, GDT) == 0
        assert self.uses(guest, GDT) == (3, SEGMENT_DESCRIPTORS, 2)
        assert self.uses(guest, GDT + 1) == (2, SEGMENT_DESCRIPTORS, 1)
        with pytest.raises(XenError):
            guest.set_entry(L1, 100, guest.mfn(GDT), PRESENT | RW)
        guest.set_entry(L1, 100, guest.mfn(GDT), PRESENT)
        assert guest.call(xen.HYPERVISOR_update_descriptor, guest.maddr(GDT, 8), CODE_RING_3) == 0
        assert self.set_gdt(guest, GDT + 2) == 0
        assert self.uses(guest, GDT) == (2, NONE, 0)
        guest.set_entry(L1, 100, guest.mfn(GDT), PRESENT | RW)

    def test_writable_page_becomes_none(self, guest: SmallDomain) -> None:
        assert self.set_gdt(guest, GDT) == 0
        guest.put(bytes(64))
        before = guest.snapshot()
        assert self.set_gdt(guest, GDT + 1, SCRATCH + 1) == -EINVAL
        assert guest.snapshot()[7 * PAGE_SIZE :] == before[7 * PAGE_SIZE :]
        assert self.uses(guest, GDT + 1) == (1, NONE, 0)
        assert [mfn for _, mfn in mapped_pages(guest.memory, 0)] == [guest.mfn(GDT)]

    def test_descriptor_in_a_writable_page(self, guest: SmallDomain) -> None:
        call = xen.HYPERVISOR_update_descriptor
        assert guest.call(call, guest.maddr(SCRATCH + 1, 8), CODE_RING_0) == 0
        assert guest.entry(SCRATCH + 1, 1) == CODE_RING_0 | DPL3 | ACCESSED
        assert self.uses(guest, SCRATCH + 1) == (2, WRITABLE, 1)
        assert guest.call(call, guest.maddr(SCRATCH + 1, 8), TSS) == -EINVAL

    @pytest.fixture
    def ldt(self, guest: SmallDomain) -> SmallDomain:
        """Of two pages, the frames of pfn READ_ONLY and FREE; nothing is mapped behind it."""
        guest.set_entry(L1, 101, guest.mfn(READ_ONLY), PRESENT)
        guest.set_entry(L1, 102, guest.mfn(FREE), PRESENT)
        self.set_ldt(guest, BASE + 101 * PAGE_SIZE, 1536)
        return guest

    def set_ldt(self, guest: SmallDomain, base: int, entries: int) -> None:
        operation = guest.put(xen.MMUEXT_OP.pack(xen.MMUEXT_SET_LDT, base, entries))
        assert guest.call(xen.HYPERVISOR_mmuext_op, operation, 1, 0, xen.DOMID_SELF) == 0

    def test_ldt_pages_are_mapped_when_they_are_needed(self, ldt: SmallDomain) -> None:
        assert list(mapped_pages(ldt.memory, 0)) == []
        assert map_ldt_page(ldt.vcpu, 0x1008)
        assert list(mapped_pages(ldt.memory, 0)) == [(FIRST_LDT_PAGE + 1, ldt.mfn(FREE))]
        assert self.uses(ldt, FREE) == (3, SEGMENT_DESCRIPTORS, 1)
        assert map_ldt_page(ldt.vcpu, 0)
        assert not map_ldt_page(ldt.vcpu, 0x2000)
        assert not map_ldt_page(ldt.vcpu, 1536 * 8)

    def test_writable_page_is_no_ldt(self, ldt: SmallDomain) -> None:
        ldt.set_entry(L1, 102, ldt.mfn(FREE), PRESENT | RW)
        assert not map_ldt_page(ldt.vcpu, 0x1000)
        assert list(mapped_pages(ldt.memory, 0)) == []

    def test_mapped_page_gets_no_writable_mapping(self, ldt: SmallDomain) -> None:
        assert map_ldt_page(ldt.vcpu, 0x1000)
        with pytest.raises(XenError):
            ldt.set_entry(L1, 102, ldt.mfn(FREE), PRESENT | RW)

    def test_another_ldt_gives_the_pages_up(self, ldt: SmallDomain) -> None:
        map_ldt_page(ldt.vcpu, 0x1000)
        ldt.engine.flushes.clear()
        self.set_ldt(ldt, BASE + 101 * PAGE_SIZE, 1536)
        assert self.uses(ldt, FREE) == (3, SEGMENT_DESCRIPTORS, 1)
        self.set_ldt(ldt, 0, 0)
        assert self.uses(ldt, FREE) == (2, NONE, 0)
        assert ldt.engine.flushes == [None]
        assert not release_ldt_pages(ldt.vcpu)
        assert not map_ldt_page(ldt.vcpu, 0)

    def test_another_base_gives_the_pages_up(self, ldt: SmallDomain) -> None:
        map_ldt_page(ldt.vcpu, 0x1000)
        ldt.domain.load_kernel_base(ldt.vcpu, ldt.vcpu.kernel_table_mfn)
        assert self.uses(ldt, FREE) == (3, SEGMENT_DESCRIPTORS, 1)
        old = ldt.vcpu.kernel_table_mfn
        ldt.domain.load_kernel_base(ldt.vcpu, ldt.mfn(USER_L4))
        assert self.uses(ldt, FREE) == (2, NONE, 0)
        ldt.domain.load_kernel_base(ldt.vcpu, old)
