# SPDX-License-Identifier: GPL-2.0-or-later
"""A back end's access to a guest's grants: mapping, copying, what the guest sees of it."""

from __future__ import annotations

import pytest
from granting import BOTH, PERMIT, READ_ONLY, READING, Granting, refused
from small_domain import L1, SmallDomain

from pyxen.abi import grant_table as abi
from pyxen.hypervisor.grant_access import GrantAccess
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.page_types import NONE, WRITABLE

GENERAL = abi.GNTST_general_error
PFN, OTHER = 16, 17
REF = 9


@pytest.fixture(params=[1, 2])
def granting(request: pytest.FixtureRequest, guest: SmallDomain) -> Granting:
    """With either version of the table."""
    granting = Granting(guest)
    assert granting.set_version(request.param) == 0
    return granting


@pytest.fixture
def granting2(guest: SmallDomain) -> Granting:
    """With version 2."""
    granting = Granting(guest)
    assert granting.set_version(2) == 0
    return granting


class TestMap:
    def test_page_is_shared(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        mapping = granting.access.map(REF)
        mapping.page[10:14] = b"back"
        granting.page(PFN)[20:25] = b"front"
        assert granting.page(PFN)[10:14] == b"back"
        assert mapping.page[20:25] == b"front"
        assert len(mapping.page) == PAGE_SIZE

    def test_what_the_guest_sees(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        reading = granting.access.map(REF, readonly=True)
        assert granting.status(REF) == READING
        writing = granting.access.map(REF)
        assert granting.status(REF) == BOTH
        granting.access.unmap(writing)
        assert granting.status(REF) == READING
        granting.access.unmap(reading)
        assert granting.status(REF) == 0
        assert granting.flags(REF) == PERMIT

    def test_references(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        before = granting.references(PFN)
        reading = granting.access.map(REF, readonly=True)
        assert granting.references(PFN) == (before[0] + 1, *before[1:])
        writing = [granting.access.map(REF) for _ in range(2)]
        assert granting.references(PFN) == (before[0] + 3, WRITABLE, 2)
        mfn = granting.guest.mfn(PFN)
        assert sorted(granting.table.held_frames()) == [(mfn, NONE), *[(mfn, WRITABLE)] * 2]
        granting.access.unmap_all([reading, *writing])
        assert granting.references(PFN)[0] == before[0]
        assert granting.references(PFN)[2] == 0
        assert not list(granting.table.held_frames())

    def test_read_only(self, granting: Granting) -> None:
        granting.grant(REF, PFN, READ_ONLY)
        with refused(GENERAL):
            granting.access.map(REF)
        assert granting.status(REF) == 0
        mapping = granting.access.map(REF, readonly=True)
        assert mapping.page.readonly
        with refused(GENERAL):
            granting.access.map(REF)
        assert granting.status(REF) == READING

    @pytest.mark.parametrize(
        ("flags", "domid"),
        [
            (abi.GTF_invalid, 0),
            (abi.GTF_accept_transfer, 0),
            (abi.GTF_transitive, 0),
            (PERMIT | abi.GTF_sub_page, 0),
            (PERMIT, 1),
            (PERMIT, 0x7FF0),
        ],
    )
    def test_entry_that_grants_no_page(self, granting: Granting, flags: int, domid: int) -> None:
        granting.grant(REF, PFN, flags, domid)
        for readonly in (False, True):
            with refused(GENERAL):
                granting.access.map(REF, readonly=readonly)
        assert granting.flags(REF) == flags
        assert granting.status(REF) == 0

    def test_reference_beyond_the_table(self, granting: Granting) -> None:
        for ref in (granting.table.entries, 0xFFFFFFFF):
            with refused(abi.GNTST_bad_gntref):
                granting.access.map(ref)

    def test_frame_that_is_not_the_guests(self, granting: Granting) -> None:
        memory = granting.guest.memory
        for mfn in (memory.bounce_mfn, memory.frames - 1, memory.frames, 0xFFFFFFFF):
            granting.grant_frame(REF, mfn)
            with refused(abi.GNTST_bad_page):
                granting.access.map(REF)
            assert granting.status(REF) == 0

    def test_shared_frame_of_xens(self, granting: Granting) -> None:
        granting.grant_frame(REF, granting.table.mfns[0])
        mapping = granting.access.map(REF, readonly=True)
        entry = granting.place(REF) % PAGE_SIZE
        assert int.from_bytes(mapping.page[entry : entry + 2], "little") == granting.flags(REF)
        granting.access.unmap(mapping)

    def test_page_table(self, granting: Granting) -> None:
        granting.grant(REF, L1)
        before = granting.references(L1)
        with refused(GENERAL):
            granting.access.map(REF)
        assert granting.references(L1) == before
        assert granting.status(REF) == 0
        mapping = granting.access.map(REF, readonly=True)
        granting.access.unmap(mapping)
        assert granting.references(L1) == before

    def test_entry_is_believed_once(self, granting: Granting) -> None:
        granting.page(PFN)[:3] = b"old"
        granting.grant(REF, PFN)
        first = granting.access.map(REF)
        granting.grant(REF, OTHER, READ_ONLY | BOTH, domid=5)
        second = granting.access.map(REF, readonly=True)
        assert first.page[:3] == second.page[:3] == b"old"
        assert granting.access.copy_from(REF, 0, 3) == b"old"
        granting.access.copy_to(REF, 0, b"new")
        assert granting.page(PFN)[:3] == b"new"
        granting.access.unmap_all([first, second])
        assert granting.flags(REF) & BOTH == 0 or granting.table.version == 2
        with refused(GENERAL):
            granting.access.map(REF)

    def test_other_domain_while_it_is_mapped(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        granting.access.map(REF)
        granting.grant(REF, PFN, domid=3)
        other = GrantAccess(granting.table, lambda mfn: None, domid=3)
        with refused(GENERAL):
            other.map(REF)
        with refused(GENERAL):
            other.copy_from(REF, 0, 1)

    def test_as_many_as_a_counter_holds(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        mappings = granting.access.map_all([REF] * 128)
        with refused(GENERAL):
            granting.access.map(REF)
        with refused(GENERAL):
            granting.access.copy_to(REF, 0, b"x")
        granting.access.unmap(granting.access.map(REF, readonly=True))
        granting.access.unmap_all(mappings)
        assert granting.references(PFN)[2] == 0

    def test_all_or_none(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        granting.grant(REF + 1, OTHER)
        with refused(GENERAL):
            granting.access.map_all([REF, REF + 1, REF + 2])
        assert not list(granting.table.held_frames())
        assert granting.status(REF) == granting.status(REF + 1) == 0

    def test_limit_of_handles(self, guest: SmallDomain) -> None:
        granting = Granting(guest, max_maptrack_frames=1)
        granting.grant(REF, PFN)
        granting.grant(REF + 1, PFN)
        mappings = granting.access.map_all([REF] * 128 + [REF + 1] * 127)
        with refused(abi.GNTST_no_space):
            granting.access.map(REF + 1)
        granting.access.unmap(mappings.pop())
        mappings.append(granting.access.map(REF + 1))
        granting.access.unmap_all(mappings)
        none = Granting(guest, max_maptrack_frames=0)
        with refused(abi.GNTST_no_space):
            none.access.map(REF)


class TestSegments:
    def test_neighbours_in_memory_are_one_piece(self, granting: Granting) -> None:
        """Of the four, the first two join, the third begins a page late, the last is elsewhere."""
        assert granting.guest.mfn(OTHER) == granting.guest.mfn(PFN) + 1
        granting.grant(REF, PFN, READ_ONLY)
        granting.grant(REF + 1, OTHER)
        granting.page(PFN)[:] = bytes([1]) * PAGE_SIZE
        granting.page(OTHER)[:] = bytes([2]) * PAGE_SIZE
        segments = [(REF, 512, 4096), (REF + 1, 0, 1024), (REF + 1, 1536, 2048), (REF, 0, 4096)]
        mapped = granting.access.map_segments(segments, True)
        assert [len(buffer) for buffer in mapped.buffers] == [3584 + 1024, 512, 4096]
        assert all(buffer.readonly for buffer in mapped.buffers)
        assert b"".join(mapped.buffers) == bytes([1]) * 3584 + bytes([2]) * 1536 + bytes([1]) * 4096
        granting.access.unmap_segments(mapped)

    def test_references(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        before = granting.references(PFN)
        writing = granting.access.map_segments([(REF, 0, 512), (REF, 1024, 4096)], False)
        reading = granting.access.map_segments([(REF, 0, 512)], True)
        assert granting.references(PFN) == (before[0] + 3, WRITABLE, 2)
        assert granting.status(REF) == BOTH
        mfn = granting.guest.mfn(PFN)
        assert sorted(granting.table.held_frames()) == [(mfn, NONE), *[(mfn, WRITABLE)] * 2]
        writing.buffers[1][:4] = b"back"
        assert granting.page(PFN)[1024:1028] == b"back"
        for _ in range(2):  # the second time nothing happens
            granting.access.unmap_segments(writing)
            assert granting.status(REF) == READING
        granting.access.unmap_segments(reading)
        assert granting.references(PFN)[0] == before[0]
        assert granting.status(REF) == 0
        assert not list(granting.table.held_frames())
        with pytest.raises(ValueError, match="released"):
            writing.buffers[0][0] = 1

    @pytest.mark.parametrize(
        ("bad", "status"),
        [
            ((REF + 1, 0, 512), GENERAL),
            ((0xFFFFFFFF, 0, 512), abi.GNTST_bad_gntref),
            ((REF, 512, 512), abi.GNTST_bad_copy_arg),
            ((REF, 0, 4097), abi.GNTST_bad_copy_arg),
            ((REF, -512, 512), abi.GNTST_bad_copy_arg),
        ],
    )
    def test_all_or_none(self, granting: Granting, bad: tuple[int, int, int], status: int) -> None:
        granting.grant(REF, PFN)
        before = granting.references(PFN)
        with refused(status):
            granting.access.map_segments([(REF, 0, 4096), bad], False)
        assert granting.references(PFN)[0] == before[0]
        assert granting.status(REF) == 0

    def test_code_is_forgotten(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        granting.execute(PFN)
        invalidated = granting.guest.engine.invalidated
        access = granting.access
        access.unmap_segments(access.map_segments([(REF, 0, 512)], True))
        assert not invalidated
        access.unmap_segments(access.map_segments([(REF, 0, 512)], False))
        assert invalidated == [(granting.guest.maddr(PFN), PAGE_SIZE)]

    def test_close(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        mapped = granting.access.map_segments([(REF, 0, 4096)], False)
        granting.access.close()
        assert not list(granting.table.held_frames())
        granting.access.unmap_segments(mapped)
        assert granting.status(REF) == 0


class TestUnmap:
    def test_twice(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        mapping, other = granting.access.map(REF), granting.access.map(REF)
        granting.access.unmap(mapping)
        with refused(abi.GNTST_bad_handle):
            granting.access.unmap(mapping)
        assert granting.references(PFN)[2] == 1
        granting.access.unmap(other)

    def test_page_cannot_be_used_afterwards(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        mapping = granting.access.map(REF)
        granting.access.unmap(mapping)
        with pytest.raises(ValueError, match="released"):
            mapping.page[0] = 1

    def test_page_in_use(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        mapping = granting.access.map(REF)
        used = memoryview(mapping.page)
        granting.access.unmap(mapping)
        used[:4] = b"late"  # another view of the same memory; it is there
        used.release()

    def test_code_is_forgotten(self, granting: Granting) -> None:
        """The guest may have executed what was on the page before."""
        granting.grant(REF, PFN)
        invalidated = granting.guest.engine.invalidated
        granting.access.unmap(granting.access.map(REF))
        assert not invalidated
        granting.execute(PFN)
        granting.access.unmap(granting.access.map(REF, readonly=True))
        assert not invalidated
        granting.access.unmap(granting.access.map(REF))
        assert invalidated == [(granting.guest.maddr(PFN), PAGE_SIZE)]

    def test_close(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        mapping = granting.access.map(REF)
        granting.access.map(REF, readonly=True)
        granting.access.close()
        assert granting.status(REF) == 0
        assert not list(granting.table.held_frames())
        mapping.page[:4] = b"safe"
        with refused(abi.GNTST_bad_handle):
            granting.access.unmap(mapping)

    def test_end_of_the_domain(self, guest: SmallDomain) -> None:
        granting = Granting(guest)
        granting.grant(REF, PFN)
        mapping = granting.access.map(REF)
        guest.domain.close()
        assert not list(granting.table.held_frames())
        assert not any(granting.table.pins)
        guest.engine.close()
        mapping.page[:4] = b"safe"


class TestCopy:
    def test_both_ways(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        granting.access.copy_to(REF, 4000, b"x" * 96)
        assert granting.page(PFN)[3999:] == b"\0" + b"x" * 96
        assert granting.access.copy_from(REF, 3990, 20) == bytes(10) + b"x" * 10
        assert granting.access.copy_from(REF, 4096, 0) == b""
        assert granting.status(REF) == 0

    def test_read_only(self, granting: Granting) -> None:
        granting.grant(REF, PFN, READ_ONLY)
        assert granting.access.copy_from(REF, 0, 4) == bytes(4)
        with refused(GENERAL):
            granting.access.copy_to(REF, 0, b"data")
        assert granting.page(PFN)[:4] == bytes(4)

    @pytest.mark.parametrize(("offset", "size"), [(4000, 97), (4097, 0), (0, 4097), (65535, 1)])
    def test_beyond_the_page(self, granting: Granting, offset: int, size: int) -> None:
        granting.grant(REF, PFN)
        with refused(abi.GNTST_bad_copy_arg):
            granting.access.copy_from(REF, offset, size)
        with refused(abi.GNTST_bad_copy_arg):
            granting.access.copy_to(REF, offset, bytes(size))

    @pytest.mark.parametrize(
        ("flags", "domid"), [(abi.GTF_invalid, 0), (abi.GTF_accept_transfer, 0), (PERMIT, 4)]
    )
    def test_entry_that_grants_nothing(self, granting: Granting, flags: int, domid: int) -> None:
        granting.grant(REF, PFN, flags, domid)
        with refused(GENERAL):
            granting.access.copy_from(REF, 0, 4)
        with refused(GENERAL):
            granting.access.copy_to(REF, 0, b"data")

    def test_bad_numbers(self, granting: Granting) -> None:
        with refused(abi.GNTST_bad_gntref):
            granting.access.copy_from(granting.table.entries, 0, 4)
        granting.grant_frame(REF, 5)
        with refused(abi.GNTST_bad_page):
            granting.access.copy_from(REF, 0, 4)

    def test_page_table(self, granting: Granting) -> None:
        granting.grant(REF, L1)
        before = granting.references(L1), bytes(granting.page(L1))
        with refused(GENERAL):
            granting.access.copy_to(REF, 0, b"data")
        assert (granting.references(L1), bytes(granting.page(L1))) == before
        assert granting.access.copy_from(REF, 0, PAGE_SIZE) == before[1]

    def test_leaves_the_status_of_mappings(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        mapping = granting.access.map(REF, readonly=True)
        granting.access.copy_to(REF, 0, b"data")
        assert granting.status(REF) == READING
        writing = granting.access.map(REF)
        granting.access.copy_to(REF, 0, b"data")
        granting.access.copy_from(REF, 0, 4)
        assert granting.status(REF) == BOTH
        granting.access.unmap_all([mapping, writing])

    def test_code_is_forgotten(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        granting.access.copy_to(REF, 100, b"data")
        assert not granting.guest.engine.invalidated
        granting.execute(PFN)
        granting.access.copy_from(REF, 100, 4)
        assert not granting.guest.engine.invalidated
        granting.access.copy_to(REF, 100, b"code")
        assert granting.guest.engine.invalidated == [(granting.guest.maddr(PFN), PAGE_SIZE)]

    def test_lists(self, granting: Granting) -> None:
        granting.grant(REF, PFN)
        granting.grant(REF + 1, OTHER)
        segments = [(REF, 4090, 6), (REF + 1, 0, 4), (REF, 0, 2)]
        data = memoryview(b"abcdefghijkl")
        granting.access.scatter(segments, data)
        assert granting.page(PFN)[4090:] == b"abcdef"
        assert granting.page(OTHER)[:5] == b"ghij\0"
        target = bytearray(14)
        granting.access.gather(segments, memoryview(target))
        assert target == b"abcdefghijkl\0\0"
        with pytest.raises(ValueError, match="structure"):
            granting.access.scatter(segments, data[:11])
        with pytest.raises(ValueError, match="structure"):
            granting.access.gather(segments, memoryview(target)[:11])
        with refused(GENERAL):
            granting.access.gather([(REF, 0, 4), (REF + 2, 0, 4)], memoryview(target))


class TestVersion2:
    def test_part_of_a_page(self, granting2: Granting) -> None:
        granting2.grant_part(REF, PFN, 100, 50)
        granting2.access.copy_to(REF, 100, b"y" * 50)
        assert granting2.access.copy_from(REF, 120, 30) == b"y" * 30
        for offset, size in ((99, 1), (149, 2), (150, 1), (0, 4096)):
            with refused(GENERAL):
                granting2.access.copy_from(REF, offset, size)
        with refused(GENERAL):
            granting2.access.map(REF, readonly=True)

    def test_part_that_is_none(self, granting2: Granting) -> None:
        granting2.grant_part(REF, PFN, 4000, 0xFFFF)
        assert len(granting2.access.copy_from(REF, 4000, 96)) == 96
        with refused(abi.GNTST_bad_copy_arg):
            granting2.access.copy_from(REF, 4000, 97)

    @pytest.mark.parametrize(
        ("domid", "ref", "status"),
        [
            (1, 3, GENERAL),  # the granting domain's own
            (0, 3, GENERAL),
            (0, 512, abi.GNTST_bad_gntref),
            (5, 3, GENERAL),  # a domain that is not there
        ],
    )
    def test_grant_of_another_domains_grant(
        self, granting2: Granting, domid: int, ref: int, status: int
    ) -> None:
        granting2.grant_on(REF, domid, ref)
        with refused(status):
            granting2.access.copy_from(REF, 0, 4)
        with refused(status):
            granting2.access.copy_to(REF, 0, b"data")
        assert granting2.status(REF) == 0

    def test_frame_above_32_bits(self, granting2: Granting) -> None:
        granting2.grant_frame(REF, 1 << 32 | granting2.guest.mfn(PFN))
        with refused(abi.GNTST_bad_page):
            granting2.access.map(REF)


def test_bits_that_the_guest_has_set_itself(granting: Granting) -> None:
    """They go with the first use, as under Xen."""
    place = granting.place(REF)
    granting.grant(REF, PFN)
    if granting.table.version == 1:
        granting.grant(REF, PFN, PERMIT | BOTH)
    else:
        place = granting.table.status_mfns[0] * PAGE_SIZE + 2 * REF
        granting.guest.memory.bytes[place] = BOTH
    granting.access.copy_from(REF, 0, 1)
    assert granting.status(REF) == abi.GTF_writing
    granting.access.copy_to(REF, 0, b"x")
    assert granting.status(REF) == 0
