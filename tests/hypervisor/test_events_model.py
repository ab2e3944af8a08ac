# SPDX-License-Identifier: GPL-2.0-or-later
"""Random work on event channels, beside a naive model of what ``event_channel.h`` says."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from small_domain import small_domain

from pyxen.abi import event_channel as abi
from pyxen.abi import xen
from pyxen.errors import XenError
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


class Events(RuleBasedStateMachine):
    """All ports lie in the first word of the bitmaps, so each vCPU's selector has one bit."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.guest = self.stack.enter_context(small_domain(2))
        self.events = self.guest.domain.events
        self.ports: dict[int, Model] = {}
        self.pending: set[int] = set()
        self.masked: set[int] = set()
        self.upcall = [False, False]

    def teardown(self) -> None:
        self.stack.close()

    def add(self, number: int | None, port: Model) -> None:
        assert number is not None
        assert number == min(set(range(1, 64)) - set(self.ports))
        self.ports[number] = port

    def try_(self, operation: object, *arguments: int) -> int | None:
        """The result, 0 for None; None if refused."""
        try:
            return operation(*arguments) or 0  # type: ignore[operator, no-any-return]
        except XenError:
            return None

    def raise_(self, number: int) -> None:
        if number in self.pending:
            return
        self.pending.add(number)
        if number not in self.masked:
            self.upcall[self.ports[number].vcpu] = True

    @rule(for_us=st.booleans())
    def alloc_unbound(self, for_us: bool) -> None:
        remote = self.guest.domain.domid if for_us else 0
        number = self.events.alloc_unbound(remote)
        self.add(number, Model(abi.EVTCHNSTAT_unbound, for_us=for_us))

    @rule(remote=PORTS)
    def bind_interdomain(self, remote: int) -> None:
        port = self.ports.get(remote)
        allowed = port is not None and port.state == abi.EVTCHNSTAT_unbound and port.for_us
        number = self.try_(self.events.bind_interdomain, xen.DOMID_SELF, remote)
        assert (number is not None) == allowed
        if port is not None and number is not None:
            self.add(number, Model(abi.EVTCHNSTAT_interdomain, remote=remote))
            port.state, port.remote = abi.EVTCHNSTAT_interdomain, number
            self.raise_(number)

    @rule(data=st.data())
    def connect(self, data: st.DataObject) -> None:
        """As ``bind_interdomain``, with a port that waits for one, if there is any."""
        waiting = [n for n, p in self.ports.items() if p.state == abi.EVTCHNSTAT_unbound]
        if waiting:
            self.bind_interdomain(data.draw(st.sampled_from(waiting)))

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
        number = self.try_(self.events.bind_virq, virq, vcpu)
        assert (number is not None) == (allowed and not taken)
        if number is not None:
            self.add(number, Model(abi.EVTCHNSTAT_virq, vcpu=vcpu, virq=virq))

    @rule(vcpu=VCPUS)
    def bind_ipi(self, vcpu: int) -> None:
        number = self.try_(self.events.bind_ipi, vcpu)
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
            if port.state == abi.EVTCHNSTAT_interdomain:
                other = self.ports[port.remote]
                other.state, other.for_us = abi.EVTCHNSTAT_unbound, True

    @rule(number=PORTS)
    def send(self, number: int) -> None:
        port = self.ports.get(number)
        allowed = port is not None and port.state != abi.EVTCHNSTAT_virq
        assert (self.try_(self.events.send, number) is not None) == allowed
        if port is not None and port.state == abi.EVTCHNSTAT_interdomain:
            self.raise_(port.remote)
        elif port is not None and port.state == abi.EVTCHNSTAT_ipi:
            self.raise_(number)

    @rule(virq=st.sampled_from(PER_VCPU), vcpu=st.integers(0, 1))
    def raise_virq(self, virq: int, vcpu: int) -> None:
        self.events.raise_virq(virq, vcpu)
        for number, port in self.ports.items():
            if (port.state, port.virq, port.vcpu) == (abi.EVTCHNSTAT_virq, virq, vcpu):
                self.raise_(number)

    @rule(number=PORTS)
    def mask(self, number: int) -> None:
        """The guest does this itself."""
        self.masked.add(number)
        self.guest.memory.words[self._word("evtchn_mask")] |= 1 << number

    @rule(number=PORTS)
    def unmask(self, number: int) -> None:
        assert self.try_(self.events.unmask, number) is not None
        if number in self.ports and number in self.masked:
            self.masked.discard(number)
            if number in self.pending:
                self.upcall[self.ports[number].vcpu] = True

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
    def agrees(self) -> None:
        words = self.guest.memory.words
        assert words[self._word("evtchn_pending")] == sum(1 << n for n in self.pending)
        assert words[self._word("evtchn_mask")] == sum(1 << n for n in self.masked)
        for vcpu, upcall in zip(self.guest.domain.vcpus, self.upcall, strict=True):
            assert self.guest.upcall_pending(vcpu) == upcall
            assert self.guest.pending_selector(vcpu) == upcall
        for number in range(64):
            port = self.ports.get(number) or Model(abi.EVTCHNSTAT_closed)
            status = self.events.status(xen.DOMID_SELF, number)
            assert (status.state, status.vcpu) == (port.state, port.vcpu)
            if port.state == abi.EVTCHNSTAT_interdomain:
                assert status.remote_port == port.remote
        timers = [0, 0]
        for number, port in self.ports.items():
            if port.state == abi.EVTCHNSTAT_virq and port.virq == xen.VIRQ_TIMER:
                timers[port.vcpu] = number
        assert [vcpu.timer_port for vcpu in self.guest.domain.vcpus] == timers


TestEvents = Events.TestCase
TestEvents.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
