# SPDX-License-Identifier: GPL-2.0-or-later
"""grant_table_op on grants of others: a guest's own to itself, domain 0's, and nobody's."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from granting import BOTH, PERMIT, READ_ONLY, READING, Granting
from small_domain import BASE, L1, LAST_SCRATCH, NOT_MAPPED, SCRATCH, XEN_ADDRESS, SmallDomain

from pyxen.abi import grant_table as abi
from pyxen.abi import xen
from pyxen.abi.errno import EFAULT, EILSEQ, EINVAL, EOPNOTSUPP, EPERM
from pyxen.hypervisor.grants import GrantLimits
from pyxen.hypervisor.memory import INVALID_M2P_ENTRY
from pyxen.hypervisor.page_flags import ACCESSED, DIRTY, NX, PAGE_SIZE, PRESENT, RW, USER
from pyxen.hypervisor.page_types import WRITABLE

OKAY, GENERAL = abi.GNTST_okay, abi.GNTST_general_error
BAD_REF, BAD_DOMAIN = abi.GNTST_bad_gntref, abi.GNTST_bad_domain
ME = 1
PFN, OTHER, PLACE, PLACE2 = 16, 17, 30, 31
REF = 9
HOST, DEVICE, RO = abi.GNTMAP_host_map, abi.GNTMAP_device_map, abi.GNTMAP_readonly
ENTRY = PRESENT | ACCESSED | DIRTY | NX
NO_HANDLE = 0xAAAA


@pytest.fixture
def granting(guest: SmallDomain) -> Granting:
    """A page granted to the domain itself."""
    granting = Granting(guest)
    granting.grant(REF, PFN, domid=ME)
    return granting


def entry_of(pfn: int) -> int:
    """Address of a page that is not mapped."""
    return BASE + pfn * PAGE_SIZE


def map_grant(
    granting: Granting, flags: int = HOST, address: int | None = None, ref: int = REF, dom: int = ME
) -> Any:
    """(status, handle, dev_bus_addr)."""
    layout = abi.GNTTAB_MAP_GRANT_REF
    if address is None:
        address = entry_of(PLACE)
    place = granting.guest.put_struct(layout, address, flags, ref, dom, 99, NO_HANDLE, 7)
    assert granting.call(abi.GNTTABOP_map_grant_ref, place) == 0
    return granting.guest.read_struct(layout, place)[4:]


def unmap_grant(granting: Granting, handle: int, address: int = 0, bus_address: int = 0) -> int:
    layout = abi.GNTTAB_UNMAP_GRANT_REF
    place = granting.guest.put_struct(layout, address, bus_address, handle, 99)
    assert granting.call(abi.GNTTABOP_unmap_grant_ref, place) == 0
    return int(granting.guest.read_struct(layout, place)[3])


def replace(granting: Granting, handle: int, address: int, new_address: int) -> int:
    layout = abi.GNTTAB_UNMAP_AND_REPLACE
    place = granting.guest.put_struct(layout, address, new_address, handle, 99)
    assert granting.call(abi.GNTTABOP_unmap_and_replace, place) == 0
    return int(granting.guest.read_struct(layout, place)[3])


def map_frame(granting: Granting, pfn: int, entry: int) -> None:
    call = xen.HYPERVISOR_update_va_mapping
    assert granting.guest.call(call, entry_of(pfn), entry, xen.UVMF_INVLPG) == 0


class TestMap:
    def test_for_the_cpu(self, granting: Granting) -> None:
        guest = granting.guest
        status, handle, bus_address = map_grant(granting)
        assert (status, bus_address) == (OKAY, guest.maddr(PFN))
        assert guest.entry(L1, PLACE) == guest.maddr(PFN) | ENTRY | RW
        assert granting.status(REF) == BOTH
        guest.write(entry_of(PLACE), b"seen")
        assert granting.page(PFN)[:4] == b"seen"
        assert granting.references(PFN) == (2, WRITABLE, 1)
        assert unmap_grant(granting, handle, entry_of(PLACE)) == OKAY
        assert guest.entry(L1, PLACE) == 0
        assert granting.status(REF) == 0
        assert granting.references(PFN)[0] == 1
        assert guest.engine.flushes[-1] is None

    def test_flags_of_the_entry(self, granting: Granting) -> None:
        guest = granting.guest
        flags = HOST | RO | abi.GNTMAP_application_map | 5 << abi.GNTMAP_guest_avail0
        status, handle, _ = map_grant(granting, flags)
        assert status == OKAY
        assert guest.entry(L1, PLACE) == guest.maddr(PFN) | ENTRY | USER | 5 << 9
        assert granting.status(REF) == READING
        assert granting.references(PFN)[2] == 0
        assert unmap_grant(granting, handle, entry_of(PLACE)) == OKAY

    def test_entry_by_its_machine_address(self, granting: Granting) -> None:
        guest = granting.guest
        place = guest.maddr(L1, PLACE * 8)
        status, handle, _ = map_grant(granting, HOST | abi.GNTMAP_contains_pte, place)
        assert status == OKAY
        assert guest.entry(L1, PLACE) == guest.maddr(PFN) | ENTRY | RW
        assert unmap_grant(granting, handle, place) == OKAY
        assert guest.entry(L1, PLACE) == 0

    def test_for_devices_too(self, granting: Granting) -> None:
        guest = granting.guest
        status, handle, bus_address = map_grant(granting, HOST | DEVICE)
        assert status == OKAY
        assert granting.references(PFN) == (3, WRITABLE, 2)
        assert list(granting.table.held_frames()) == [(guest.mfn(PFN), WRITABLE)]
        assert unmap_grant(granting, handle, bus_address=8) == abi.GNTST_bad_dev_addr
        assert unmap_grant(granting, handle, bus_address=bus_address) == OKAY
        assert granting.references(PFN) == (2, WRITABLE, 1)
        assert granting.status(REF) == BOTH
        assert unmap_grant(granting, handle, entry_of(PLACE)) == OKAY
        assert granting.status(REF) == 0
        assert unmap_grant(granting, handle, entry_of(PLACE)) == abi.GNTST_bad_handle

    def test_both_undone_at_once(self, granting: Granting) -> None:
        _, handle, bus_address = map_grant(granting, HOST | DEVICE | RO)
        assert unmap_grant(granting, handle, entry_of(PLACE), bus_address) == OKAY
        assert granting.references(PFN)[0] == 1
        assert not any(granting.table.pins)

    def test_nothing_named(self, granting: Granting) -> None:
        """An unmap without an address undoes nothing, and is no error."""
        _, handle, _ = map_grant(granting)
        assert unmap_grant(granting, handle) == OKAY
        assert granting.status(REF) == BOTH

    @pytest.mark.parametrize(
        ("flags", "ref", "dom", "status"),
        [
            (0, REF, ME, BAD_REF),
            (RO, REF, 9, BAD_REF),
            (HOST, REF, 9, BAD_DOMAIN),
            (HOST, REF, xen.DOMID_SELF, BAD_DOMAIN),
            (HOST, REF, 0, GENERAL),
            (HOST, 511, 0, GENERAL),
            (HOST, 512, 0, BAD_REF),
            (HOST, 512, ME, BAD_REF),
            (HOST, REF + 1, ME, GENERAL),
        ],
    )
    def test_refused(self, granting: Granting, flags: int, ref: int, dom: int, status: int) -> None:
        assert map_grant(granting, flags, ref=ref, dom=dom) == (status, NO_HANDLE, 7)
        assert not any(granting.table.maptrack.flags)

    @pytest.mark.parametrize(
        ("flags", "address"),
        [
            (HOST, XEN_ADDRESS),
            (HOST, 0x1000),  # without an L1 table
            (HOST | abi.GNTMAP_contains_pte, 0),
            (HOST | abi.GNTMAP_contains_pte, 1 << 60),
            (HOST | DEVICE, 1 << 47),
        ],
    )
    def test_bad_addresses(self, granting: Granting, flags: int, address: int) -> None:
        before = granting.references(PFN)
        assert map_grant(granting, flags, address)[0] == GENERAL
        assert granting.references(PFN) == before
        assert granting.status(REF) == 0
        assert not any(granting.table.pins)

    def test_bad_entries(self, granting: Granting) -> None:
        guest = granting.guest
        for place in (guest.maddr(L1, PLACE * 8 + 4), guest.maddr(SCRATCH), guest.maddr(2)):
            before = guest.snapshot()
            assert map_grant(granting, HOST | abi.GNTMAP_contains_pte, place)[0] == GENERAL
            assert granting.status(REF) == 0
            after = guest.snapshot()
            start = SCRATCH * PAGE_SIZE  # but for the structure itself
            assert after[:start] == before[:start]
            assert after[start + PAGE_SIZE :] == before[start + PAGE_SIZE :]

    def test_page_table(self, granting: Granting) -> None:
        granting.grant(REF, L1, domid=ME)
        before = granting.references(L1)
        for flags in (HOST, DEVICE, HOST | DEVICE):
            assert map_grant(granting, flags)[0] == GENERAL
        assert granting.references(L1) == before
        status, handle, _ = map_grant(granting, HOST | RO)
        assert status == OKAY
        assert unmap_grant(granting, handle, entry_of(PLACE)) == OKAY

    def test_no_handles(self, guest: SmallDomain) -> None:
        granting = Granting(guest)
        granting.table.maptrack.max_frames = 0
        for dom in (ME, 0):
            assert map_grant(granting, dom=dom)[0] == abi.GNTST_no_space
        assert GrantLimits().max_maptrack_frames == 1024

    def test_many_at_once(self, granting: Granting) -> None:
        """Each has its own status; one that cannot be read ends the call."""
        guest, layout = granting.guest, abi.GNTTAB_MAP_GRANT_REF
        good = layout.pack(entry_of(PLACE), HOST | RO, REF, ME, 99, 0, 0)
        bad = layout.pack(entry_of(PLACE2), HOST, REF, 9, 99, 0, 0)
        place = LAST_SCRATCH - 2 * layout.size
        guest.write(place, good + bad)
        assert granting.call(abi.GNTTABOP_map_grant_ref, place, 3) == -EFAULT
        assert [guest.read_struct(layout, place + n * layout.size)[4] for n in (0, 1)] == [
            OKAY,
            BAD_DOMAIN,
        ]
        assert granting.status(REF) == READING


class TestUnmap:
    @pytest.mark.parametrize("handle", [0, 255, 256, 0xFFFFFFFF])
    def test_bad_handle(self, granting: Granting, handle: int) -> None:
        assert unmap_grant(granting, handle, entry_of(PLACE)) == abi.GNTST_bad_handle

    def test_other_address(self, granting: Granting) -> None:
        _, handle, _ = map_grant(granting)
        for address in (entry_of(PLACE2), entry_of(SCRATCH), XEN_ADDRESS):
            assert unmap_grant(granting, handle, address) == GENERAL
        assert granting.status(REF) == BOTH
        assert unmap_grant(granting, handle, entry_of(PLACE)) == OKAY

    def test_entry_with_other_rights(self, granting: Granting) -> None:
        _, handle, _ = map_grant(granting, HOST | RO)
        map_frame(granting, PLACE2, granting.guest.maddr(PFN) | PRESENT | RW)
        assert unmap_grant(granting, handle, entry_of(PLACE2)) == GENERAL
        map_frame(granting, PLACE2, 0)
        assert unmap_grant(granting, handle, entry_of(PLACE)) == OKAY

    def test_entry_that_the_guest_has_taken_away(self, granting: Granting) -> None:
        _, handle, _ = map_grant(granting)
        map_frame(granting, PLACE, 0)
        assert granting.references(PFN)[0] == 1
        assert unmap_grant(granting, handle, entry_of(PLACE)) == GENERAL
        assert granting.status(REF) == BOTH

    def test_replace(self, granting: Granting) -> None:
        guest = granting.guest
        _, handle, _ = map_grant(granting)
        map_frame(granting, PLACE2, guest.maddr(OTHER) | PRESENT | RW)
        assert replace(granting, handle, entry_of(PLACE), entry_of(PLACE2)) == OKAY
        assert guest.entry(L1, PLACE) & ~(ACCESSED | DIRTY) == guest.maddr(OTHER) | PRESENT | RW
        assert guest.entry(L1, PLACE2) == 0
        assert granting.references(PFN)[0] == 1
        assert granting.references(OTHER) == (2, WRITABLE, 1)
        assert granting.status(REF) == 0

    def test_replace_by_nothing(self, granting: Granting) -> None:
        _, handle, _ = map_grant(granting)
        assert replace(granting, handle, entry_of(PLACE), 0) == OKAY
        assert granting.guest.entry(L1, PLACE) == 0

    def test_replace_refused(self, granting: Granting) -> None:
        guest = granting.guest
        place = guest.maddr(L1, PLACE * 8)
        _, handle, _ = map_grant(granting, HOST | abi.GNTMAP_contains_pte, place)
        assert replace(granting, handle, place, entry_of(PLACE2)) == GENERAL
        assert replace(granting, 77, place, 0) == abi.GNTST_bad_handle
        assert granting.status(REF) == BOTH


class TestCopy:
    SELF = xen.DOMID_SELF
    FROM_REF, TO_REF = abi.GNTCOPY_source_gref, abi.GNTCOPY_dest_gref

    def copy(
        self,
        granting: Granting,
        source: tuple[int, int, int],
        dest: tuple[int, int, int],
        size: int,
        flags: int = 0,
    ) -> int:
        layout = abi.GNTTAB_COPY
        place = granting.guest.put_struct(layout, *source, *dest, size, flags, 99)
        assert granting.call(abi.GNTTABOP_copy, place) == 0
        return int(granting.guest.read_struct(layout, place)[-1])

    def test_frames(self, granting: Granting) -> None:
        guest = granting.guest
        granting.page(PFN)[:] = bytes(range(256)) * 16
        granting.execute(OTHER)
        source, dest = guest.mfn(PFN), guest.mfn(OTHER)
        assert self.copy(granting, (source, self.SELF, 5), (dest, self.SELF, 9), 100) == OKAY
        assert granting.page(OTHER)[:110] == bytes(9) + bytes(range(5, 105)) + b"\0"
        assert guest.engine.invalidated == [(guest.maddr(OTHER), PAGE_SIZE)]

    def test_references_of_its_own(self, granting: Granting) -> None:
        """The reference is the low half: the guest need not clear the other."""
        guest = granting.guest
        granting.page(OTHER)[:4] = b"data"
        for domid in (self.SELF, ME):
            assert (
                self.copy(
                    granting,
                    (guest.mfn(OTHER), self.SELF, 0),
                    (REF | 5 << 32, domid, 50),
                    4,
                    self.TO_REF,
                )
                == OKAY
            )
        assert granting.page(PFN)[50:54] == b"data"
        dest = (guest.mfn(OTHER), self.SELF, 100)
        assert self.copy(granting, (REF, ME, 50), dest, 4, self.FROM_REF) == OKAY
        assert granting.page(OTHER)[100:104] == b"data"
        assert granting.status(REF) == 0

    def test_overlapping(self, granting: Granting) -> None:
        mfn = granting.guest.mfn(PFN)
        granting.page(PFN)[:6] = b"abcdef"
        assert self.copy(granting, (mfn, self.SELF, 0), (mfn, self.SELF, 2), 4) == OKAY
        assert granting.page(PFN)[:6] == b"ababcd"

    @pytest.mark.parametrize(
        ("source", "dest", "size", "flags", "status"),
        [
            (("frame", ME, 0), ("frame", xen.DOMID_SELF, 0), 4, 0, abi.GNTST_permission_denied),
            (("frame", 9, 0), ("frame", xen.DOMID_SELF, 0), 4, 0, abi.GNTST_permission_denied),
            ((3, 9, 0), ("frame", xen.DOMID_SELF, 0), 4, FROM_REF, BAD_DOMAIN),
            ((3, 9, 0), ("frame", ME, 0), 4, FROM_REF, BAD_DOMAIN),
            ((3, 0, 0), ("frame", ME, 0), 4, FROM_REF, abi.GNTST_permission_denied),
            ((3, 0, 0), ("frame", xen.DOMID_SELF, 0), 4, FROM_REF, GENERAL),
            ((512, 0, 0), ("frame", xen.DOMID_SELF, 0), 4, FROM_REF, BAD_REF),
            ((512, ME, 0), ("frame", xen.DOMID_SELF, 0), 4, FROM_REF, BAD_REF),
            (("frame", xen.DOMID_SELF, 0), (3, 0, 0), 4, TO_REF, GENERAL),
            ((5, xen.DOMID_SELF, 0), ("frame", xen.DOMID_SELF, 0), 4, 0, abi.GNTST_bad_page),
            ((1 << 60, xen.DOMID_SELF, 0), ("frame", xen.DOMID_SELF, 0), 4, 0, abi.GNTST_bad_page),
            (("frame", xen.DOMID_SELF, 0), (5, xen.DOMID_SELF, 0), 4, 0, abi.GNTST_bad_page),
            (("frame", xen.DOMID_SELF, 0), ("table", xen.DOMID_SELF, 0), 4, 0, GENERAL),
            (
                ("frame", xen.DOMID_SELF, 4093),
                ("frame", xen.DOMID_SELF, 0),
                4,
                0,
                abi.GNTST_bad_copy_arg,
            ),
            (
                ("frame", xen.DOMID_SELF, 0),
                ("frame", xen.DOMID_SELF, 65535),
                65535,
                0,
                abi.GNTST_bad_copy_arg,
            ),
        ],
    )
    def test_refused(
        self, granting: Granting, source: Any, dest: Any, size: int, flags: int, status: int
    ) -> None:
        guest = granting.guest
        frames = {"frame": guest.mfn(OTHER), "table": guest.mfn(L1)}
        source = (frames.get(source[0], source[0]), *source[1:])
        dest = (frames.get(dest[0], dest[0]), *dest[1:])
        before = guest.snapshot()
        assert self.copy(granting, source, dest, size, flags) == status
        after = guest.snapshot()
        start = SCRATCH * PAGE_SIZE  # but for the structure itself
        assert after[:start] == before[:start]
        assert after[start + PAGE_SIZE :] == before[start + PAGE_SIZE :]

    def test_part_of_a_page(self, granting: Granting) -> None:
        granting.set_version(2)
        guest = granting.guest
        flags = PERMIT | abi.GTF_sub_page
        granting.write(REF, struct.pack("<HHHHQ", flags, ME, 100, 20, guest.mfn(PFN)))
        dest = (guest.mfn(OTHER), self.SELF, 0)
        assert self.copy(granting, (REF, ME, 100), dest, 20, self.FROM_REF) == OKAY
        assert self.copy(granting, (REF, ME, 99), dest, 20, self.FROM_REF) == GENERAL
        assert self.copy(granting, (REF, ME, 101), dest, 20, self.FROM_REF) == GENERAL

    def test_page_that_was_given_back_while_it_is_in_use(self, granting: Granting) -> None:
        guest = granting.guest
        assert map_grant(granting)[0] == OKAY
        map_frame(granting, PLACE, 0)
        guest.memory.release(guest.mfn(PFN))
        other = (guest.mfn(OTHER), self.SELF, 0)
        assert self.copy(granting, (REF, ME, 0), other, 4, self.FROM_REF) == BAD_DOMAIN
        assert self.copy(granting, other, (REF, ME, 0), 4, self.TO_REF) == BAD_DOMAIN
        assert map_grant(granting, DEVICE)[0] == GENERAL

    def test_grant_for_reading(self, granting: Granting) -> None:
        granting.grant(REF, PFN, READ_ONLY, domid=ME)
        source = (granting.guest.mfn(OTHER), self.SELF, 0)
        assert self.copy(granting, source, (REF, ME, 0), 4, self.TO_REF) == GENERAL


class TestTransfer:
    ACCEPT = abi.GTF_accept_transfer

    def transfer(self, granting: Granting, mfn: int, domid: int, ref: int = REF) -> int:
        layout = abi.GNTTAB_TRANSFER
        place = granting.guest.put_struct(layout, mfn, domid, ref, 99)
        assert granting.call(abi.GNTTABOP_transfer, place) == 0
        return int(granting.guest.read_struct(layout, place)[3])

    @pytest.mark.parametrize("version", [1, 2])
    def test_to_itself(self, granting: Granting, version: int) -> None:
        granting.set_version(version)
        guest = granting.guest
        granting.grant_frame(REF, 1234, self.ACCEPT, ME)
        granting.page(PFN)[:4] = b"kept"
        assert self.transfer(granting, guest.mfn(PFN), ME) == OKAY
        done = abi.GTF_transfer_committed | abi.GTF_transfer_completed
        assert granting.flags(REF) == self.ACCEPT | done
        place = granting.place(REF) + (4 if version == 1 else 8)
        frame = int.from_bytes(guest.memory.bytes[place : place + 4], "little")
        assert frame == guest.mfn(PFN)
        assert guest.memory.m2p[guest.mfn(PFN)] == 1234
        assert granting.page(PFN)[:4] == b"kept"
        assert guest.memory.is_domains(guest.mfn(PFN))

    @pytest.mark.parametrize(
        ("domid", "ref", "status"),
        [(0, REF, GENERAL), (9, REF, BAD_DOMAIN), (xen.DOMID_SELF, REF, BAD_DOMAIN),
         (ME, REF, GENERAL), (ME, 512, GENERAL)],
    )  # fmt: skip
    def test_page_that_nobody_accepts_is_lost(
        self, granting: Granting, domid: int, ref: int, status: int
    ) -> None:
        memory, mfn = granting.guest.memory, granting.guest.mfn(PFN)
        pages = memory.nr_pages
        assert self.transfer(granting, mfn, domid, ref) == status
        assert not memory.is_domains(mfn)
        assert memory.nr_pages == pages - 1
        assert memory.m2p[mfn] == INVALID_M2P_ENTRY
        assert granting.flags(REF) == PERMIT

    def test_page_in_use_or_not_owned(self, granting: Granting) -> None:
        guest = granting.guest
        mapping = granting.guest.mfn(SCRATCH)
        for mfn in (mapping, guest.mfn(L1), 5, granting.table.mfns[0], 1 << 50):
            assert self.transfer(granting, mfn, 9) == abi.GNTST_bad_page


class TestCacheFlush:
    CLEAN, INVALIDATE = abi.GNTTAB_CACHE_CLEAN, abi.GNTTAB_CACHE_INVAL

    @pytest.mark.parametrize(
        ("frame", "offset", "length", "operation", "result"),
        [
            ("frame", 0, 4096, CLEAN, 0),
            ("frame", 64, 64, CLEAN | INVALIDATE, 0),
            ("frame", 64, 64, INVALIDATE, -EOPNOTSUPP),
            ("frame", 0, 0, INVALIDATE, 0),
            (1 << 40, 0, 64, 0, 0),
            ("frame", 4096, 0, CLEAN, -EINVAL),
            ("frame", 1, 4096, CLEAN, -EINVAL),
            ("frame", 0, 64, abi.GNTTAB_CACHE_SOURCE_GREF | CLEAN, -EINVAL),
            ("frame", 0, 64, 4, -EINVAL),
            (1 << 40, 0, 64, CLEAN, -EINVAL),
            (5, 0, 64, CLEAN, -EPERM),
        ],
    )
    def test_results(
        self,
        granting: Granting,
        frame: str | int,
        offset: int,
        length: int,
        operation: int,
        result: int,
    ) -> None:
        mfn = granting.guest.mfn(PFN) if isinstance(frame, str) else frame
        place = granting.guest.put_struct(
            abi.GNTTAB_CACHE_FLUSH, mfn * PAGE_SIZE, offset, length, operation
        )
        assert granting.call(abi.GNTTABOP_cache_flush, place) == result

    def test_one_that_goes_on(self, granting: Granting) -> None:
        command = abi.GNTTABOP_cache_flush | 1 << 12
        place = granting.guest.put_struct(abi.GNTTAB_CACHE_FLUSH, 0, 0, 0, self.CLEAN)
        assert granting.call(command, place) == -EILSEQ
        place = granting.guest.put_struct(
            abi.GNTTAB_CACHE_FLUSH, granting.guest.maddr(PFN), 0, 64, self.CLEAN
        )
        assert granting.call(command, place) == 0


@pytest.mark.parametrize(
    "command",
    [
        abi.GNTTABOP_map_grant_ref,
        abi.GNTTABOP_unmap_grant_ref,
        abi.GNTTABOP_unmap_and_replace,
        abi.GNTTABOP_transfer,
        abi.GNTTABOP_copy,
        abi.GNTTABOP_swap_grant_ref,
        abi.GNTTABOP_cache_flush,
    ],
)
class TestArrays:
    def test_bad_address(self, granting: Granting, command: int) -> None:
        for address in (NOT_MAPPED, LAST_SCRATCH - 1, XEN_ADDRESS, (1 << 64) - 8):
            assert granting.call(command, address) == -EFAULT

    def test_nothing_to_do(self, granting: Granting, command: int) -> None:
        assert granting.call(command, NOT_MAPPED, 0) == 0
        assert granting.call(command, XEN_ADDRESS, 0) == -EFAULT

    def test_endless_list(self, granting: Granting, command: int) -> None:
        assert granting.call(command, granting.guest.address(SCRATCH), 0x7FFFFFFF) < 0
