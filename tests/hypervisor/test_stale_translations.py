# SPDX-License-Identifier: GPL-2.0-or-later
"""A CPU may use a translation after its entry has changed: it must not serve the guest as a way to
write to what it may no longer write. On the real emulator, with guest code."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest
from small_domain import FREE, L2, L3, L4, MAX_PAGES, SCRATCH, TABLE, SmallDomain
from small_domain import L1 as L1_TABLE

from pyxen import engine as engines
from pyxen.abi import memory, sched, xen
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.page_flags import ACCESSED, DIRTY, NX, PAGE_SIZE, PRESENT, RW
from pyxen.hypervisor.page_types import L1, SEGMENT_DESCRIPTORS

CODE, DATA = SCRATCH, SCRATCH + 1
INDEX = 100
EVIL = 0x5BAD5BAD5BAD5BAD
READ_ONLY = PRESENT | ACCESSED | NX
WRITABLE = READ_ONLY | RW | DIRTY
_ARGUMENTS = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8")


def load(opcode: bytes, value: int) -> bytes:
    return opcode + struct.pack("<Q", value & (1 << 64) - 1)


def hypercall(number: int, *arguments: int) -> bytes:
    """mov rax, rdi, rsi, rdx, r10, r8; syscall"""
    moves = [load(opcode, value) for opcode, value in zip(_ARGUMENTS, arguments, strict=False)]
    return load(b"\x48\xb8", number) + b"".join(moves) + b"\x0f\x05"


def store(address: int, value: int) -> bytes:
    """mov rbx, address; mov rcx, value; mov [rbx], rcx"""
    return load(b"\x48\xbb", address) + load(b"\x48\xb9", value) + b"\x48\x89\x0b"


@pytest.fixture
def guest() -> Iterator[SmallDomain]:
    guest = SmallDomain(None, engine=engines.create("emulator", MAX_PAGES, 1))
    guest.set_entry(L1_TABLE, INDEX, guest.mfn(FREE), WRITABLE)
    yield guest
    guest.close()


def run(guest: SmallDomain, *parts: bytes) -> str | None:
    """Run this code, behind which the domain powers off. Returns why it crashed, if it did."""
    off = guest.put(struct.pack("<I", sched.SHUTDOWN_poweroff), PAGE_SIZE + 0x400)
    code = b"".join(parts) + hypercall(xen.HYPERVISOR_sched_op, sched.SCHEDOP_shutdown, off)
    assert len(code) <= PAGE_SIZE
    guest.put(code)
    guest.vcpu.cpu.registers.rip = guest.address(CODE)
    try:
        assert guest.domain.run() == "poweroff"
    except DomainCrash as crash:
        return str(crash)
    return None


def unmap(guest: SmallDomain, flags: int = READ_ONLY) -> bytes:
    """Take the right to write away without a flush."""
    entry = guest.maddr(FREE) | flags if flags else 0
    call = xen.HYPERVISOR_update_va_mapping
    return hypercall(call, guest.address(INDEX), entry, xen.UVMF_NONE)


def become_table(guest: SmallDomain) -> bytes:
    place = guest.put(xen.MMUEXT_OP.pack(xen.MMUEXT_PIN_L1_TABLE, guest.mfn(FREE), 0), PAGE_SIZE)
    return hypercall(xen.HYPERVISOR_mmuext_op, place, 1, 0, xen.DOMID_SELF)


def become_descriptors(guest: SmallDomain) -> bytes:
    place = guest.put(struct.pack("<Q", guest.mfn(FREE)), PAGE_SIZE)
    return hypercall(xen.HYPERVISOR_set_gdt, place, 512)


Become = Callable[[SmallDomain], bytes]


@pytest.mark.parametrize(
    ("become", "kind"), [(become_table, L1), (become_descriptors, SEGMENT_DESCRIPTORS)]
)
def test_frame_with_a_new_type_cannot_be_written(
    guest: SmallDomain, become: Become, kind: int
) -> None:
    address = guest.address(INDEX)
    crash = run(guest, store(address, 0), unmap(guest), become(guest), store(address, EVIL))
    assert guest.tables.types[guest.mfn(FREE)] == kind
    assert crash is not None
    assert guest.entry(FREE, 0) == 0


@pytest.mark.parametrize("table", [L4, L3, L2], ids=["L4", "L3", "L2"])
def test_not_by_another_address_of_the_same_entry(guest: SmallDomain, table: int) -> None:
    """The tables below are linked twice: the flush of one page does not do."""
    address, shift = guest.address(INDEX), {L4: 39, L3: 30, L2: 21}[table]
    slot = 300 if table == L4 else 5
    guest.set_entry(table, slot, guest.mfn(table + 1), TABLE)
    other = address & ~(511 << shift) | slot << shift
    crash = run(guest, store(other + 8, 2), unmap(guest), become_table(guest), store(other, EVIL))
    assert crash is not None
    assert guest.tables.types[guest.mfn(FREE)] == L1
    assert (guest.entry(FREE, 0), guest.entry(FREE, 1)) == (0, 2)


@pytest.mark.parametrize("stale", [False, True], ids=["one address", "two addresses"])
def test_flush_of_one_page_does_where_there_is_one_address(guest: SmallDomain, stale: bool) -> None:
    if stale:
        guest.set_entry(L2, 5, guest.mfn(L1_TABLE), TABLE)
    run(guest, store(guest.address(INDEX), 0), unmap(guest))
    flushes = guest.engine.flush_clock[0]
    guest.tables.pin(guest.mfn(FREE), L1)
    assert (guest.engine.flush_clock[0] > flushes) == stale


def test_it_is_the_flush_that_prevents_it(
    guest: SmallDomain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the test above would find without it. The guest maps a frame of Xen's."""
    guest.set_entry(L2, 5, guest.mfn(L1_TABLE), TABLE)
    monkeypatch.setattr(type(guest.memory), "flush_stale", lambda self, mfn: None)
    address = guest.address(INDEX) & ~(511 << 21) | 5 << 21
    assert not run(guest, store(address, 0), unmap(guest), become_table(guest), store(address, 4))
    assert guest.tables.types[guest.mfn(FREE)] == L1
    assert guest.entry(FREE, 0) == 4


def test_frame_that_was_given_back_cannot_be_written(guest: SmallDomain) -> None:
    address, scratch = guest.address(INDEX), guest.address(DATA)
    extents = guest.put(struct.pack("<Q", guest.mfn(FREE)), PAGE_SIZE + 0x100)
    reservation = guest.put(
        memory.XEN_MEMORY_RESERVATION.pack(extents, 1, 0, 0, xen.DOMID_SELF), PAGE_SIZE + 0x200
    )
    again = guest.put(
        memory.XEN_MEMORY_RESERVATION.pack(scratch + 0x300, 1, 0, 0, xen.DOMID_SELF),
        PAGE_SIZE + 0x280,
    )
    guest.put(struct.pack("<Q", FREE), PAGE_SIZE + 0x300)
    call = xen.HYPERVISOR_memory_op
    crash = run(
        guest,
        store(address, 0),
        unmap(guest, 0),
        hypercall(call, memory.XENMEM_decrease_reservation, reservation),
        hypercall(call, memory.XENMEM_populate_physmap, again),
        store(address, EVIL),
    )
    assert crash is not None
    (mfn,) = struct.unpack("<Q", guest.read(scratch + 0x300, 8))
    assert mfn == guest.mfn(FREE)
    assert guest.entry(FREE, 0) == 0


def test_no_flush_without_need(guest: SmallDomain) -> None:
    """A flush in between, for whatever reason, makes another one needless."""
    clock = guest.engine.flush_clock
    run(guest, store(guest.address(INDEX), 0), unmap(guest))
    guest.engine.flush_tlb()
    flushes = clock[0]
    guest.tables.pin(guest.mfn(FREE), L1)
    guest.tables.pin(guest.mfn(FREE + 1), L1)
    assert clock[0] == flushes
