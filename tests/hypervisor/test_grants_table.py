# SPDX-License-Identifier: GPL-2.0-or-later
"""grant_table_op on the guest's own table: frames, sizes, versions, limits, swapped entries."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from granting import BOTH, PERMIT, READ_ONLY, Granting
from small_domain import LAST_SCRATCH, NOT_MAPPED, XEN_ADDRESS, SmallDomain

from pyxen.abi import grant_table as abi
from pyxen.abi import xen
from pyxen.abi.errno import EBUSY, EFAULT, EINVAL, ENOSYS, EPERM, ERANGE, ESRCH
from pyxen.hypervisor.grants import GrantLimits
from pyxen.hypervisor.page_flags import ENTRIES, PRESENT, RW

OKAY, GENERAL = abi.GNTST_okay, abi.GNTST_general_error
FREE_PFN = 20


@pytest.fixture
def granting(guest: SmallDomain) -> Iterator[Granting]:
    return Granting(guest)


def setup(granting: Granting, domid: int, frames: int, frame_list: int) -> int:
    """The status."""
    guest = granting.guest
    place = guest.put_struct(abi.GNTTAB_SETUP_TABLE, domid, frames, 99, frame_list)
    assert granting.call(abi.GNTTABOP_setup_table, place) == 0
    return int(guest.read_struct(abi.GNTTAB_SETUP_TABLE, place)[2])


def status_frames(granting: Granting, domid: int, frames: int, frame_list: int) -> int:
    """The status."""
    guest = granting.guest
    place = guest.put_struct(abi.GNTTAB_GET_STATUS_FRAMES, frames, domid, 99, frame_list)
    assert granting.call(abi.GNTTABOP_get_status_frames, place) == 0
    return int(guest.read_struct(abi.GNTTAB_GET_STATUS_FRAMES, place)[2])


class TestSetup:
    def test_frames(self, granting: Granting) -> None:
        guest = granting.guest
        place = guest.address(7)
        assert setup(granting, xen.DOMID_SELF, 3, place) == OKAY
        mfns = struct.unpack("<3Q", guest.read(place, 24))
        assert mfns == tuple(granting.table.mfns[:3])
        assert all(guest.memory.is_owned(mfn) for mfn in mfns)
        assert not any(guest.memory.is_domains(mfn) for mfn in mfns)
        assert setup(granting, guest.domain.domid, 1, place) == OKAY
        assert granting.table.nr_frames == 3  # it does not shrink

    def test_guest_maps_a_frame(self, granting: Granting) -> None:
        guest = granting.guest
        entry = granting.table.mfns[0] << 12 | PRESENT | RW
        address = guest.address(FREE_PFN)
        call = xen.HYPERVISOR_update_va_mapping
        assert guest.call(call, address, entry, xen.UVMF_INVLPG | xen.UVMF_LOCAL) == 0
        guest.write(address + 8 * 9, struct.pack("<HHI", PERMIT, 0, guest.mfn(6)))
        assert granting.access.map(9).page[:] == granting.page(6)[:]

    @pytest.mark.parametrize(
        ("domid", "frames", "frame_list", "status"),
        [
            (xen.DOMID_SELF, 65, None, GENERAL),
            (xen.DOMID_SELF, 0xFFFFFFFF, None, GENERAL),
            (0, 1, None, abi.GNTST_permission_denied),
            (9, 1, None, abi.GNTST_bad_domain),
            (xen.DOMID_IO, 1, None, abi.GNTST_bad_domain),
            (xen.DOMID_SELF, 1, NOT_MAPPED, abi.GNTST_bad_virt_addr),
        ],
    )
    def test_refused(
        self, granting: Granting, domid: int, frames: int, frame_list: int | None, status: int
    ) -> None:
        place = granting.guest.address(7) if frame_list is None else frame_list
        assert setup(granting, domid, frames, place) == status
        assert granting.table.nr_frames == 1

    def test_part_of_the_list_can_be_stored(self, granting: Granting) -> None:
        assert setup(granting, xen.DOMID_SELF, 2, LAST_SCRATCH - 8) == abi.GNTST_bad_virt_addr
        stored = struct.unpack("<Q", granting.guest.read(LAST_SCRATCH - 8, 8))
        assert stored == (granting.table.mfns[0],)
        assert granting.table.nr_frames == 2

    @pytest.mark.parametrize(
        ("command", "layout"),
        [
            (abi.GNTTABOP_setup_table, abi.GNTTAB_SETUP_TABLE),
            (abi.GNTTABOP_get_status_frames, abi.GNTTAB_GET_STATUS_FRAMES),
        ],
    )
    def test_list_in_xens_addresses(self, granting: Granting, command: int, layout: object) -> None:
        place = granting.guest.put_struct(layout, xen.DOMID_SELF, 1, 99, XEN_ADDRESS)
        assert granting.call(command, place) == -EFAULT

    def test_query_size(self, granting: Granting) -> None:
        layout = abi.GNTTAB_QUERY_SIZE
        for domid, expected in (
            (xen.DOMID_SELF, (xen.DOMID_SELF, 1, 64, OKAY)),
            (0, (0, 7, 7, abi.GNTST_permission_denied)),
            (9, (9, 7, 7, abi.GNTST_bad_domain)),
        ):
            place = granting.guest.put_struct(layout, domid, 7, 7, 99)
            assert granting.call(abi.GNTTABOP_query_size, place) == 0
            assert granting.guest.read_struct(layout, place) == expected

    @pytest.mark.parametrize(
        "command",
        [abi.GNTTABOP_setup_table, abi.GNTTABOP_query_size, abi.GNTTABOP_get_status_frames],
    )
    @pytest.mark.parametrize("count", [0, 2, 0xFFFFFFFF])
    def test_one_structure_only(self, granting: Granting, command: int, count: int) -> None:
        assert granting.call(command, granting.guest.address(6), count) == -EINVAL

    def test_commands(self, granting: Granting) -> None:
        assert granting.call(99, 0) == -ENOSYS
        assert granting.call(abi.GNTTABOP_dump_table, 0) == -ENOSYS
        assert granting.call(1 << 12, 0) == -EINVAL
        assert granting.call(99, 0, 1 << 31) == -EINVAL


class TestVersion:
    def test_get(self, granting: Granting) -> None:
        layout = abi.GNTTAB_GET_VERSION
        for version in (1, 2):
            assert granting.set_version(version) == 0
            for domid in (xen.DOMID_SELF, granting.guest.domain.domid):
                place = granting.guest.put_struct(layout, domid, 0, 99)
                assert granting.call(abi.GNTTABOP_get_version, place) == 0
                assert granting.guest.read_struct(layout, place)[2] == version
        for domid, error in ((0, EPERM), (9, ESRCH)):
            place = granting.guest.put_struct(layout, domid, 0, 99)
            assert granting.call(abi.GNTTABOP_get_version, place) == -error

    @pytest.mark.parametrize(
        ("version", "result", "then"),
        [(1, 0, 1), (2, 0, 2), (0, -EINVAL, 1), (3, -EINVAL, 1), (0xFFFFFFFF, -EINVAL, 1)],
    )
    def test_set_tells_the_version_in_any_case(
        self, granting: Granting, version: int, result: int, then: int
    ) -> None:
        layout = abi.GNTTAB_SET_VERSION
        place = granting.guest.put_struct(layout, version)
        assert granting.call(abi.GNTTABOP_set_version, place) == result
        assert granting.guest.read_struct(layout, place) == (then,)

    def test_reserved_entries_stay_and_others_go(self, granting: Granting) -> None:
        granting.grant(0, 6)
        granting.grant(7, 7, READ_ONLY)
        granting.grant(8, 8)
        mapping = granting.access.map(0)
        assert granting.set_version(2) == 0
        assert (granting.flags(0), granting.status(0)) == (PERMIT, BOTH)
        assert (granting.flags(7), granting.status(7)) == (READ_ONLY, 0)
        assert granting.flags(8) == 0
        assert granting.access.copy_from(7, 0, 8) == granting.page(7)[:8]
        assert granting.set_version(1) == 0
        assert (granting.flags(0), granting.flags(7)) == (PERMIT | BOTH, READ_ONLY)
        granting.access.unmap(mapping)
        assert granting.flags(0) == PERMIT

    def test_entry_in_use(self, granting: Granting) -> None:
        granting.grant(8, 6, READ_ONLY)
        mapping = granting.access.map(8, readonly=True)
        assert granting.set_version(2) == -EBUSY
        assert granting.status(8) == abi.GTF_reading
        granting.access.unmap(mapping)
        assert granting.set_version(2) == 0
        granting.grant(8, 6)
        mapping = granting.access.map(8)
        assert granting.set_version(1) == -EBUSY
        granting.access.unmap(mapping)
        assert granting.set_version(1) == 0

    def test_reserved_entry_that_version_1_cannot_express(self, granting: Granting) -> None:
        assert granting.set_version(2) == 0
        granting.grant_frame(3, 1 << 32)
        assert granting.set_version(1) == -ERANGE
        granting.grant_on(3, 0, 1)
        assert granting.set_version(1) == -ERANGE
        granting.grant_frame(3, 77, abi.GTF_accept_transfer)
        assert granting.set_version(1) == 0
        assert granting.guest.memory.words[granting.place(3) >> 3] == 0

    def test_limit(self, guest: SmallDomain) -> None:
        granting = Granting(guest)
        granting.table.limits = GrantLimits(max_version=1)
        place = guest.put_struct(abi.GNTTAB_SET_VERSION, 2)
        assert granting.call(abi.GNTTABOP_set_version, place) == -ENOSYS
        assert guest.read_struct(abi.GNTTAB_SET_VERSION, place) == (1,)

    def test_half_as_many_entries(self, granting: Granting) -> None:
        assert granting.table.entries == 512
        granting.set_version(2)
        assert granting.table.entries == 256

    @pytest.mark.parametrize(
        "limits",
        [{"max_frames": 0}, {"max_maptrack_frames": -1}, {"max_version": 0}, {"max_version": 3}],
    )
    def test_limits_that_no_domain_has(self, limits: dict[str, int]) -> None:
        with pytest.raises(ValueError, match="out of range"):
            GrantLimits(**limits)


class TestStatusFrames:
    def test_there_are_none_in_version_1(self, granting: Granting) -> None:
        place = granting.guest.address(7)
        assert status_frames(granting, xen.DOMID_SELF, 0, place) == OKAY
        assert status_frames(granting, xen.DOMID_SELF, 1, place) == GENERAL

    def test_as_many_as_the_table_needs(self, granting: Granting) -> None:
        place = granting.guest.address(7)
        assert granting.set_version(2) == 0
        assert setup(granting, xen.DOMID_SELF, 9, place) == OKAY
        assert status_frames(granting, xen.DOMID_SELF, 2, place) == OKAY
        mfns = struct.unpack("<2Q", granting.guest.read(place, 16))
        assert mfns == tuple(granting.table.status_mfns[:2])
        assert status_frames(granting, xen.DOMID_SELF, 3, place) == GENERAL
        assert status_frames(granting, 0, 1, place) == abi.GNTST_permission_denied
        assert status_frames(granting, 9, 1, place) == abi.GNTST_bad_domain
        assert status_frames(granting, xen.DOMID_SELF, 1, NOT_MAPPED) == abi.GNTST_bad_virt_addr

    def test_mapped_status_frame_keeps_the_version(self, granting: Granting) -> None:
        guest = granting.guest
        assert granting.set_version(2) == 0
        address = guest.address(FREE_PFN)
        entry = granting.table.status_mfns[0] << 12 | PRESENT | RW
        assert guest.call(xen.HYPERVISOR_update_va_mapping, address, entry, xen.UVMF_INVLPG) == 0
        assert granting.set_version(1) == -EBUSY
        assert guest.call(xen.HYPERVISOR_update_va_mapping, address, 0, xen.UVMF_INVLPG) == 0
        assert granting.set_version(1) == 0
        # What was a status frame is no longer the guest's to map, and comes back clean.
        assert guest.call(xen.HYPERVISOR_update_va_mapping, address, entry, xen.UVMF_INVLPG) < 0

    def test_changing_without_end_costs_no_frames(self, granting: Granting) -> None:
        granting.set_version(2)
        first = granting.table.status_mfns[0]
        granting.guest.memory.words[first * ENTRIES + 5] = 99
        for _ in range(50):
            assert granting.set_version(1) == 0
            assert granting.set_version(2) == 0
        assert granting.table.status_mfns[0] == first
        assert granting.guest.memory.words[first * ENTRIES + 5] == 0


class TestSwap:
    def swap(self, granting: Granting, first: int, second: int) -> int:
        guest = granting.guest
        place = guest.put_struct(abi.GNTTAB_SWAP_GRANT_REF, first, second, 99)
        assert granting.call(abi.GNTTABOP_swap_grant_ref, place) == 0
        return int(guest.read_struct(abi.GNTTAB_SWAP_GRANT_REF, place)[2])

    @pytest.mark.parametrize("version", [1, 2])
    def test_entries(self, granting: Granting, version: int) -> None:
        granting.set_version(version)
        granting.grant(10, 16)
        granting.grant(11, 17, READ_ONLY)
        granting.page(16)[:4] = b"page"
        granting.page(17)[:4] = b"next"
        assert self.swap(granting, 10, 11) == OKAY
        assert (granting.flags(10), granting.flags(11)) == (READ_ONLY, PERMIT)
        assert granting.access.copy_from(10, 0, 4) == b"next"
        assert granting.access.copy_from(11, 0, 4) == b"page"
        assert self.swap(granting, 10, 10) == OKAY

    @pytest.mark.parametrize("version", [1, 2])
    def test_refused(self, granting: Granting, version: int) -> None:
        granting.set_version(version)
        granting.grant(10, 6)
        end = granting.table.entries
        assert self.swap(granting, end, 10) == abi.GNTST_bad_gntref
        assert self.swap(granting, 10, end) == abi.GNTST_bad_gntref
        mapping = granting.access.map(10)
        assert self.swap(granting, 10, 11) == abi.GNTST_eagain
        assert self.swap(granting, 11, 10) == abi.GNTST_eagain
        assert self.swap(granting, 10, 10) == OKAY
        granting.access.unmap(mapping)
        assert self.swap(granting, 11, 10) == OKAY
