# SPDX-License-Identifier: GPL-2.0-or-later
"""XENMEM_exchange, and what memory_op refuses to a paravirtual domain."""

from __future__ import annotations

import struct

import pytest
from small_domain import FREE, NOT_MAPPED, PAGES, READ_ONLY, STACK, XEN_ADDRESS, SmallDomain

from pyxen.abi import memory as abi
from pyxen.abi import xen
from pyxen.abi.errno import (
    EACCES,
    EDOM,
    EFAULT,
    EINVAL,
    ENOMEM,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
)
from pyxen.abi.layout import Layout
from pyxen.hypervisor.memory import INVALID_M2P_ENTRY

SELF = xen.DOMID_SELF
CALL = xen.HYPERVISOR_memory_op
GIVEN, TAKEN = 0x400, 0x800


def exchange(
    guest: SmallDomain,
    given: list[int],
    taken: list[int],
    in_order: int = 0,
    out_order: int = 0,
    *,
    done: int = 0,
    domids: tuple[int, int] = (SELF, SELF),
    lists: tuple[int, int] | None = None,
) -> tuple[int, int, list[int]]:
    """Result, nr_exchanged, and the list of what was taken."""
    first = guest.put(struct.pack(f"<{len(given)}Q", *given), GIVEN)
    second = guest.put(struct.pack(f"<{len(taken)}Q", *taken), TAKEN)
    first, second = lists or (first, second)
    pack = abi.XEN_MEMORY_RESERVATION.pack
    place = guest.put_struct(
        abi.XEN_MEMORY_EXCHANGE,
        pack(first, len(given), in_order, 0, domids[0]),
        pack(second, len(taken), out_order, 0, domids[1]),
        done,
    )
    result = guest.call(CALL, abi.XENMEM_exchange, place)
    mfns = struct.unpack(f"<{len(taken)}Q", guest.read(guest.address(6) + TAKEN, 8 * len(taken)))
    return result, guest.read_struct(abi.XEN_MEMORY_EXCHANGE, place)[2], list(mfns)


class TestExchange:
    def test_frames_for_an_extent(self, guest: SmallDomain) -> None:
        memory = guest.memory
        old = [guest.mfn(FREE + number) for number in (0, 2, 4, 6)]
        result, done, (new,) = exchange(guest, old, [FREE], 0, 2)
        assert (result, done) == (0, 4)
        assert new % 4 == 0
        assert [memory.m2p[new + n] for n in range(4)] == [FREE + n for n in range(4)]
        assert not any(memory.is_domains(mfn) for mfn in old)
        assert all(memory.m2p[mfn] == INVALID_M2P_ENTRY for mfn in old)
        assert memory.nr_pages == PAGES

    def test_an_extent_for_frames(self, guest: SmallDomain) -> None:
        first = guest.mfn(FREE)
        result, done, new = exchange(guest, [first, first + 4], list(range(30, 38)), 2, 0)
        assert (result, done) == (0, 2)
        assert len(set(new)) == 8
        assert [guest.memory.m2p[mfn] for mfn in new] == list(range(30, 38))
        assert guest.memory.nr_pages == PAGES

    def test_goes_on_where_it_was(self, guest: SmallDomain) -> None:
        old = [guest.mfn(FREE + number) for number in range(4)]
        result, done, new = exchange(guest, old, [50, 51, 52, 53], done=2)
        assert (result, done) == (0, 4)
        assert new[:2] == [50, 51]
        assert guest.memory.is_domains(old[0])
        assert old[2] != new[2]
        assert guest.memory.m2p[new[2]] == 52

    def test_nothing_left_to_do(self, guest: SmallDomain) -> None:
        old = [guest.mfn(FREE)]
        assert exchange(guest, old, [FREE], done=1)[:2] == (0, 1)
        assert guest.memory.is_domains(old[0])

    @pytest.mark.parametrize("bad", [3, 1 << 40, "mapped", "table", "twice"])
    def test_frames_that_cannot_go(self, guest: SmallDomain, bad: int | str) -> None:
        frames = {"mapped": guest.mfn(STACK), "table": guest.mfn(0), "twice": guest.mfn(FREE)}
        mfn = frames[bad] if isinstance(bad, str) else bad
        old = [guest.mfn(FREE + 8), guest.mfn(FREE + 9), guest.mfn(FREE), mfn]
        result, done, new = exchange(guest, old, [50, 52], 0, 1)
        assert (result, done) == (-EINVAL, 2)
        assert new[1] == 52
        assert guest.memory.is_domains(guest.mfn(FREE))
        assert guest.memory.nr_pages == PAGES

    def test_no_room(self, guest: SmallDomain) -> None:
        old = [guest.mfn(number) for number in range(FREE, FREE + 32)]
        before = guest.snapshot()
        while guest.memory.nr_pages < guest.memory.max_pages:
            guest.memory.allocate()
        full = guest.memory.nr_pages
        assert exchange(guest, old, [FREE], 0, 5)[:2] == (-ENOMEM, 0)
        assert guest.memory.nr_pages == full
        assert len(before) == len(guest.snapshot())

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ({"in_order": 10, "out_order": 10}, EPERM),
            ({"in_order": (1 << 32) - 1}, EPERM),
            ({"out_order": (1 << 32) - 1}, EPERM),
            ({"done": 2}, EINVAL),
            ({"domids": (SELF, 1)}, EINVAL),
            ({"out_order": 1}, EINVAL),
            ({"domids": (0, 0)}, EPERM),
            ({"domids": (7, 7)}, ESRCH),
            ({"lists": (XEN_ADDRESS, 0x1000)}, EFAULT),
            ({"lists": (0x1000, XEN_ADDRESS)}, EFAULT),
            ({"lists": (NOT_MAPPED, 0x1000)}, EFAULT),
        ],
    )
    def test_refused(self, guest: SmallDomain, arguments: dict[str, int], error: int) -> None:
        result, done, _ = exchange(guest, [guest.mfn(FREE)], [FREE], **arguments)  # type: ignore[arg-type]
        assert result == -error
        assert done == arguments.get("done", 0)
        assert guest.memory.is_domains(guest.mfn(FREE))

    def test_frames_that_cannot_be_told(self, guest: SmallDomain) -> None:
        """The chunk is exchanged, but does not count."""
        old = guest.mfn(FREE)
        place = (guest.address(6) + GIVEN, guest.address(READ_ONLY))
        assert exchange(guest, [old], [FREE], lists=place)[:2] == (-EFAULT, 0)
        assert not guest.memory.is_domains(old)
        assert guest.memory.nr_pages == PAGES

    def test_bad_pointer(self, guest: SmallDomain) -> None:
        assert guest.call(CALL, abi.XENMEM_exchange, NOT_MAPPED) == -EFAULT
        assert guest.call(CALL, abi.XENMEM_exchange | 1 << 6, 0) == -EINVAL


def test_memory_map_of_its_own(guest: SmallDomain) -> None:
    regions = abi.E820_ENTRY.pack(0, 0x9000, 1) + abi.E820_ENTRY.pack(0x9000, 0x1000, 2)
    buffer = guest.put(regions, 0x100)
    inner = abi.XEN_MEMORY_MAP.pack(2, buffer)
    place = guest.put_struct(abi.XEN_FOREIGN_MEMORY_MAP, SELF, inner)
    assert guest.call(CALL, abi.XENMEM_set_memory_map, place) == 0
    answer = guest.put_struct(abi.XEN_MEMORY_MAP, 9, guest.address(7))
    assert guest.call(CALL, abi.XENMEM_memory_map, answer) == 0
    assert guest.read(guest.address(7), len(regions)) == regions
    many = guest.put_struct(abi.XEN_FOREIGN_MEMORY_MAP, SELF, abi.XEN_MEMORY_MAP.pack(1025, buffer))
    assert guest.call(CALL, abi.XENMEM_set_memory_map, many) == -EINVAL
    none = guest.put_struct(abi.XEN_FOREIGN_MEMORY_MAP, SELF, abi.XEN_MEMORY_MAP.pack(0, buffer))
    assert guest.call(CALL, abi.XENMEM_set_memory_map, none) == 0
    assert guest.call(CALL, abi.XENMEM_memory_map, answer) == -ENOSYS
    other = guest.put_struct(abi.XEN_FOREIGN_MEMORY_MAP, 0, inner)
    assert guest.call(CALL, abi.XENMEM_set_memory_map, other) == -EPERM


def test_code_of_a_frame_that_is_given_anew_is_forgotten(guest: SmallDomain) -> None:
    mfn = guest.memory.allocate()
    guest.memory.code_frames[mfn] = 1
    guest.memory.release(mfn)
    assert guest.memory.allocate() == mfn
    assert not guest.memory.code_frames[mfn]


class TestRefused:
    @pytest.mark.parametrize(
        ("command", "layout", "values", "error"),
        [
            (abi.XENMEM_add_to_physmap, abi.XEN_ADD_TO_PHYSMAP, (SELF, 0, 0, 0, 0), EACCES),
            (abi.XENMEM_add_to_physmap, abi.XEN_ADD_TO_PHYSMAP, (SELF, 0, 4, 0, 0), ENOSYS),
            (abi.XENMEM_add_to_physmap, abi.XEN_ADD_TO_PHYSMAP, (9, 0, 0, 0, 0), ESRCH),
            (
                abi.XENMEM_add_to_physmap_batch,
                abi.XEN_ADD_TO_PHYSMAP_BATCH,
                (SELF, 3, 0, 0, 0, 0, 0),
                EOPNOTSUPP,
            ),
            (
                abi.XENMEM_add_to_physmap_batch,
                abi.XEN_ADD_TO_PHYSMAP_BATCH,
                (SELF, 0, 0, 0, 0, 0, 0),
                EACCES,
            ),
            (abi.XENMEM_remove_from_physmap, abi.XEN_REMOVE_FROM_PHYSMAP, (SELF, 0), EACCES),
            (abi.XENMEM_remove_from_physmap, abi.XEN_REMOVE_FROM_PHYSMAP, (9, 0), ESRCH),
            (abi.XENMEM_set_pod_target, abi.XEN_POD_TARGET, (0, 0, 0, 0, SELF), EINVAL),
            (abi.XENMEM_get_pod_target, abi.XEN_POD_TARGET, (0, 0, 0, 0, 9), ESRCH),
            (abi.XENMEM_access_op, abi.XEN_MEM_ACCESS_OP, (0, 0, 1, 0, 0, 0, 0), EPERM),
            (abi.XENMEM_access_op, abi.XEN_MEM_ACCESS_OP, (0, 0, SELF, 0, 0, 0, 0), ESRCH),
            (abi.XENMEM_access_op, abi.XEN_MEM_ACCESS_OP, (0, 0, 0, 0, 0, 0, 0), EINVAL),
            (abi.XENMEM_claim_pages, abi.XEN_MEMORY_RESERVATION, (0, 1, 0, 0, 1), EPERM),
            (abi.XENMEM_claim_pages, abi.XEN_MEMORY_RESERVATION, (0, 1, 1, 0, 1), EINVAL),
            (abi.XENMEM_claim_pages, abi.XEN_MEMORY_RESERVATION, (0, 1, 0, 0, SELF), EINVAL),
            (
                abi.XENMEM_get_vnumainfo,
                abi.XEN_VNUMA_TOPOLOGY_INFO,
                (SELF, 0, 1, 1, 1, 0, 0, 0),
                EOPNOTSUPP,
            ),
            (
                abi.XENMEM_get_vnumainfo,
                abi.XEN_VNUMA_TOPOLOGY_INFO,
                (SELF, 1, 1, 1, 1, 0, 0, 0),
                EINVAL,
            ),
            (
                abi.XENMEM_acquire_resource,
                abi.XEN_MEM_ACQUIRE_RESOURCE,
                (1, 1, 0, 1, 0, 0, 0),
                EPERM,
            ),
            (
                abi.XENMEM_acquire_resource,
                abi.XEN_MEM_ACQUIRE_RESOURCE,
                (SELF, 1, 0, 1, 0, 0, 0),
                ESRCH,
            ),
            (
                abi.XENMEM_acquire_resource,
                abi.XEN_MEM_ACQUIRE_RESOURCE,
                (0, 1, 0, 1, 0, 1 << 32, 0),
                EINVAL,
            ),
        ],
    )
    def test_by_arguments(
        self,
        guest: SmallDomain,
        command: int,
        layout: Layout,
        values: tuple[int, ...],
        error: int,
    ) -> None:
        before = guest.memory.nr_pages
        assert guest.call(CALL, command, guest.put_struct(layout, *values)) == -error
        assert guest.call(CALL, command, NOT_MAPPED) == -EFAULT
        assert guest.memory.nr_pages == before

    @pytest.mark.parametrize(
        ("command", "error"),
        [
            (abi.XENMEM_machine_memory_map, EPERM),
            (abi.XENMEM_machphys_compat_mfn_list, EOPNOTSUPP),
            (abi.XENMEM_paging_op, ENOSYS),
            (abi.XENMEM_sharing_op, ENOSYS),
            (8, ENOSYS),
            (29, ENOSYS),
        ],
    )
    def test_always(self, guest: SmallDomain, command: int, error: int) -> None:
        assert guest.call(CALL, command, guest.put(bytes(64))) == -error
        assert guest.call(CALL, command | 1 << 6, guest.put(bytes(64))) == -ENOSYS

    def test_extents_beyond_what_can_be_said(self, guest: SmallDomain) -> None:
        for command in (abi.XENMEM_add_to_physmap, abi.XENMEM_add_to_physmap_batch):
            assert guest.call(CALL, command | 0x10000 << 6, NOT_MAPPED) == -EDOM

    def test_questions_with_an_empty_answer(self, guest: SmallDomain) -> None:
        assert guest.call(CALL, abi.XENMEM_get_sharing_freed_pages, 0) == 0
        assert guest.call(CALL, abi.XENMEM_get_sharing_shared_pages, 0) == 0
        layout = abi.XEN_RESERVED_DEVICE_MEMORY_MAP
        place = guest.put(bytes(layout.size))
        assert guest.call(CALL, abi.XENMEM_reserved_device_memory_map, place) == 0
        flags = guest.put(struct.pack("<I", 2))
        assert guest.call(CALL, abi.XENMEM_reserved_device_memory_map, flags) == -EINVAL
