# SPDX-License-Identifier: GPL-2.0-or-later
"""Long hypercalls give way and go on: the same end, wherever they were interrupted."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from itertools import cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_domain import BASE, FREE, L1, SYSCALL_LENGTH, SmallDomain, small_domain

from pyxen.abi import memory as abi
from pyxen.abi import xen
from pyxen.abi.arch_x86_64 import TRAP_INFO
from pyxen.abi.event_channel import EVTCHN_RESET, EVTCHNOP_reset
from pyxen.hypervisor.page_flags import PAGE_SIZE, PRESENT, RW
from pyxen.hypervisor.vcpu import PENDING, Vcpu

Work = Callable[[SmallDomain], list[int]]
ENTRY = xen.MULTICALL_ENTRY.size


def requests(guest: SmallDomain, first: int, count: int, refused: int = -1) -> bytes:
    """mmu_update requests that map pfns from FREE on; number ``refused`` maps what is Xen's."""
    data = b""
    for number in range(count):
        mfn = 5000 if number == refused else guest.mfn(FREE + number % 40)
        index = first + number
        data += struct.pack("<2Q", guest.maddr(L1, 8 * index), mfn << 12 | PRESENT | RW)
    return data


def reservation(guest: SmallDomain, numbers: list[int], offset: int) -> int:
    """The address of a structure whose list lies 256 bytes behind it."""
    extents = guest.put(struct.pack(f"<{len(numbers)}Q", *numbers), offset + 256)
    layout = abi.XEN_MEMORY_RESERVATION
    return guest.put_struct(layout, extents, len(numbers), 0, 0, xen.DOMID_SELF, offset=offset)


def update_entries(guest: SmallDomain) -> list[int]:
    done = guest.put(b"\xff" * 4, 2048)
    address = guest.put(requests(guest, 100, 100, refused=90))
    call = xen.HYPERVISOR_mmu_update
    results = [guest.call(call, address, 70, done, xen.DOMID_SELF)]
    results.append(int.from_bytes(guest.read(done, 4), "little"))
    results.append(guest.call(call, address, 100, done, xen.DOMID_SELF))
    results.append(int.from_bytes(guest.read(done, 4), "little"))
    return results


def operate(guest: SmallDomain) -> list[int]:
    done = guest.put(b"\xff" * 4, 2048)
    pages = [(xen.MMUEXT_CLEAR_PAGE, guest.mfn(FREE + n)) for n in range(6)]
    flushes = [(xen.MMUEXT_TLB_FLUSH_LOCAL, 0), (xen.MMUEXT_PIN_L1_TABLE, guest.mfn(FREE + 3))]
    operations = [*pages, *flushes, (99, 0), *pages]
    address = guest.put(b"".join(struct.pack("<IxxxxQQ", *each, 0) for each in operations))
    result = guest.call(xen.HYPERVISOR_mmuext_op, address, len(operations), done, xen.DOMID_SELF)
    return [result, int.from_bytes(guest.read(done, 4), "little")]


def balloon(guest: SmallDomain) -> list[int]:
    call = xen.HYPERVISOR_memory_op
    frames = [guest.mfn(FREE + number) for number in range(20)]
    down = reservation(guest, frames, 0)
    results = [guest.call(call, abi.XENMEM_decrease_reservation, down)]
    up = reservation(guest, [FREE + number for number in range(15)], 1024)
    results.append(guest.call(call, abi.XENMEM_populate_physmap, up))
    more = reservation(guest, [0] * 3, 2048)
    results.append(guest.call(call, abi.XENMEM_increase_reservation, more))
    return results + list(struct.unpack("<3Q", guest.read(more + 256, 24)))


def exchange(guest: SmallDomain) -> list[int]:
    frames = [guest.mfn(FREE + number) for number in range(8)]
    given = guest.put(struct.pack("<8Q", *frames), 1024)
    taken = guest.put(struct.pack("<4Q", 30, 32, 34, 36), 2048)
    reserve = abi.XEN_MEMORY_RESERVATION.pack
    place = guest.put_struct(
        abi.XEN_MEMORY_EXCHANGE,
        reserve(given, 8, 0, 0, xen.DOMID_SELF),
        reserve(taken, 4, 1, 0, xen.DOMID_SELF),
        0,
    )
    result = guest.call(xen.HYPERVISOR_memory_op, abi.XENMEM_exchange, place)
    return [result, *struct.unpack("<4Q", guest.read(taken, 32))]


def reset(guest: SmallDomain) -> list[int]:
    for _ in range(300):
        guest.domain.events.alloc_unbound(0)
    call = xen.HYPERVISOR_event_channel_op
    place = guest.put_struct(EVTCHN_RESET, xen.DOMID_SELF)
    results = [guest.call(call, 14, place), guest.call(call, EVTCHNOP_reset, place)]
    return [*results, guest.domain.events.alloc_unbound(0)]


def trap_table(guest: SmallDomain) -> list[int]:
    entries = [(vector, 0, 0x33, BASE + 16 * vector) for vector in range(20)]
    table = b"".join(TRAP_INFO.pack(*entry) for entry in [*entries, (0, 0, 0, 0)])
    result = guest.call(xen.HYPERVISOR_set_trap_table, guest.put(table))
    return [result, *guest.vcpu.trap_address]


def several(guest: SmallDomain) -> list[int]:
    """A multicall whose entries are long themselves."""
    frames = [guest.mfn(FREE + number) for number in range(5)]
    down = reservation(guest, frames, 1024)
    updates = guest.put(requests(guest, 200, 60), 2048)
    text = guest.put(b"x" * 3000, 4096)
    calls: list[tuple[int, ...]] = [
        (xen.HYPERVISOR_xen_version, 0),
        (xen.HYPERVISOR_mmu_update, updates, 60, 0, xen.DOMID_SELF),
        (xen.HYPERVISOR_memory_op, abi.XENMEM_decrease_reservation, down),
        (63,),
        (xen.HYPERVISOR_console_io, xen.CONSOLEIO_write, 6000, text),
        (xen.HYPERVISOR_stack_switch, 0x2B, 0x8000),
    ]
    data = b"".join(
        struct.pack("<8Q", number, 0, *[*arguments, 0, 0, 0, 0, 0, 0][:6])
        for number, *arguments in calls
    )
    address = guest.put(data)
    results = [guest.call(xen.HYPERVISOR_multicall, address, len(calls))]
    for number in range(len(calls)):
        results += struct.unpack("<q", guest.read(address + number * ENTRY + 8, 8))
    return [*results, guest.vcpu.kernel_sp, len(b"".join(guest.output))]


WORKS = (update_entries, operate, balloon, exchange, reset, trap_table, several)
SCRATCH_FRAMES = 3


def run(work: Work, interruptions: Iterator[bool]) -> tuple[list[int], bytes, int]:
    """Results, the end of everything but the scratch pages, and how often it gave way."""
    with small_domain() as guest, pytest.MonkeyPatch.context() as patch:
        patch.setattr(guest.domain, "preempt_check", lambda vcpu: next(interruptions))
        results = work(guest)
        # The arguments of continued entries of a multicall change; they lie in the scratch pages.
        for number in range(SCRATCH_FRAMES):
            start = guest.maddr(6 + number)
            guest.memory.bytes[start : start + PAGE_SIZE] = bytes(PAGE_SIZE)
        gave_way = guest.domain.statistics().operations.get("continuation", 0)
        return results, guest.snapshot(), gave_way


@pytest.mark.parametrize("work", WORKS)
def test_interrupted_at_each_element(work: Work) -> None:
    expected = run(work, cycle([False]))
    interrupted = run(work, cycle([True]))
    assert expected[2] == 0
    assert interrupted[2] > 2
    assert interrupted[:2] == expected[:2]


@settings(max_examples=40, deadline=None)
@given(work=st.sampled_from(WORKS), pattern=st.lists(st.booleans(), min_size=1, max_size=12))
def test_the_end_is_the_same_wherever_it_is_interrupted(work: Work, pattern: list[bool]) -> None:
    expected = run(work, cycle([False]))
    assert run(work, cycle(pattern))[:2] == expected[:2]


def test_an_event_is_taken_in_the_midst(guest: SmallDomain) -> None:
    """The registers are those before the instruction: the callback returns to it."""
    frames = [guest.mfn(FREE + number) for number in range(4)]
    place = reservation(guest, frames, 0)
    guest.memory.bytes[guest.vcpu.info + PENDING] = 1
    guest.set_upcall_mask(0)
    registers = guest.vcpu.cpu.registers
    registers.rip = BASE + 0x100
    registers.rax = xen.HYPERVISOR_memory_op
    registers.rdi, registers.rsi = abi.XENMEM_decrease_reservation, place
    guest.domain.dispatcher.hypercall(guest.vcpu)
    assert registers.rip == BASE + 0x100 - SYSCALL_LENGTH
    assert registers.rax == xen.HYPERVISOR_memory_op
    assert registers.rdi == abi.XENMEM_decrease_reservation | 1 << 6
    assert guest.memory.nr_pages == 63
    guest.take_events()
    registers.rip += SYSCALL_LENGTH
    guest.domain.dispatcher.hypercall(guest.vcpu)
    assert registers.rip == BASE + 0x100
    assert registers.rax == 4


def test_a_continued_call_counts_once(guest: SmallDomain) -> None:
    def always(vcpu: Vcpu) -> bool:
        return True

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guest.domain, "preempt_check", always)
        balloon(guest)
    assert guest.domain.statistics().hypercalls["memory_op"][0] == 3
