# SPDX-License-Identifier: GPL-2.0-or-later
"""Copying by linear address, and frames of machine memory."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_domain import (
    BAD_POINTERS,
    FREE,
    L1,
    L2,
    LAST_SCRATCH,
    MAX_PAGES,
    PAGES,
    READ_ONLY,
    SCRATCH,
    TABLE,
    SmallDomain,
)

from pyxen.abi.errno import EFAULT, EINVAL, ENOMEM
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.memory import INVALID_M2P_ENTRY
from pyxen.hypervisor.page_flags import PAGE_SIZE, PRESENT, PSE, RW


def is_efault(function: object, *arguments: object) -> bool:
    with pytest.raises(XenError) as caught:
        function(*arguments)  # type: ignore[operator]
    return caught.value.errno == EFAULT


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(offset=st.integers(0, 3 * PAGE_SIZE), data=st.binary(min_size=1, max_size=9000))
def test_copies_agree_with_machine_memory(guest: SmallDomain, offset: int, data: bytes) -> None:
    address = guest.address(SCRATCH) + offset
    if offset + len(data) > 3 * PAGE_SIZE:
        assert is_efault(guest_access.copy_to, guest.vcpu, address, data)
        assert is_efault(guest_access.copy_from, guest.vcpu, address, len(data))
        return
    guest_access.copy_to(guest.vcpu, address, data)
    start = guest.maddr(SCRATCH, offset)
    assert guest.memory.bytes[start : start + len(data)] == data
    assert guest_access.copy_from(guest.vcpu, address, len(data)) == data
    if len(data) >= 16:
        words = list(memoryview(data[:16]).cast("Q"))
        assert guest_access.read_words(guest.vcpu, address, 2) == words


@pytest.mark.parametrize("kind", BAD_POINTERS)
def test_bad_addresses(guest: SmallDomain, kind: str) -> None:
    address = BAD_POINTERS[kind]
    assert is_efault(guest_access.copy_from, guest.vcpu, address, 8)
    assert is_efault(guest_access.copy_to, guest.vcpu, address, bytes(8))
    assert is_efault(guest_access.read_words, guest.vcpu, address & ~7, 2)
    assert is_efault(guest_access.write_word, guest.vcpu, address, 1)


def test_range_that_wraps_around_the_address_space(guest: SmallDomain) -> None:
    assert is_efault(guest_access.copy_from, guest.vcpu, (1 << 64) - 8, 16)
    assert is_efault(guest_access.copy_from, guest.vcpu, 0x7FFF_FFFF_FFF8, 16)
    assert is_efault(guest_access.copy_from, guest.vcpu, 0xFFFF_7FFF_FFFF_FFF8, 16)


def test_read_only_page_can_be_read(guest: SmallDomain) -> None:
    address = guest.address(READ_ONLY)
    assert guest_access.copy_from(guest.vcpu, address, 4) == bytes(4)
    assert is_efault(guest_access.write_u32, guest.vcpu, address, 1)


def test_read_only_at_a_higher_level(guest: SmallDomain) -> None:
    index = guest.address(SCRATCH) >> 21 & 511
    guest.set_entry(L2, index, guest.mfn(L1), PRESENT)
    assert is_efault(guest_access.write_u32, guest.vcpu, guest.address(SCRATCH), 1)
    guest_access.copy_from(guest.vcpu, guest.address(SCRATCH), 4)


@pytest.mark.parametrize("frame", [1 << 30, (1 << 40) - 1])
def test_entries_that_point_outside_the_machine(guest: SmallDomain, frame: int) -> None:
    """The hypervisor never lets them in; the walk must bear them all the same."""
    address = guest.address(SCRATCH)
    for table, index in ((L1, SCRATCH), (L2, address >> 21 & 511)):
        position = guest.mfn(table) * 512 + index
        entry = guest.memory.words[position]
        guest.memory.words[position] = frame * PAGE_SIZE | TABLE
        assert is_efault(guest_access.copy_from, guest.vcpu, address, 4)
        assert guest_access.find_words(guest.vcpu, address, 1) == guest_access.NOT_MAPPED
        assert guest_access.read_code(guest.vcpu, address, 4) == b""
        guest.memory.words[position] = entry


@pytest.mark.parametrize("address", sorted(BAD_POINTERS.values()))
def test_nothing_can_be_copied_anywhere(guest: SmallDomain, address: int) -> None:
    assert guest_access.copy_from(guest.vcpu, address, 0) == b""
    assert guest_access.read_words(guest.vcpu, address, 0) == []
    guest_access.copy_to(guest.vcpu, address, b"")


def test_large_page(guest: SmallDomain) -> None:
    """Xen's own M2P is mapped by them."""
    table = guest.vcpu.cpu.kernel_page_table
    m2p = 0xFFFF800000000000
    entry = m2p + (guest.mfn(FREE)) * 8
    machine = guest_access.translate(guest.memory.words, table, entry, PRESENT)
    assert guest.memory.words[machine >> 3] == FREE
    assert guest_access.translate(guest.memory.words, table, entry, PRESENT | RW) == -1
    assert PSE


def test_code_is_read_up_to_the_end_of_the_mapping(guest: SmallDomain) -> None:
    guest.write(LAST_SCRATCH - 4, b"\x90\x90\x90\xc3")
    assert guest_access.read_code(guest.vcpu, LAST_SCRATCH - 4, 15) == b"\x90\x90\x90\xc3"
    assert guest_access.read_code(guest.vcpu, LAST_SCRATCH, 15) == b""


class TestFrames:
    def test_m2p_and_p2m_agree_at_the_start(self, guest: SmallDomain) -> None:
        memory = guest.memory
        assert len(memory.p2m) == PAGES
        for pfn, mfn in enumerate(memory.p2m):
            assert memory.m2p[mfn] == pfn
            assert memory.is_domains(mfn)
        for mfn in (0, memory.ram_mfn - 1, memory.ram_mfn + PAGES, memory.frames - 1):
            assert memory.m2p[mfn] == INVALID_M2P_ENTRY
            assert not memory.is_domains(mfn)

    def test_ownership_of_any_number(self, guest: SmallDomain) -> None:
        memory = guest.memory
        for mfn in (memory.frames, 1 << 40, 1 << 52):
            assert not memory.is_domains(mfn)
            assert not memory.is_owned(mfn)
        assert memory.is_owned(memory.shared_info_mfn)
        assert not memory.is_domains(memory.shared_info_mfn)

    def test_allocate_and_release(self, guest: SmallDomain) -> None:
        memory = guest.memory
        taken = [memory.allocate() for _ in range(MAX_PAGES - PAGES)]
        assert len(set(taken)) == len(taken)
        with pytest.raises(XenError) as caught:
            memory.allocate()
        assert caught.value.errno == ENOMEM
        memory.release(taken[3])
        with pytest.raises(XenError) as caught:
            memory.release(taken[3])
        assert caught.value.errno == EINVAL
        assert memory.allocate() == taken[3]
        assert memory.nr_pages == memory.max_pages == MAX_PAGES

    def test_xens_frames_are_apart(self, guest: SmallDomain) -> None:
        memory = guest.memory
        frames = [memory.allocate_xen() for _ in range(600)]
        assert len(set(frames)) == 600
        m2p = range(0x200, 0x200 + 512 * len(memory.m2p_mfns()))
        assert not any(mfn in m2p for mfn in frames)
        assert all(mfn < memory.ram_mfn for mfn in frames)

    def test_copy_to_pfn(self, guest: SmallDomain) -> None:
        data = bytes(range(256)) * 40
        guest.memory.copy_to_pfn(FREE, data, PAGE_SIZE + 100)
        start = guest.maddr(FREE + 1, 100)
        assert guest.memory.bytes[start : start + len(data)] == data
        with pytest.raises(ValueError, match="behind the domain's memory"):
            guest.memory.copy_to_pfn(PAGES - 1, array("Q", [0] * 513))

    def test_copy_to_scattered_pfns(self, guest: SmallDomain) -> None:
        p2m = guest.memory.p2m
        p2m[FREE + 1], p2m[FREE + 2] = p2m[FREE + 2], p2m[FREE + 1]
        data = bytes([1]) * PAGE_SIZE + bytes([2]) * PAGE_SIZE + bytes([3]) * PAGE_SIZE
        guest.memory.copy_to_pfn(FREE, data)
        pages = [guest.memory.bytes[guest.maddr(FREE + n)] for n in range(3)]
        assert pages == [1, 3, 2]
