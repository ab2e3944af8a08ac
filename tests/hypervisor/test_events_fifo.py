# SPDX-License-Identifier: GPL-2.0-or-later
"""The FIFO form of event channels: the switch to it, its pages, its queues."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from fifo_guest import LINKED, MASKED, PENDING, FifoGuest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_domain import FREE, L1, PAGES, SmallDomain, small_domain

from pyxen.abi import event_channel as abi
from pyxen.abi import xen
from pyxen.abi.errno import EACCES, EAGAIN, EBUSY, EINVAL, ENOENT, ENOSPC, ENOSYS, EOPNOTSUPP
from pyxen.errors import XenError
from pyxen.hypervisor.events import DEFAULT_MAX_EVENT_CHANNELS, EventChannels
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.page_types import WRITABLE
from pyxen.hypervisor.timers import NO_DEADLINE

CALL = xen.HYPERVISOR_event_channel_op
SELF = xen.DOMID_SELF
LAST_OFFSET = PAGE_SIZE - abi.EVTCHN_FIFO_CONTROL_BLOCK.size


@pytest.fixture
def fifo(guest2: SmallDomain) -> FifoGuest:
    """Two vCPUs, switched to the FIFO form, with one page of event words."""
    fifo = FifoGuest(guest2)
    fifo.start()
    return fifo


@pytest.fixture
def events(fifo: FifoGuest) -> EventChannels:
    return fifo.guest.domain.events


@pytest.fixture
def many() -> Iterator[SmallDomain]:
    """May have as many ports as there are."""
    with small_domain(max_event_channels=1 << 20) as guest:
        yield guest


def init_control(guest: SmallDomain, mfn: int, offset: int = 0, vcpu: int = 0) -> int:
    pointer = guest.put_struct(abi.EVTCHN_INIT_CONTROL, mfn, offset, vcpu, 0)
    result = guest.call(CALL, abi.EVTCHNOP_init_control, pointer)
    bits = guest.read_struct(abi.EVTCHN_INIT_CONTROL, pointer)[3]
    assert bits == (0 if result else abi.EVTCHN_FIFO_LINK_BITS)
    return result


def expand_array(guest: SmallDomain, mfn: int) -> int:
    pointer = guest.put_struct(abi.EVTCHN_EXPAND_ARRAY, mfn)
    return guest.call(CALL, abi.EVTCHNOP_expand_array, pointer)


def set_priority(guest: SmallDomain, port: int, priority: int) -> int:
    pointer = guest.put_struct(abi.EVTCHN_SET_PRIORITY, port, priority)
    return guest.call(CALL, abi.EVTCHNOP_set_priority, pointer)


def bad_frames(guest: SmallDomain) -> list[int]:
    """A page table, frames of Xen's, one that nobody has, numbers that are none."""
    memory = guest.memory
    return [guest.mfn(L1), 0, guest.mfn(PAGES), memory.frames, (1 << 64) - 1]


class TestSwitch:
    def test_control_blocks(self, guest2: SmallDomain) -> None:
        good = guest2.mfn(FREE)
        for mfn in bad_frames(guest2):
            assert init_control(guest2, mfn) == -EINVAL
        for offset in (LAST_OFFSET + 8, LAST_OFFSET + 1, 4, 0xFFFFFFFF, PAGE_SIZE):
            assert init_control(guest2, good, offset) == -EINVAL
        assert init_control(guest2, good, 0, 2) == -ENOENT
        assert init_control(guest2, good, 0, 0xFFFFFFFF) == -ENOENT
        assert expand_array(guest2, good) == -EOPNOTSUPP  # nothing has been switched
        assert init_control(guest2, good, LAST_OFFSET // 8 * 8, 1) == 0
        assert init_control(guest2, good, 0, 1) == -EINVAL  # a second time
        assert init_control(guest2, good, 0, 0) == 0

    def test_event_array(self, guest: SmallDomain) -> None:
        assert init_control(guest, guest.mfn(FREE)) == 0
        for mfn in bad_frames(guest):
            assert expand_array(guest, mfn) == -EINVAL
        for _ in range(abi.EVTCHN_FIFO_NR_CHANNELS // 1024):
            assert expand_array(guest, guest.mfn(FREE + 1)) == 0
        assert expand_array(guest, guest.mfn(FREE + 1)) == -ENOSPC
        assert expand_array(guest, 0) == -ENOSPC

    def test_pages_are_held_until_reset(self, guest2: SmallDomain) -> None:
        events, tables = guest2.domain.events, guest2.tables
        assert list(events.held_frames()) == []
        before = list(tables.type_counts)
        fifo = FifoGuest(guest2)
        fifo.start()
        held = [guest2.mfn(FREE + 1), guest2.mfn(FREE), guest2.mfn(FREE)]
        assert list(events.held_frames()) == [(mfn, WRITABLE) for mfn in held]
        assert tables.type_counts[guest2.mfn(FREE)] == 2
        assert tables.type_counts[guest2.mfn(FREE + 1)] == 1
        with pytest.raises(XenError):
            tables.pin(guest2.mfn(FREE), 1)
        assert guest2.domain.audit() == []
        port = events.bind_ipi(0)
        events.send(port)
        pointer = guest2.put_struct(abi.EVTCHN_RESET, SELF)
        assert guest2.call(CALL, abi.EVTCHNOP_reset, pointer) == 0
        assert list(events.held_frames()) == []
        assert list(tables.type_counts) == before
        assert guest2.domain.audit() == []
        assert expand_array(guest2, guest2.mfn(FREE)) == -EOPNOTSUPP
        assert events.bind_ipi(0) == 1  # its word is still linked, but that is the guest's now
        events.send(1)
        assert guest2.pending_selector() == 1
        assert init_control(guest2, guest2.mfn(FREE)) == 0

    def test_events_pending_before_come_when_their_words_do(self, guest2: SmallDomain) -> None:
        events = guest2.domain.events
        ports = [events.bind_ipi(vcpu) for vcpu in (0, 1, 0)]
        closed = events.bind_ipi(0)
        events.send(ports[0])
        events.send(ports[1])
        events.send(closed)
        fifo = FifoGuest(guest2)
        fifo.init_control(0)
        fifo.init_control(1)
        events.send(ports[2])  # in between
        events.close(closed)
        assert not events.poll(ports[2])
        for vcpu in guest2.domain.vcpus:
            guest2.take_events(vcpu)
        fifo.expand_array()
        assert [guest2.upcall_pending(vcpu) for vcpu in guest2.domain.vcpus] == [1, 1]
        assert [fifo.drain(vcpu) for vcpu in (0, 1)] == [[ports[0], ports[2]], [ports[1]]]
        assert fifo.word(closed) == 0
        assert [events.statistics()[port].raised for port in ports] == [2, 2, 1]

    def test_vcpu_without_a_control_block_gets_nothing(self, guest2: SmallDomain) -> None:
        events = guest2.domain.events
        fifo = FifoGuest(guest2)
        fifo.init_control(0)
        fifo.expand_array()
        port = events.bind_ipi(1)
        events.send(port)
        assert fifo.word(port) == 0
        fifo.init_control(1)
        events.send(port)
        assert fifo.drain(1) == [port]

    def test_there_are_131072_ports(self, many: SmallDomain) -> None:
        """The domain has 64 pages: the same one serves for all words, as a hostile guest would."""
        events = many.domain.events
        assert init_control(many, many.mfn(FREE)) == 0
        for _ in range(abi.EVTCHN_FIFO_NR_CHANNELS // 1024):
            assert expand_array(many, many.mfn(FREE + 1)) == 0
        for number in range(1, abi.EVTCHN_FIFO_NR_CHANNELS):
            if events.bind_ipi(0) != number:
                pytest.fail(f"port {number} was not the next one")
        with pytest.raises(XenError):
            events.bind_ipi(0)
        events.send(abi.EVTCHN_FIFO_NR_CHANNELS - 1)
        assert FifoGuest(many).word(1023) == PENDING | LINKED
        events.close(70_000)
        assert events.bind_ipi(0) == 70_000
        assert events.reset(many.vcpu, continued=False)
        assert events.bind_ipi(0) == 1

    def test_ports_bound_during_a_reset_keep_the_form(self, many: SmallDomain) -> None:
        """The two-level form has no place for all ports of the FIFO form."""
        events = many.domain.events
        FifoGuest(many).start()
        for _ in range(5000):
            events.bind_ipi(0)
        many.domain.post(lambda: None)
        assert not events.reset(many.vcpu, continued=False)
        with pytest.raises(XenError, match=f"^{EBUSY}$"):
            events.reset(many.vcpu, continued=False)
        kept = [events.bind_ipi(0) for _ in range(64)]
        assert max(kept) < 128
        while events.next_to_close < 4500:
            assert not events.reset(many.vcpu, continued=True)
        kept += [events.bind_ipi(0) for _ in range(4200 - len(kept))]
        assert max(kept) > abi.EVTCHN_2L_NR_CHANNELS
        many.domain.attend()
        with pytest.raises(XenError, match=f"^{EAGAIN}$"):
            events.reset(many.vcpu, continued=True)
        assert events.fifo is not None
        events.send(max(kept))
        assert events.reset(many.vcpu, continued=False)
        assert events.fifo is None

    def test_ports_beyond_the_array_wait(self, many: SmallDomain) -> None:
        events = many.domain.events
        fifo = FifoGuest(many)
        fifo.start()
        ports = [events.bind_ipi(0) for _ in range(1500)]
        events.unmask(ports[-1])
        events.send(ports[-1])
        assert not events.poll(ports[-1])
        events.unmask(ports[-1])
        fifo.expand_array(1)
        assert events.poll(ports[-1])
        assert fifo.drain() == [ports[-1]]


class TestQueues:
    def test_in_order_within_a_priority(self, fifo: FifoGuest, events: EventChannels) -> None:
        ports = [events.bind_ipi(0) for _ in range(5)]
        order = [ports[index] for index in (3, 0, 4, 1)]
        for port in order:
            events.send(port)
            events.send(port)
        assert fifo.guest.upcall_pending() == 1
        assert fifo.words[fifo.control(0, "ready")] == 1 << abi.EVTCHN_FIFO_PRIORITY_DEFAULT
        assert fifo.drain() == order
        assert fifo.drain() == []
        events.send(ports[1])
        assert fifo.guest.upcall_pending() == 1
        assert fifo.drain() == [ports[1]]

    def test_priorities(self, fifo: FifoGuest, events: EventChannels) -> None:
        ports = [events.bind_ipi(0) for _ in range(16)]
        priorities = random.Random(1).sample(range(16), 16)
        for port, priority in zip(ports, priorities, strict=True):
            assert set_priority(fifo.guest, port, priority) == 0
            events.send(port)
        assert fifo.drain() == sorted(ports, key=lambda port: priorities[port - 1])

    def test_set_priority_refused(self, guest2: SmallDomain) -> None:
        port = guest2.domain.events.bind_ipi(0)
        assert set_priority(guest2, port, 0) == -ENOSYS
        assert set_priority(guest2, port, 16) == -ENOSYS
        assert set_priority(guest2, 64, 0) == -EINVAL
        FifoGuest(guest2).start()
        assert set_priority(guest2, 64, 0) == -EINVAL
        for number in (0, port + 1):
            assert set_priority(guest2, number, 16) == -EACCES
        assert set_priority(guest2, port, 16) == -EINVAL
        assert set_priority(guest2, port, 0xFFFFFFFF) == -EINVAL
        assert set_priority(guest2, port, 15) == 0

    def test_a_new_port_has_the_default_priority(
        self, fifo: FifoGuest, events: EventChannels
    ) -> None:
        port = events.bind_ipi(0)
        events.set_priority(port, 0)
        events.close(port)
        assert events.bind_ipi(0) == port
        events.send(port)
        assert fifo.words[fifo.control(0, "ready")] == 1 << abi.EVTCHN_FIFO_PRIORITY_DEFAULT

    def test_linked_port_that_moves_is_taken_once(
        self, fifo: FifoGuest, events: EventChannels
    ) -> None:
        first, second = events.alloc_unbound(SELF), events.alloc_unbound(SELF)
        ends = [events.bind_interdomain(SELF, port) for port in (first, second)]
        fifo.drain()
        events.send(ends[0])
        events.send(ends[1])
        events.bind_vcpu(second, 1)
        events.set_priority(second, 2)
        events.send(ends[1])  # still the same event, on vCPU 0
        assert fifo.drain(1) == []
        assert fifo.drain(0) == [first, second]
        events.send(ends[1])
        events.send(ends[0])
        assert fifo.drain(0) == [first]
        assert fifo.drain(1) == [second]

    def test_a_tail_that_has_moved_does_not_get_the_old_queues_next(
        self, fifo: FifoGuest, events: EventChannels
    ) -> None:
        first, second = events.bind_ipi(0), events.bind_ipi(0)
        events.send(first)
        assert fifo.drain() == [first]
        events.set_priority(first, 3)
        events.send(first)  # the tail of the old queue, linked into another one
        events.send(second)  # into the old queue: it must not be linked behind ``first``
        assert fifo.words[fifo.control(0, "ready")] == 1 << 3 | 1 << 7
        assert fifo.drain() == [first, second]

    def test_a_tail_that_has_moved_to_another_vcpu_and_back(
        self, fifo: FifoGuest, events: EventChannels
    ) -> None:
        moving = events.alloc_unbound(SELF)
        end = events.bind_interdomain(SELF, moving)
        resting = [events.bind_ipi(0), events.bind_ipi(1)]
        fifo.drain()
        for vcpu in (0, 1, 0, 1):
            events.bind_vcpu(moving, vcpu)
            events.send(end)
            for port in resting:
                events.send(port)
            taken = [fifo.drain(0), fifo.drain(1)]
            assert taken[vcpu] == [moving, resting[vcpu]]
            assert taken[1 - vcpu] == [resting[1 - vcpu]]

    def test_masked_port(self, fifo: FifoGuest, events: EventChannels) -> None:
        port = events.bind_ipi(0)
        fifo.mask(port)
        events.send(port)
        assert fifo.word(port) == PENDING | MASKED
        assert fifo.guest.upcall_pending() == 0
        events.unmask(port)
        assert fifo.guest.upcall_pending() == 1
        assert fifo.drain() == [port]
        events.unmask(port)
        assert fifo.drain() == []

    def test_port_masked_in_its_queue(self, fifo: FifoGuest, events: EventChannels) -> None:
        port = events.bind_ipi(0)
        events.send(port)
        fifo.mask(port)
        assert fifo.drain() == []
        assert events.poll(port)
        events.unmask(port)
        assert fifo.drain() == [port]

    def test_closed_port_is_busy_until_it_is_unlinked(
        self, fifo: FifoGuest, events: EventChannels
    ) -> None:
        port = events.bind_ipi(0)
        events.send(port)
        events.close(port)
        assert fifo.word(port) == LINKED
        assert events.bind_ipi(0) == port + 1
        assert fifo.drain() == []
        assert events.bind_ipi(0) == port

    def test_all_free_ports_busy(self, fifo: FifoGuest, events: EventChannels) -> None:
        """A guest can take its own ports away from itself."""
        for number in range(1, DEFAULT_MAX_EVENT_CHANNELS + 1):
            assert events.bind_ipi(0) == number
        for number in range(1, DEFAULT_MAX_EVENT_CHANNELS + 1):
            fifo.words[fifo.at(number)] = LINKED
            events.close(number)
        with pytest.raises(XenError):
            events.bind_ipi(0)
        fifo.words[fifo.at(700)] = MASKED
        assert events.bind_ipi(0) == 700

    def test_polling_vcpu_is_woken_by_a_masked_port(
        self, fifo: FifoGuest, events: EventChannels
    ) -> None:
        vcpu = fifo.guest.vcpu
        port = events.bind_ipi(1)
        fifo.mask(port)
        vcpu.poll(port, NO_DEADLINE)
        assert vcpu.blocked
        events.send(port)
        assert not vcpu.blocked


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_that_the_guest_writes_does_harm(data: st.DataObject) -> None:
    """Any bits in the event words and control blocks, at any time: operations end, and well."""
    with small_domain(2) as guest:
        fifo = FifoGuest(guest)
        events = guest.domain.events
        page = guest.memory.bytes[guest.maddr(FREE) : guest.maddr(FREE + 2)]
        seed = random.Random(data.draw(st.integers(0, 1 << 30)))
        outside = guest.snapshot()[: FREE * PAGE_SIZE]
        page[:] = seed.randbytes(len(page))
        fifo.start()
        ports = [events.bind_ipi(seed.randrange(2)) for _ in range(20)]
        for _ in range(300):
            page[4 * seed.randrange(len(page) // 4) :][:4] = seed.randbytes(4)
            port = seed.choice(ports)
            page[PAGE_SIZE + 4 * port :][:4] = seed.randbytes(4)
            choice = seed.randrange(5)
            if choice == 0:
                events.send(port)
            elif choice == 1:
                events.unmask(port)
            elif choice == 2:
                events.set_priority(port, seed.randrange(16))
            elif choice == 3:
                events.poll(port)
            else:
                events.close(port)
                ports.remove(port)
                ports.append(events.bind_ipi(seed.randrange(2)))
        assert guest.snapshot()[: FREE * PAGE_SIZE] == outside
        assert guest.domain.audit() == []
