# SPDX-License-Identifier: GPL-2.0-or-later
"""mmu_update, mmuext_op, update_va_mapping, memory_op."""

from __future__ import annotations

import struct

import pytest
from small_domain import (
    FREE,
    L1,
    L2,
    L4,
    LAST_SCRATCH,
    MAX_PAGES,
    NON_CANONICAL,
    NOT_MAPPED,
    PAGES,
    READ_ONLY,
    USER_L4,
    XEN_ADDRESS,
    SmallDomain,
)

from pyxen.abi import memory as abi
from pyxen.abi import xen
from pyxen.abi.arch_x86_64 import MACH2PHYS_VIRT_START
from pyxen.abi.errno import (
    EACCES,
    EBUSY,
    EFAULT,
    EINVAL,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
)
from pyxen.hypervisor.memory import INVALID_M2P_ENTRY
from pyxen.hypervisor.page_flags import ACCESSED, DIRTY, PAGE_SIZE, PRESENT, PSE, RW
from pyxen.hypervisor.page_types import NONE

HIGH = 1 << 32
SELF = xen.DOMID_SELF
DONE = 0x800
DEVICE = 2 * PAGE_SIZE
XEN_FRAME = 0x180 * PAGE_SIZE


def mmu_update(guest: SmallDomain, *requests: tuple[int, int], domains: int = SELF) -> int:
    pointer = guest.put(b"".join(xen.MMU_UPDATE.pack(*request) for request in requests))
    done = guest.put(b"\xff" * 4, DONE)
    return guest.call(xen.HYPERVISOR_mmu_update, pointer, len(requests), done, domains)


def mmuext(guest: SmallDomain, *operations: tuple[int, int, int], domid: int = SELF) -> int:
    pointer = guest.put(b"".join(xen.MMUEXT_OP.pack(*each) for each in operations))
    done = guest.put(b"\xff" * 4, DONE)
    return guest.call(xen.HYPERVISOR_mmuext_op, pointer, len(operations), done, domid)


def done(guest: SmallDomain) -> int:
    (count,) = struct.unpack("<I", guest.read(guest.address(6) + DONE, 4))
    return int(count)


class TestMmuUpdate:
    def l1(self, guest: SmallDomain, index: int = 100) -> int:
        return guest.maddr(L1, index * 8)

    def test_maps_a_page(self, guest: SmallDomain) -> None:
        value = guest.maddr(FREE) | PRESENT | RW
        assert mmu_update(guest, (self.l1(guest), value)) == 0
        assert done(guest) == 1
        guest.write(guest.address(100), b"through the new entry")
        assert bytes(guest.memory.bytes[guest.maddr(FREE) :][:7]) == b"through"

    @pytest.mark.parametrize("command", [0, xen.MMU_PT_UPDATE_NO_TRANSLATE])
    def test_normal_update_drops_accessed_and_dirty(self, guest: SmallDomain, command: int) -> None:
        old = guest.maddr(FREE) | PRESENT | ACCESSED | DIRTY
        new = guest.maddr(FREE) | PRESENT | RW
        assert mmu_update(guest, (self.l1(guest), old), (self.l1(guest) | command, new)) == 0
        assert guest.entry(L1, 100) == new

    def test_preserve_ad(self, guest: SmallDomain) -> None:
        old = guest.maddr(FREE) | PRESENT | ACCESSED | DIRTY
        new = guest.maddr(FREE) | PRESENT | RW
        pointer = self.l1(guest) | xen.MMU_PT_UPDATE_PRESERVE_AD
        assert mmu_update(guest, (self.l1(guest), old), (pointer, new)) == 0
        assert guest.entry(L1, 100) == new | ACCESSED | DIRTY

    def test_first_refused_request_ends_the_batch(self, guest: SmallDomain) -> None:
        good = guest.maddr(FREE) | PRESENT
        requests = [
            (self.l1(guest, 100), good),
            (self.l1(guest, 101), good),
            (self.l1(guest, 102), PRESENT),  # frame 0 is Xen's
            (self.l1(guest, 103), good),
        ]
        assert mmu_update(guest, *requests) < 0
        assert done(guest) == 2
        assert [guest.entry(L1, index) for index in (100, 101, 102, 103)] == [good, good, 0, 0]

    @pytest.mark.parametrize("command", [4, 5, 6, 7])
    def test_unknown_command(self, guest: SmallDomain, command: int) -> None:
        assert mmu_update(guest, (self.l1(guest) | command, 0)) == -ENOSYS
        assert done(guest) == 0

    def test_nothing_to_do_needs_no_pointer(self, guest: SmallDomain) -> None:
        assert guest.call(xen.HYPERVISOR_mmu_update, 0, 0, 0, SELF) == 0

    def test_requests_before_an_unmapped_page_are_done(self, guest: SmallDomain) -> None:
        start = LAST_SCRATCH - 32
        good = guest.maddr(FREE) | PRESENT
        guest.write(start, xen.MMU_UPDATE.pack(self.l1(guest, 100), good) * 2)
        place = guest.put(b"\xff" * 4, DONE)
        assert guest.call(xen.HYPERVISOR_mmu_update, start, 3, place, SELF) == -EFAULT
        assert done(guest) == 2
        assert guest.entry(L1, 100) == good

    def test_requests_across_pages(self, guest: SmallDomain) -> None:
        start = guest.address(6) + 8
        data = b"".join(
            xen.MMU_UPDATE.pack(self.l1(guest, 200 + n % 300), n << 12) for n in range(500)
        )
        guest.write(start, data)
        assert guest.call(xen.HYPERVISOR_mmu_update, start, 500 | HIGH, 0, SELF) == 0
        assert guest.entry(L1, 399) == 499 << 12

    def test_foreign_domains(self, guest: SmallDomain) -> None:
        """A domain's own number is none of a foreign domain; domain 0 is, and out of reach."""
        request = (self.l1(guest), guest.maddr(FREE) | PRESENT)
        own = guest.domain.domid
        for domains, error in (
            (0, EPERM),
            (own, ESRCH),
            (55, ESRCH),
            (xen.DOMID_XEN, EPERM),
            (SELF | 1 << 16, EPERM),
            (SELF | 56 << 16, ESRCH),
        ):
            assert mmu_update(guest, request, domains=domains) == -error
            assert guest.entry(L1, 100) == 0
        assert mmu_update(guest, request, domains=SELF | own + 1 << 16) == 0

    def test_devices(self, guest: SmallDomain) -> None:
        """Pages of DOMID_IO are a matter of L1 entries; a domain without devices has none."""
        table = self.l1(guest)
        for pointer, value, error in (
            (table, guest.maddr(FREE) | PRESENT, EBUSY),
            (table, XEN_FRAME | PRESENT, EBUSY),
            (table, DEVICE | PRESENT, EPERM),
            (table, guest.maddr(FREE) | PRESENT | PSE, EINVAL),
            (guest.maddr(L2, 8), 0, EINVAL),
            (guest.maddr(FREE) | xen.MMU_MACHPHYS_UPDATE, 5, EINVAL),
            (table, 0, 0),
            (guest.maddr(FREE), 7, 0),
        ):
            assert mmu_update(guest, (pointer, value), domains=xen.DOMID_IO) == -error
        assert guest.entry(FREE, 0) == 7

    def test_what_is_wrong_first(self, guest: SmallDomain) -> None:
        """The list's address, then whose tables, whose pages, and then each request."""
        call, place = xen.HYPERVISOR_mmu_update, guest.put(b"\xff" * 4, DONE)
        for requests, count, domains, result, told in (
            (XEN_ADDRESS, 0, SELF, -EFAULT, 0xFFFFFFFF),
            (XEN_ADDRESS, 1, 55, -EFAULT, 0xFFFFFFFF),
            (NOT_MAPPED, 1, SELF | 56 << 16, -ESRCH, 0xFFFFFFFF),
            (NOT_MAPPED, 0, 55, -ESRCH, 0),
            (NOT_MAPPED, 0, 0, 0, 0),
            (NOT_MAPPED, 1, 0, -EFAULT, 0),
        ):
            guest.put(b"\xff" * 4, DONE)
            assert guest.call(call, requests, count, place, domains) == result
            assert done(guest) == told
        assert mmu_update(guest, (7, 0), domains=0) == -ENOSYS
        assert mmu_update(guest, (xen.MMU_MACHPHYS_UPDATE, 0), domains=0) == -EPERM

    def test_change_of_a_table_that_is_in_use_flushes(self, guest: SmallDomain) -> None:
        """A new entry needs no flush, one that goes does: Xen flushes after both."""
        entry = guest.maddr(L2, 8)
        guest.engine.flushes.clear()
        assert mmu_update(guest, (entry, guest.maddr(FREE) | PRESENT | RW)) == 0
        assert guest.engine.flushes == []
        assert mmu_update(guest, (entry, 0), (entry, 0)) == 0
        assert guest.engine.flushes == [None]

    def test_shared_frames_are_the_domains(self, guest: SmallDomain) -> None:
        shared = guest.memory.shared_info_mfn << 12
        assert mmu_update(guest, (self.l1(guest), shared | PRESENT | RW)) == 0
        assert mmu_update(guest, (shared + 0xFF8, 0x77)) == 0
        assert guest.read(guest.address(100) + 0xFF8, 8) == b"\x77" + bytes(7)

    def test_machphys_update(self, guest: SmallDomain) -> None:
        pointer = guest.maddr(FREE) | xen.MMU_MACHPHYS_UPDATE
        assert mmu_update(guest, (pointer, 0x777)) == 0
        assert guest.memory.m2p[guest.mfn(FREE)] == 0x777
        shared = guest.memory.shared_info_mfn
        assert mmu_update(guest, (shared << 12 | xen.MMU_MACHPHYS_UPDATE, 0x778)) == 0
        for mfn in (0, XEN_FRAME >> 12, guest.memory.frames, 1 << 40):
            assert mmu_update(guest, (mfn << 12 | xen.MMU_MACHPHYS_UPDATE, 1)) == -EINVAL

    def test_refused_updates_change_nothing(self, guest: SmallDomain) -> None:
        present = PRESENT | RW
        bad = [
            (guest.maddr(L4, 256 * 8), guest.maddr(FREE) | present, EINVAL),  # Xen's slot
            (guest.maddr(L4, 271 * 8), 0, EINVAL),
            (guest.maddr(L4, 8), guest.maddr(L1) | present, EINVAL),  # wrong level
            (guest.maddr(L2, 8), guest.maddr(FREE) | present | 0x80, EINVAL),  # superpage
            (guest.maddr(L2, 8), XEN_FRAME | present, EINVAL),  # foreign table
            (guest.maddr(L2, 8), 1 << 51 | present, EINVAL),  # no such frame
            (self.l1(guest), XEN_FRAME | present, EBUSY),  # foreign page
            (self.l1(guest), 1 << 51 | present, EPERM),  # no memory
            (0x1000, 0, EINVAL),  # Xen's frame
            (guest.memory.frames << 12, 0, EINVAL),
            (1 << 63, 0, EINVAL),
        ]
        for *request, error in bad:
            mmu_update(guest)  # nothing, so that the scratch page is the same
            pointer = guest.put(xen.MMU_UPDATE.pack(*request))
            snapshot = guest.snapshot()
            assert guest.call(xen.HYPERVISOR_mmu_update, pointer, 1, 0, SELF) == -error
            assert guest.snapshot() == snapshot

    def test_non_present_entries_may_hold_anything(self, guest: SmallDomain) -> None:
        value = (1 << 64) - 2
        for pointer in (self.l1(guest), guest.maddr(L2, 8 * 5), guest.maddr(L4, 8)):
            assert mmu_update(guest, (pointer, value)) == 0

    def test_page_that_is_no_table(self, guest: SmallDomain) -> None:
        assert mmu_update(guest, (guest.maddr(FREE, 16), 0x1234567)) == 0
        assert guest.entry(FREE, 2) == 0x1234567

    def test_error_numbers_of_l1_entries(self, guest: SmallDomain) -> None:
        """EBUSY for a frame that is another's, EPERM for what is not memory."""
        assert mmu_update(guest, (self.l1(guest), DEVICE | PRESENT)) == -EPERM
        assert mmu_update(guest, (self.l1(guest), (1 << 52) - PAGE_SIZE | PRESENT)) == -EINVAL
        assert mmu_update(guest, (self.l1(guest), XEN_FRAME | PRESENT)) == -EBUSY
        no_memory = guest.memory.frames << 12 | PRESENT
        assert mmu_update(guest, (self.l1(guest), no_memory)) == -EPERM


class TestMmuext:
    def test_pin_and_unpin(self, guest: SmallDomain) -> None:
        mfn = guest.mfn(FREE)
        assert mmuext(guest, (xen.MMUEXT_PIN_L1_TABLE, mfn, 0)) == 0
        assert guest.tables.types[mfn] == 1
        assert mmuext(guest, (xen.MMUEXT_PIN_L1_TABLE, mfn, 0)) == -EINVAL
        assert mmuext(guest, (xen.MMUEXT_PIN_L2_TABLE, mfn, 0)) == -EINVAL
        assert mmuext(guest, (xen.MMUEXT_UNPIN_TABLE, mfn, 0)) == 0
        assert mmuext(guest, (xen.MMUEXT_UNPIN_TABLE, mfn, 0)) == -EINVAL
        assert (guest.tables.types[mfn], guest.tables.type_counts[mfn]) == (0, 0)

    @pytest.mark.parametrize("mfn", [0, 5, 1 << 40, (1 << 64) - 1])
    def test_frames_that_are_not_the_domains(self, guest: SmallDomain, mfn: int) -> None:
        for command in (
            xen.MMUEXT_PIN_L1_TABLE,
            xen.MMUEXT_PIN_L4_TABLE,
            xen.MMUEXT_UNPIN_TABLE,
            xen.MMUEXT_NEW_BASEPTR,
            xen.MMUEXT_CLEAR_PAGE,
            xen.MMUEXT_COPY_PAGE,
        ):
            assert mmuext(guest, (command, mfn, guest.mfn(FREE))) == -EINVAL
        assert mmuext(guest, (xen.MMUEXT_COPY_PAGE, guest.mfn(FREE), mfn)) == -EINVAL

    def test_base_pointers(self, guest: SmallDomain) -> None:
        cpu = guest.vcpu.cpu
        new = guest.mfn(USER_L4)
        for index in (511,):
            guest.set_entry(USER_L4, index, guest.mfn(1), PRESENT | RW)
        assert mmuext(guest, (xen.MMUEXT_NEW_BASEPTR, new, 0)) == 0
        assert cpu.kernel_page_table == cpu.registers.cr3 == guest.maddr(USER_L4)
        assert guest.tables.type_counts[new] == 1
        assert mmuext(guest, (xen.MMUEXT_NEW_BASEPTR, new, 0)) == 0
        assert guest.tables.type_counts[new] == 1
        assert mmuext(guest, (xen.MMUEXT_NEW_BASEPTR, guest.mfn(FREE), 0)) == 0
        assert guest.tables.types[new] == 0

    def test_user_base_pointer(self, guest: SmallDomain) -> None:
        new = guest.mfn(USER_L4)
        for mfn, count in ((new, 1), (new, 1), (0, 0)):
            assert mmuext(guest, (xen.MMUEXT_NEW_USER_BASEPTR, mfn, 0)) == 0
            assert guest.tables.type_counts[new] == count
            assert guest.vcpu.cpu.user_page_table == mfn << 12
        assert mmuext(guest, (xen.MMUEXT_NEW_USER_BASEPTR, guest.mfn(L1), 0)) == -EINVAL

    def test_partial_completion(self, guest: SmallDomain) -> None:
        mfn = guest.mfn(FREE)
        operations = [
            (xen.MMUEXT_PIN_L1_TABLE, mfn, 0),
            (xen.MMUEXT_TLB_FLUSH_LOCAL, 0, 0),
            (99, 0, 0),
            (xen.MMUEXT_UNPIN_TABLE, mfn, 0),
        ]
        assert mmuext(guest, *operations) == -ENOSYS
        assert done(guest) == 2
        assert guest.tables.pinned[mfn]

    def test_flushes(self, guest: SmallDomain) -> None:
        mask = guest.put(b"\1" + bytes(7), 0xC00)
        address = guest.address(8)
        guest.engine.flushes.clear()
        for command in (
            xen.MMUEXT_TLB_FLUSH_LOCAL,
            xen.MMUEXT_TLB_FLUSH_MULTI,
            xen.MMUEXT_TLB_FLUSH_ALL,
        ):
            assert mmuext(guest, (command, address, mask)) == 0
        assert guest.engine.flushes == [None] * 3
        guest.engine.flushes.clear()
        for command in (
            xen.MMUEXT_INVLPG_LOCAL,
            xen.MMUEXT_INVLPG_MULTI,
            xen.MMUEXT_INVLPG_ALL,
        ):
            assert mmuext(guest, (command, address, mask)) == 0
            assert mmuext(guest, (command, XEN_ADDRESS, mask)) == 0
        assert guest.engine.flushes == [address] * 3

    def test_caches_and_superpages_are_for_others(self, guest: SmallDomain) -> None:
        assert mmuext(guest, (xen.MMUEXT_FLUSH_CACHE, 0, 0)) == -EACCES
        assert mmuext(guest, (xen.MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0)) == -EINVAL
        assert mmuext(guest, (xen.MMUEXT_MARK_SUPER, 0, 0)) == -EOPNOTSUPP
        assert mmuext(guest, (xen.MMUEXT_UNMARK_SUPER, 0, 0)) == -EOPNOTSUPP

    def test_foreign_domains(self, guest: SmallDomain) -> None:
        flush = (xen.MMUEXT_TLB_FLUSH_LOCAL, 0, 0)
        for domid, error in ((0, EPERM), (guest.domain.domid, ESRCH), (77, ESRCH)):
            assert mmuext(guest, flush, domid=domid) == -error

    def test_set_ldt(self, guest: SmallDomain) -> None:
        address = guest.address(READ_ONLY)
        assert mmuext(guest, (xen.MMUEXT_SET_LDT, address, 8192)) == 0
        assert (guest.vcpu.ldt_base, guest.vcpu.ldt_entries) == (address, 8192)
        for base, entries in (
            (address, 8193),
            (address + 8, 1),
            (XEN_ADDRESS, 1),
            (NON_CANONICAL, 1),
        ):
            assert mmuext(guest, (xen.MMUEXT_SET_LDT, base, entries)) == -EINVAL
        assert guest.vcpu.ldt_entries == 8192
        assert mmuext(guest, (xen.MMUEXT_SET_LDT, NON_CANONICAL, 0)) == 0
        assert guest.vcpu.ldt_entries == 0

    def test_clear_and_copy_page(self, guest: SmallDomain) -> None:
        guest.put(b"source", 0xE00)
        copy = (xen.MMUEXT_COPY_PAGE, guest.mfn(FREE), guest.mfn(6))
        assert mmuext(guest, copy) == 0
        assert guest.memory.bytes[guest.maddr(FREE, 0xE00) :][:6].tobytes() == b"source"
        assert mmuext(guest, (xen.MMUEXT_CLEAR_PAGE, guest.mfn(FREE), 0)) == 0
        assert not any(guest.memory.bytes[guest.maddr(FREE) :][:PAGE_SIZE])
        before = guest.memory.bytes[guest.maddr(L1) :][:PAGE_SIZE].tobytes()
        for command in (xen.MMUEXT_CLEAR_PAGE, xen.MMUEXT_COPY_PAGE):
            assert mmuext(guest, (command, guest.mfn(L1), guest.mfn(6))) == -EINVAL
        assert guest.memory.bytes[guest.maddr(L1) :][:PAGE_SIZE].tobytes() == before
        assert mmuext(guest, (xen.MMUEXT_COPY_PAGE, guest.mfn(FREE), guest.mfn(L1))) == 0
        assert guest.tables.types[guest.mfn(FREE)] == NONE
        assert mmuext(guest, (xen.MMUEXT_CLEAR_PAGE, guest.memory.shared_info_mfn, 0)) == 0

    def test_errors_of_validation(self, guest: SmallDomain) -> None:
        """They pass through all levels."""
        table = guest.mfn(FREE)
        guest.set_entry(FREE + 1, 0, table, PRESENT | RW)
        for entry, error in ((XEN_FRAME | PRESENT, EBUSY), (DEVICE | PRESENT, EPERM)):
            guest.memory.words[table * 512 + 9] = entry
            assert mmuext(guest, (xen.MMUEXT_PIN_L1_TABLE, table, 0)) == -error
            assert mmuext(guest, (xen.MMUEXT_PIN_L2_TABLE, guest.mfn(FREE + 1), 0)) == -error
        assert guest.tables.types[table] == guest.tables.types[guest.mfn(FREE + 1)] == NONE


class TestUpdateVaMapping:
    CALL = xen.HYPERVISOR_update_va_mapping

    def test_maps_and_flushes(self, guest: SmallDomain) -> None:
        address = guest.address(100)
        value = guest.maddr(FREE) | PRESENT | RW
        mask = guest.put(bytes(8))
        for flags, flushes in (
            (xen.UVMF_NONE, []),
            (xen.UVMF_INVLPG, [address]),
            (xen.UVMF_INVLPG | xen.UVMF_ALL, [address]),
            (xen.UVMF_INVLPG | mask, [address]),
            (xen.UVMF_TLB_FLUSH, [None]),
            (xen.UVMF_TLB_FLUSH | xen.UVMF_ALL, [None]),
            (xen.UVMF_FLUSHTYPE_MASK, []),
        ):
            guest.engine.flushes.clear()
            assert guest.call(self.CALL, address, value, flags) == 0
            assert guest.engine.flushes == flushes
        guest.write(address, b"x")

    def test_bad_vcpu_mask_is_told_after_the_change(self, guest: SmallDomain) -> None:
        value = guest.maddr(FREE) | PRESENT
        flags = xen.UVMF_INVLPG | NOT_MAPPED
        assert guest.call(self.CALL, guest.address(100), value, flags) == -EFAULT
        assert guest.entry(L1, 100) == value

    @pytest.mark.parametrize(
        "address", [0, XEN_ADDRESS, 0xFFFF_8200_0000_0000, 0x8000_0000_0000, 1 << 63]
    )
    def test_addresses_without_an_l1_table(self, guest: SmallDomain, address: int) -> None:
        assert guest.call(self.CALL, address, 0, 0) == -EINVAL

    def test_non_canonical_address_is_no_alias(self, guest: SmallDomain) -> None:
        alias = guest.address(8) & (1 << 48) - 1
        value = guest.entry(L1, 8)
        assert guest.call(self.CALL, alias, 0, xen.UVMF_INVLPG) == -EINVAL
        assert guest.entry(L1, 8) == value

    def test_higher_table_seen_as_an_l1_table(self, guest: SmallDomain) -> None:
        """By way of a linear entry the walk ends in a table of another level."""
        guest.set_entry(L4, 100, guest.mfn(L4), PRESENT)
        address = 100 << 39 | 0x1FF << 30 | 0x1FE << 21
        assert guest.call(self.CALL, address, 0, 0) == -EINVAL
        guest.set_entry(L4, 100, 0, 0)

    def test_refused_entry_is_not_flushed(self, guest: SmallDomain) -> None:
        guest.engine.flushes.clear()
        result = guest.call(self.CALL, guest.address(8), XEN_FRAME | PRESENT, xen.UVMF_INVLPG)
        assert result == -EBUSY
        assert guest.engine.flushes == []

    def test_other_domains(self, guest: SmallDomain) -> None:
        call = xen.HYPERVISOR_update_va_mapping_otherdomain
        value = guest.maddr(FREE) | PRESENT
        for domid, result in (
            (0, -EPERM),
            (99, -ESRCH),
            (guest.domain.domid, -ESRCH),
            (SELF, 0),
        ):
            assert guest.call(call, guest.address(100), value, 0, domid) == result


class TestReservation:
    def ask(
        self,
        guest: SmallDomain,
        command: int,
        extents: list[int] | int,
        count: int | None = None,
        order: int = 0,
        domid: int = SELF,
    ) -> int:
        if isinstance(extents, list):
            count = len(extents) if count is None else count
            extents = guest.put(struct.pack(f"<{len(extents)}Q", *extents), 0x100)
        pointer = guest.put_struct(abi.XEN_MEMORY_RESERVATION, extents, count, order, 0, domid)
        return guest.call(xen.HYPERVISOR_memory_op, command, pointer)

    def extents(self, guest: SmallDomain, count: int) -> list[int]:
        return list(struct.unpack(f"<{count}Q", guest.read(guest.address(6) + 0x100, 8 * count)))

    def test_down_and_up_again(self, guest: SmallDomain) -> None:
        memory = guest.memory
        mfns = [guest.mfn(FREE), guest.mfn(FREE + 1)]
        assert self.ask(guest, abi.XENMEM_decrease_reservation, mfns) == 2
        assert memory.nr_pages == PAGES - 2
        assert all(not memory.is_domains(mfn) for mfn in mfns)
        assert all(memory.m2p[mfn] == INVALID_M2P_ENTRY for mfn in mfns)
        assert self.ask(guest, abi.XENMEM_populate_physmap, [FREE, FREE + 1]) == 2
        assert memory.nr_pages == PAGES
        new = self.extents(guest, 2)
        assert len(set(new)) == 2
        assert all(memory.is_domains(mfn) for mfn in new)
        assert [memory.m2p[mfn] for mfn in new] == [FREE, FREE + 1]

    def test_new_pages_are_zeroed(self, guest: SmallDomain) -> None:
        mfn = guest.mfn(FREE)
        guest.memory.words[mfn * 512] = 0x5EC2E7
        self.ask(guest, abi.XENMEM_decrease_reservation, [mfn])
        self.ask(guest, abi.XENMEM_populate_physmap, [FREE])
        assert not any(guest.memory.bytes[self.extents(guest, 1)[0] * PAGE_SIZE :][:PAGE_SIZE])

    def test_up_to_the_maximum(self, guest: SmallDomain) -> None:
        pfns = list(range(PAGES, MAX_PAGES + 3))
        assert self.ask(guest, abi.XENMEM_populate_physmap, pfns) == MAX_PAGES - PAGES
        assert guest.memory.nr_pages == MAX_PAGES
        done = self.extents(guest, len(pfns))
        assert done[-3:] == pfns[-3:]
        for mfn, pfn in zip(done[:-3], pfns, strict=False):
            assert guest.memory.m2p[mfn] == pfn

    def test_increase_with_and_without_a_list(self, guest: SmallDomain) -> None:
        assert self.ask(guest, abi.XENMEM_increase_reservation, 0, count=2) == 2
        assert self.ask(guest, abi.XENMEM_increase_reservation, [0]) == 1
        (mfn,) = self.extents(guest, 1)
        assert guest.memory.is_domains(mfn)
        assert guest.memory.m2p[mfn] == INVALID_M2P_ENTRY
        assert guest.memory.nr_pages == PAGES + 3

    def test_refused_extent_ends_the_work(self, guest: SmallDomain) -> None:
        mfns = [guest.mfn(FREE), 5, guest.mfn(FREE + 1)]
        assert self.ask(guest, abi.XENMEM_decrease_reservation, mfns) == 1
        assert guest.memory.is_domains(guest.mfn(FREE + 1))
        again = [guest.mfn(FREE)]
        assert self.ask(guest, abi.XENMEM_decrease_reservation, again) == 0

    def test_frame_in_use_stays_until_its_last_use_is_gone(self, guest: SmallDomain) -> None:
        mfn = guest.mfn(FREE)
        entry = guest.maddr(L1, 100 * 8)
        assert mmu_update(guest, (entry, mfn << 12 | PRESENT | RW)) == 0
        for _ in range(2):
            assert self.ask(guest, abi.XENMEM_decrease_reservation, [mfn]) == 1
            assert guest.memory.is_domains(mfn)
            assert guest.memory.nr_pages == PAGES
        guest.write(guest.address(100), b"still there")
        assert mmu_update(guest, (entry, 0)) == 0
        assert not guest.memory.is_domains(mfn)
        assert guest.memory.m2p[mfn] == INVALID_M2P_ENTRY
        assert guest.memory.nr_pages == PAGES - 1

    @pytest.mark.parametrize(
        "command",
        [
            abi.XENMEM_populate_physmap,
            abi.XENMEM_increase_reservation,
            abi.XENMEM_decrease_reservation,
        ],
    )
    def test_no_errors_but_nothing_done(self, guest: SmallDomain, command: int) -> None:
        pages = guest.memory.nr_pages
        call = xen.HYPERVISOR_memory_op
        assert guest.call(call, command, NOT_MAPPED) == 0
        assert guest.call(call, command | 3 << 6, NOT_MAPPED) == 3
        assert self.ask(guest, command, XEN_ADDRESS, count=1) == 0
        assert self.ask(guest, command, [FREE], domid=0) == 0
        assert self.ask(guest, command, [FREE], domid=99) == 0
        assert self.ask(guest, command, [FREE], count=1 << 26) == 0
        assert self.ask(guest, command, [FREE], order=25) == 0
        assert self.ask(guest, command, [], count=0) == 0
        assert guest.memory.nr_pages == pages

    def test_list_that_ends_in_nothing(self, guest: SmallDomain) -> None:
        guest.write(LAST_SCRATCH - 16, struct.pack("<2Q", PAGES, PAGES + 1))
        assert self.ask(guest, abi.XENMEM_populate_physmap, LAST_SCRATCH - 16, count=3) == 2
        assert guest.memory.nr_pages == PAGES + 2

    def test_frame_whose_mfn_cannot_be_told_is_the_domains(self, guest: SmallDomain) -> None:
        """It is not counted as done, but Xen does not take it back."""
        address = guest.address(READ_ONLY)
        assert self.ask(guest, abi.XENMEM_populate_physmap, address, count=1) == 0
        assert self.ask(guest, abi.XENMEM_increase_reservation, address, count=1) == 0
        assert guest.memory.nr_pages == PAGES + 2

    def test_extents_of_several_frames(self, guest: SmallDomain) -> None:
        memory = guest.memory
        assert self.ask(guest, abi.XENMEM_populate_physmap, [100, 200], order=2) == 2
        for first, pfn in zip(self.extents(guest, 2), (100, 200), strict=True):
            assert first % 4 == 0
            assert [memory.m2p[first + number] for number in range(4)] == list(range(pfn, pfn + 4))
        assert memory.nr_pages == PAGES + 8
        assert (
            self.ask(guest, abi.XENMEM_decrease_reservation, self.extents(guest, 2), order=2) == 2
        )
        assert memory.nr_pages == PAGES

    def test_an_extent_with_a_frame_of_somebody_else(self, guest: SmallDomain) -> None:
        """The frames before it are gone, but the extent does not count."""
        last = guest.memory.ram_mfn + PAGES - 2
        assert self.ask(guest, abi.XENMEM_decrease_reservation, [last], order=2) == 0
        assert guest.memory.nr_pages == PAGES - 2

    def test_order_of_the_largest_extent(self, guest: SmallDomain) -> None:
        assert self.ask(guest, abi.XENMEM_increase_reservation, [0], order=10) == 0
        assert self.ask(guest, abi.XENMEM_increase_reservation, [0], order=9) == 0  # no room
        assert self.ask(guest, abi.XENMEM_increase_reservation, [0], order=4) == 1

    @pytest.mark.parametrize(
        ("flags", "done"),
        [
            (12, 0),  # less than a page
            (13, 0),  # no memory so low
            (27, 0),
            (29, 1),  # all of the machine
            (64, 1),
            (abi.XENMEMF_populate_on_demand, 0),
            (abi.XENMEMF_exact_node_request | 1 << abi.XENMEMF_NODE_SHIFT, 0),
            (abi.XENMEMF_exact_node_request, 1),
            (abi.XENMEMF_vnode | abi.XENMEMF_exact_node_request, 1),
        ],
    )
    def test_flags(self, guest: SmallDomain, flags: int, done: int) -> None:
        extents = guest.put(struct.pack("<Q", 100), 0x100)
        pointer = guest.put_struct(abi.XEN_MEMORY_RESERVATION, extents, 1, 0, flags, SELF)
        call = xen.HYPERVISOR_memory_op
        assert guest.call(call, abi.XENMEM_populate_physmap, pointer) == done

    def test_mapped_frame_stays_until_it_is_unmapped(self, guest: SmallDomain) -> None:
        mfn = guest.mfn(7)
        assert self.ask(guest, abi.XENMEM_decrease_reservation, [mfn]) == 1
        assert self.ask(guest, abi.XENMEM_decrease_reservation, [mfn]) == 1
        assert guest.memory.is_domains(mfn)
        assert guest.memory.nr_pages == PAGES
        guest.tables.update(guest.maddr(L1, 8 * 7), 0, preserve_ad=False)
        assert not guest.memory.is_domains(mfn)
        assert guest.memory.nr_pages == PAGES - 1

    def test_continuation_starts_where_it_is_told(self, guest: SmallDomain) -> None:
        command = abi.XENMEM_populate_physmap | 1 << 6
        assert self.ask(guest, command, [PAGES, PAGES + 1]) == 2
        assert guest.memory.nr_pages == PAGES + 1
        assert self.extents(guest, 2)[0] == PAGES


class TestMemoryQuestions:
    CALL = xen.HYPERVISOR_memory_op

    def test_reservations(self, guest: SmallDomain) -> None:
        own = guest.put_struct(abi.XEN_MEMORY_DOMAIN, SELF)
        assert guest.call(self.CALL, abi.XENMEM_current_reservation, own) == PAGES
        assert guest.call(self.CALL, abi.XENMEM_maximum_reservation, own) == MAX_PAGES
        assert guest.call(self.CALL, abi.XENMEM_maximum_gpfn, own) == 0
        assert guest.call(self.CALL, abi.XENMEM_maximum_ram_page, 0) == guest.memory.frames

    def test_maximum_gpfn_is_what_the_guest_has_told(self, guest: SmallDomain) -> None:
        offset = xen.SHARED_INFO.offsets["arch"]
        guest.memory.words[(guest.memory.shared_info_mfn * PAGE_SIZE + offset) >> 3] = 1234
        own = guest.put_struct(abi.XEN_MEMORY_DOMAIN, guest.domain.domid)
        assert guest.call(self.CALL, abi.XENMEM_maximum_gpfn, own) == 1233

    @pytest.mark.parametrize(
        "command",
        [
            abi.XENMEM_current_reservation,
            abi.XENMEM_maximum_reservation,
            abi.XENMEM_maximum_gpfn,
        ],
    )
    def test_other_domains(self, guest: SmallDomain, command: int) -> None:
        dom0 = guest.put_struct(abi.XEN_MEMORY_DOMAIN, 0)
        nobody = guest.put_struct(abi.XEN_MEMORY_DOMAIN, 9, offset=8)
        assert guest.call(self.CALL, command, dom0) == -EPERM
        assert guest.call(self.CALL, command, nobody) == -ESRCH
        assert guest.call(self.CALL, command | 1 << 6, dom0) == -EINVAL

    def test_machphys_mapping(self, guest: SmallDomain) -> None:
        place = guest.put(bytes(24))
        assert guest.call(self.CALL, abi.XENMEM_machphys_mapping, place) == 0
        start, end, last = guest.read_struct(abi.XEN_MACHPHYS_MAPPING, place)
        assert start == MACH2PHYS_VIRT_START
        assert (end - start) // 8 - 1 == last >= guest.memory.frames - 1

    def test_machphys_mfn_list(self, guest: SmallDomain) -> None:
        layout = abi.XEN_MACHPHYS_MFN_LIST
        for maximum in (0, 1, 100):
            place = guest.put_struct(layout, maximum, guest.address(7), 0xFFFF)
            assert guest.call(self.CALL, abi.XENMEM_machphys_mfn_list, place) == 0
            count = guest.read_struct(layout, place)[2]
            assert count == min(maximum, len(guest.memory.m2p_mfns()))
        bad = guest.put_struct(layout, 1, guest.address(READ_ONLY), 0)
        assert guest.call(self.CALL, abi.XENMEM_machphys_mfn_list, bad) == -EFAULT

    def test_memory_map(self, guest: SmallDomain) -> None:
        layout = abi.XEN_MEMORY_MAP
        for room, entries in ((0, 0), (1, 1), (9, 1)):
            place = guest.put_struct(layout, room, guest.address(7))
            assert guest.call(self.CALL, abi.XENMEM_memory_map, place) == 0
            assert guest.read_struct(layout, place)[0] == entries
        region = abi.E820_ENTRY.unpack(guest.read(guest.address(7), abi.E820_ENTRY.size))
        assert region == (0, MAX_PAGES * PAGE_SIZE, abi.E820_RAM)
        bad = guest.put_struct(layout, 1, NOT_MAPPED)
        assert guest.call(self.CALL, abi.XENMEM_memory_map, bad) == -EFAULT

    def test_refused(self, guest: SmallDomain) -> None:
        assert guest.call(self.CALL, abi.XENMEM_machine_memory_map, 0) == -EPERM
        assert guest.call(self.CALL, 63, 0) == -ENOSYS
        assert guest.call(self.CALL, 63 | 1 << 6, 0) == -ENOSYS
