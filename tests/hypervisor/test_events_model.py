# SPDX-License-Identifier: GPL-2.0-or-later
"""Random work on event channels, beside naive models of what ``event_channel.h`` says.

``Ports`` models what ports are bound to; the two machines below it model how events reach a guest
that takes them step by step: in the two-level form, and in the FIFO form.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field

from fifo_guest import LINKED, MASKED, PENDING, FifoGuest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from small_domain import small_domain

from pyxen.abi import event_channel as abi
from pyxen.abi import xen
from pyxen.errors import XenError
from pyxen.hypervisor.events_back_end import BackEndPort
from pyxen.hypervisor.page_flags import PAGE_SIZE

PORTS = st.integers(0, 9)
VCPUS = st.integers(0, 2)
PER_VCPU = (xen.VIRQ_TIMER, xen.VIRQ_DEBUG)
SHARED = xen.SHARED_INFO.offsets


@dataclass
class Model:
    state: int
    vcpu: int = 0
    virq: int = 0
    remote: int = 0
    for_us: bool = False
    back_end: BackEndPort | None = None
    priority: int = abi.EVTCHN_FIFO_PRIORITY_DEFAULT


class Ports(RuleBasedStateMachine):
    """What ports are bound to. How events are seen by the guest is in the machines below."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.guest = self.stack.enter_context(small_domain(2))
        self.events = self.guest.domain.events
        self.ports: dict[int, Model] = {}
        self.back_ends: list[BackEndPort] = []
        self.heard: dict[int, int] = {}
        self.pending: set[int] = set()
        self.masked: set[int] = set()

    def teardown(self) -> None:
        self.stack.close()

    # What differs

    def tell(self, number: int) -> None:
        """A pending port that is not masked: it was just raised or unmasked."""
        raise NotImplementedError

    def busy(self) -> set[int]:
        """Closed ports that cannot be bound."""
        return set()

    def set_mask(self, number: int) -> None:
        """As the guest does."""
        raise NotImplementedError

    # Helpers

    def add(self, number: int | None, port: Model) -> None:
        assert number is not None
        assert number == min(set(range(1, 64)) - set(self.ports) - self.busy())
        self.ports[number] = port

    def try_(self, operation: object, *arguments: object) -> object:
        """The result, 0 for None; None if refused."""
        try:
            return operation(*arguments) or 0  # type: ignore[operator]
        except XenError:
            return None

    def bound(self, operation: object, *arguments: object) -> int | None:
        number = self.try_(operation, *arguments)
        assert number is None or isinstance(number, int)
        return number

    def raise_(self, number: int) -> None:
        if number not in self.pending:
            self.pending.add(number)
            if number not in self.masked:
                self.tell(number)

    # Rules

    @rule(for_us=st.booleans())
    def alloc_unbound(self, for_us: bool) -> None:
        number = self.events.alloc_unbound(xen.DOMID_SELF if for_us else 0)
        self.add(number, Model(abi.EVTCHNSTAT_unbound, for_us=for_us))

    @rule(remote=PORTS)
    def bind_interdomain(self, remote: int) -> None:
        port = self.ports.get(remote)
        allowed = port is not None and port.state == abi.EVTCHNSTAT_unbound and port.for_us
        number = self.bound(self.events.bind_interdomain, xen.DOMID_SELF, remote)
        assert (number is not None) == allowed
        if port is not None and number is not None:
            self.add(number, Model(abi.EVTCHNSTAT_interdomain, remote=remote))
            port.state, port.remote = abi.EVTCHNSTAT_interdomain, number
            self.raise_(number)

    @rule(data=st.data())
    def connect(self, data: st.DataObject) -> None:
        """Bind to a port that waits for one, if there is any."""
        waiting = [n for n, p in self.ports.items() if p.state == abi.EVTCHNSTAT_unbound]
        if waiting:
            number = data.draw(st.sampled_from(waiting))
            if self.ports[number].for_us:
                self.bind_interdomain(number)
            else:
                self.bind_back_end(number)

    @rule(number=PORTS)
    def bind_back_end(self, number: int) -> None:
        port = self.ports.get(number)
        allowed = port is not None and port.state == abi.EVTCHNSTAT_unbound and not port.for_us
        back_end = self.try_(self.events.bind_back_end, number)
        assert (back_end is not None) == allowed
        if port is not None and isinstance(back_end, BackEndPort):
            self.listen(back_end)
            self.back_ends.append(back_end)
            port.state, port.back_end = abi.EVTCHNSTAT_interdomain, back_end
            port.remote = back_end.number

    def listen(self, back_end: BackEndPort) -> None:
        self.heard[back_end.number] = 0

        def hear() -> None:
            self.heard[back_end.number] += 1

        back_end.listen(hear)
        assert self.heard[back_end.number] == 1

    @rule(number=st.integers(1, 4))
    def bind_to_back_end(self, number: int) -> None:
        """The guest comes back to a port of domain 0 that it had left."""
        back_end = next((each for each in self.back_ends if each.number == number), None)
        allowed = back_end is not None and back_end.guest_port == 0
        port = self.bound(self.events.bind_interdomain, 0, number)
        assert (port is not None) == allowed
        if port is not None:
            self.add(port, Model(abi.EVTCHNSTAT_interdomain, remote=number, back_end=back_end))
            self.raise_(port)

    @rule(data=st.data(), close=st.booleans())
    def use_back_end(self, data: st.DataObject, close: bool) -> None:
        if not self.back_ends:
            return
        back_end = data.draw(st.sampled_from(self.back_ends))
        guest_port = next((n for n, p in self.ports.items() if p.back_end is back_end), 0)
        assert back_end.guest_port == guest_port
        if close:
            back_end.close()
            self.back_ends.remove(back_end)
            if guest_port:
                port = self.ports[guest_port]
                port.state, port.for_us, port.back_end = abi.EVTCHNSTAT_unbound, False, None
        else:
            back_end.send()
            if guest_port:
                self.raise_(guest_port)

    @rule(data=st.data())
    def close_one_end(self, data: st.DataObject) -> None:
        ends = [n for n, p in self.ports.items() if p.state == abi.EVTCHNSTAT_interdomain]
        if ends:
            self.close(data.draw(st.sampled_from(ends)))

    @rule(virq=st.sampled_from([*PER_VCPU, xen.VIRQ_CONSOLE, xen.NR_VIRQS]), vcpu=VCPUS)
    def bind_virq(self, virq: int, vcpu: int) -> None:
        taken = any(
            port.state == abi.EVTCHNSTAT_virq
            and port.virq == virq
            and (port.vcpu == vcpu or virq not in PER_VCPU)
            for port in self.ports.values()
        )
        allowed = vcpu < 2 and (virq in PER_VCPU or (virq == xen.VIRQ_CONSOLE and vcpu == 0))
        number = self.bound(self.events.bind_virq, virq, vcpu)
        assert (number is not None) == (allowed and not taken)
        if number is not None:
            self.add(number, Model(abi.EVTCHNSTAT_virq, vcpu=vcpu, virq=virq))

    @rule(vcpu=VCPUS)
    def bind_ipi(self, vcpu: int) -> None:
        number = self.bound(self.events.bind_ipi, vcpu)
        assert (number is not None) == (vcpu < 2)
        if number is not None:
            self.add(number, Model(abi.EVTCHNSTAT_ipi, vcpu=vcpu))

    @rule(number=PORTS, vcpu=VCPUS)
    def bind_vcpu(self, number: int, vcpu: int) -> None:
        port = self.ports.get(number)
        allowed = vcpu < 2 and port is not None and port.state != abi.EVTCHNSTAT_ipi
        if port is not None and port.state == abi.EVTCHNSTAT_virq and port.virq in PER_VCPU:
            allowed = False
        done = self.try_(self.events.bind_vcpu, number, vcpu) is not None
        assert done == allowed
        if port is not None and done:
            port.vcpu = vcpu

    @rule(number=PORTS)
    def close(self, number: int) -> None:
        port = self.ports.get(number)
        assert (self.try_(self.events.close, number) is not None) == (port is not None)
        if port is not None:
            del self.ports[number]
            self.pending.discard(number)
            if port.state == abi.EVTCHNSTAT_interdomain and port.back_end is None:
                other = self.ports[port.remote]
                other.state, other.for_us = abi.EVTCHNSTAT_unbound, True

    @rule(number=PORTS)
    def send(self, number: int) -> None:
        port = self.ports.get(number)
        allowed = port is not None and port.state != abi.EVTCHNSTAT_virq
        heard = dict(self.heard)
        assert (self.try_(self.events.send, number) is not None) == allowed
        if port is not None and port.back_end is not None:
            heard[port.back_end.number] += 1
            assert self.heard == heard
        elif port is not None and port.state == abi.EVTCHNSTAT_interdomain:
            self.raise_(port.remote)
        elif port is not None and port.state == abi.EVTCHNSTAT_ipi:
            self.raise_(number)

    @rule(virq=st.sampled_from(PER_VCPU), vcpu=st.integers(0, 1))
    def raise_virq(self, virq: int, vcpu: int) -> None:
        found = [
            number
            for number, port in self.ports.items()
            if (port.state, port.virq, port.vcpu) == (abi.EVTCHNSTAT_virq, virq, vcpu)
        ]
        assert self.events.raise_virq(virq, vcpu) == bool(found)
        for number in found:
            self.raise_(number)

    @rule(number=PORTS)
    def mask(self, number: int) -> None:
        """The guest does this itself."""
        self.masked.add(number)
        self.set_mask(number)

    @rule(number=PORTS)
    def unmask(self, number: int) -> None:
        assert self.try_(self.events.unmask, number) is not None
        if number in self.ports and number in self.masked:
            self.masked.discard(number)
            if number in self.pending:
                self.tell(number)

    @invariant()
    def bindings_agree(self) -> None:
        for number in range(64):
            port = self.ports.get(number) or Model(abi.EVTCHNSTAT_closed)
            status = self.events.status(xen.DOMID_SELF, number)
            assert (status.state, status.vcpu) == (port.state, port.vcpu)
            if port.state == abi.EVTCHNSTAT_interdomain:
                assert status.remote_port == port.remote
                assert (status.remote_domain == 0) == (port.back_end is not None)
            elif port.state == abi.EVTCHNSTAT_unbound:
                own = self.guest.domain.domid
                assert status.remote_domain == (own if port.for_us else 0)
            elif port.state == abi.EVTCHNSTAT_virq:
                assert status.virq == port.virq
                owner = port.vcpu if port.virq in PER_VCPU else 0
                assert self.events.virq_port(port.virq, owner) == number
        for number in self.ports:
            assert self.events.poll(number) == (number in self.pending)
        statistics = self.events.statistics()
        assert list(statistics) == sorted(self.ports)
        for number, counts in statistics.items():
            assert counts.pending == (number in self.pending)
            assert counts.masked == (number in self.masked)


class TwoLevelEvents(Ports):
    """All ports lie in the first word of the bitmaps, so each vCPU's selector has one bit."""

    def __init__(self) -> None:
        super().__init__()
        self.upcall = [False, False]

    def tell(self, number: int) -> None:
        self.upcall[self.ports[number].vcpu] = True

    def set_mask(self, number: int) -> None:
        self.guest.memory.words[self._word("evtchn_mask")] |= 1 << number

    @rule(vcpu=st.integers(0, 1), handled=st.sets(PORTS))
    def take(self, vcpu: int, handled: set[int]) -> None:
        """What an event callback does, with some of the ports."""
        self.guest.take_events(self.guest.domain.vcpus[vcpu])
        self.upcall[vcpu] = False
        self.pending -= handled
        word = self._word("evtchn_pending")
        self.guest.memory.words[word] &= ~sum(1 << number for number in handled) & (1 << 64) - 1

    def _word(self, name: str) -> int:
        return (self.guest.memory.shared_info_mfn * PAGE_SIZE + SHARED[name]) >> 3

    @invariant()
    def bits_agree(self) -> None:
        words = self.guest.memory.words
        assert words[self._word("evtchn_pending")] == sum(1 << n for n in self.pending)
        assert words[self._word("evtchn_mask")] == sum(1 << n for n in self.masked)
        for vcpu, upcall in zip(self.guest.domain.vcpus, self.upcall, strict=True):
            assert self.guest.upcall_pending(vcpu) == upcall
            assert self.guest.pending_selector(vcpu) == upcall


@dataclass
class Queues:
    """One vCPU's queues: ports in order, by priority."""

    ports: dict[int, list[int]] = field(default_factory=dict)

    def all(self) -> list[int]:
        return [port for queue in self.ports.values() for port in queue]


class FifoEvents(Ports):
    """Each port is in at most one queue, from when it is told until the guest takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.fifo = FifoGuest(self.guest)
        self.fifo.start()
        self.queues = [Queues(), Queues()]

    def busy(self) -> set[int]:
        return {port for queues in self.queues for port in queues.all()}

    def tell(self, number: int) -> None:
        if number not in self.busy():
            port = self.ports[number]
            self.queues[port.vcpu].ports.setdefault(port.priority, []).append(number)

    def set_mask(self, number: int) -> None:
        self.fifo.mask(number)

    @rule(number=PORTS, priority=st.sampled_from((0, 3, 7, 15, 16)))
    def set_priority(self, number: int, priority: int) -> None:
        done = self.try_(self.events.set_priority, number, priority) is not None
        assert done == (number in self.ports and priority < 16)
        if done:
            self.ports[number].priority = priority

    @rule(data=st.data(), vcpu=st.integers(0, 1), priority=st.sampled_from((3, 7)))
    def raise_elsewhere(self, data: st.DataObject, vcpu: int, priority: int) -> None:
        """Move a port of a back end's, and raise it."""
        channels = [n for n, p in self.ports.items() if p.back_end is not None]
        if channels:
            number = data.draw(st.sampled_from(channels))
            self.bind_vcpu(number, vcpu)
            self.set_priority(number, priority)
            self.events.back_end_ports[self.ports[number].remote].send()
            self.raise_(number)

    @rule(vcpu=st.integers(0, 1), steps=st.integers(1, 3))
    def take(self, vcpu: int, steps: int) -> None:
        """The guest takes some ports, the most urgent first, each queue in order."""
        for _ in range(steps):
            ready = [priority for priority, ports in self.queues[vcpu].ports.items() if ports]
            taken = self.fifo.step(vcpu)
            assert (taken is not None) == bool(ready)
            if taken is None:
                return
            number, handled = taken
            assert number == self.queues[vcpu].ports[min(ready)].pop(0)
            assert handled == (number in self.pending and number not in self.masked)
            if handled:
                self.pending.remove(number)

    @invariant()
    def words_agree(self) -> None:
        busy = self.busy()
        for number in range(64):
            word = self.fifo.word(number)
            assert bool(word & PENDING) == (number in self.pending)
            assert bool(word & MASKED) == (number in self.masked)
            assert bool(word & LINKED) == (number in busy)

    @invariant()
    def no_event_is_forgotten(self) -> None:
        """What is pending and not masked is in a queue, and that vCPU is told or looks."""
        assert self.pending - self.masked <= self.busy()
        for vcpu, queues in zip(self.guest.domain.vcpus, self.queues, strict=True):
            if queues.all() and not self.fifo.ready[vcpu.index]:
                assert self.guest.upcall_pending(vcpu)


TestTwoLevelEvents = TwoLevelEvents.TestCase
TestTwoLevelEvents.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestFifoEvents = FifoEvents.TestCase
TestFifoEvents.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
