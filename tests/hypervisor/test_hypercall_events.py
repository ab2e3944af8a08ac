# SPDX-License-Identifier: GPL-2.0-or-later
"""event_channel_op, and events on their way to a vCPU."""

from __future__ import annotations

import pytest
from small_domain import SmallDomain, small_domain

from pyxen.abi import event_channel as abi
from pyxen.abi import xen
from pyxen.abi.errno import EBUSY, EEXIST, EINVAL, ENOENT, ENOSPC, ENOSYS, EPERM, ESRCH
from pyxen.errors import XenError
from pyxen.hypervisor.events import DEFAULT_MAX_EVENT_CHANNELS
from pyxen.hypervisor.events_back_end import BackEndPort
from pyxen.hypervisor.instruments import PortStatistics
from pyxen.hypervisor.page_flags import PAGE_SIZE

SELF = xen.DOMID_SELF
CALL = xen.HYPERVISOR_event_channel_op
RESET_CONT = 14


class Ports:
    """The operations with typed arguments; negative results are errors."""

    def __init__(self, guest: SmallDomain) -> None:
        self.guest = guest

    def operate(self, command: int, layout: object, *values: int) -> tuple[int, ...]:
        pointer = self.guest.put_struct(layout, *values)
        result = self.guest.call(CALL, command, pointer)
        return (result, *self.guest.read_struct(layout, pointer))

    def alloc_unbound(self, domid: int = SELF, remote: int = 0) -> int:
        result = self.operate(
            abi.EVTCHNOP_alloc_unbound, abi.EVTCHN_ALLOC_UNBOUND, domid, remote, 0
        )
        return result[0] or result[3]

    def bind_interdomain(self, remote: int, port: int) -> int:
        result = self.operate(
            abi.EVTCHNOP_bind_interdomain, abi.EVTCHN_BIND_INTERDOMAIN, remote, port, 0
        )
        return result[0] or result[3]

    def bind_virq(self, virq: int, vcpu: int = 0) -> int:
        result = self.operate(abi.EVTCHNOP_bind_virq, abi.EVTCHN_BIND_VIRQ, virq, vcpu, 0)
        return result[0] or result[3]

    def bind_ipi(self, vcpu: int = 0) -> int:
        result = self.operate(abi.EVTCHNOP_bind_ipi, abi.EVTCHN_BIND_IPI, vcpu, 0)
        return result[0] or result[2]

    def bind_vcpu(self, port: int, vcpu: int) -> int:
        return self.operate(abi.EVTCHNOP_bind_vcpu, abi.EVTCHN_BIND_VCPU, port, vcpu)[0]

    def close(self, port: int) -> int:
        return self.operate(abi.EVTCHNOP_close, abi.EVTCHN_CLOSE, port)[0]

    def send(self, port: int) -> int:
        return self.operate(abi.EVTCHNOP_send, abi.EVTCHN_SEND, port)[0]

    def unmask(self, port: int) -> int:
        return self.operate(abi.EVTCHNOP_unmask, abi.EVTCHN_UNMASK, port)[0]

    def set_priority(self, port: int, priority: int) -> int:
        return self.operate(abi.EVTCHNOP_set_priority, abi.EVTCHN_SET_PRIORITY, port, priority)[0]

    def interdomain(self, port: int) -> tuple[int, int]:
        """The domain and port at the other end."""
        pointer = self.guest.put_struct(abi.EVTCHN_STATUS, SELF, port, 0, 0, b"")
        assert self.guest.call(CALL, abi.EVTCHNOP_status, pointer) == 0
        _, _, state, _, domid, remote = self.guest.read_struct(
            abi.EVTCHN_STATUS_INTERDOMAIN, pointer
        )
        assert state == abi.EVTCHNSTAT_interdomain
        return domid, remote

    def status(self, port: int, domid: int = SELF) -> tuple[int, ...]:
        """The result, and if it is 0, status and vCPU."""
        result = self.operate(abi.EVTCHNOP_status, abi.EVTCHN_STATUS, domid, port, 0, 0, b"")  # type: ignore[arg-type]
        return (0, *result[3:5]) if result[0] == 0 else (result[0],)

    def _bitmap(self, name: str, port: int) -> tuple[int, int]:
        start = self.guest.memory.shared_info_mfn * PAGE_SIZE + xen.SHARED_INFO.offsets[name]
        return start + port // 8, 1 << port % 8

    def pending(self, port: int) -> bool:
        byte, bit = self._bitmap("evtchn_pending", port)
        return bool(self.guest.memory.bytes[byte] & bit)

    def masked(self, port: int) -> bool:
        byte, bit = self._bitmap("evtchn_mask", port)
        return bool(self.guest.memory.bytes[byte] & bit)

    def mask(self, port: int) -> None:
        byte, bit = self._bitmap("evtchn_mask", port)
        self.guest.memory.bytes[byte] |= bit

    def clear(self, port: int) -> None:
        byte, bit = self._bitmap("evtchn_pending", port)
        self.guest.memory.bytes[byte] &= ~bit & 0xFF


@pytest.fixture
def ports(guest: SmallDomain) -> Ports:
    return Ports(guest)


@pytest.fixture
def ports2(guest2: SmallDomain) -> Ports:
    return Ports(guest2)


class TestBinding:
    def test_numbers_begin_at_1_and_are_used_again(self, ports: Ports) -> None:
        assert [ports.bind_ipi() for _ in range(3)] == [1, 2, 3]
        assert ports.close(2) == 0
        assert ports.bind_ipi() == 2

    def test_all_ports_taken(self, ports: Ports, guest: SmallDomain) -> None:
        for _ in range(DEFAULT_MAX_EVENT_CHANNELS):
            guest.domain.events.bind_ipi(0)
        assert ports.bind_ipi() == -ENOSPC
        assert ports.bind_virq(xen.VIRQ_TIMER) == -ENOSPC
        assert ports.alloc_unbound() == -ENOSPC
        assert ports.bind_interdomain(SELF, 1) == -ENOSPC
        assert ports.bind_interdomain(99, 1) == -ESRCH
        assert guest.domain.events.virq_port(xen.VIRQ_TIMER) == 0
        assert ports.close(1023) == 0
        assert ports.bind_ipi() == 1023

    def test_all_ports_of_the_two_level_form_taken(self) -> None:
        with small_domain(max_event_channels=1 << 20) as guest:
            for _ in range(abi.EVTCHN_2L_NR_CHANNELS - 1):
                guest.domain.events.bind_ipi(0)
            assert Ports(guest).bind_ipi() == -ENOSPC

    def test_virq(self, ports2: Ports) -> None:
        assert ports2.bind_virq(xen.VIRQ_TIMER) == 1
        assert ports2.bind_virq(xen.VIRQ_TIMER) == -EEXIST
        assert ports2.bind_virq(xen.VIRQ_TIMER, 1) == 2
        assert ports2.bind_virq(xen.VIRQ_TIMER, 2) == -ENOENT
        assert ports2.bind_virq(xen.NR_VIRQS) == -EINVAL
        assert ports2.bind_virq(0xFFFFFFFF) == -EINVAL
        assert ports2.bind_virq(xen.VIRQ_CONSOLE, 1) == -EINVAL
        assert ports2.bind_virq(xen.VIRQ_CONSOLE, 7) == -EINVAL
        assert ports2.bind_virq(xen.VIRQ_CONSOLE) == 3
        events = ports2.guest.domain.events
        assert [events.virq_port(xen.VIRQ_TIMER, vcpu) for vcpu in (0, 1)] == [1, 2]
        assert ports2.close(1) == 0
        assert events.virq_port(xen.VIRQ_TIMER) == 0
        assert ports2.bind_virq(xen.VIRQ_TIMER) == 1

    def test_ipi_of_no_vcpu(self, ports: Ports) -> None:
        assert ports.bind_ipi(1) == -ENOENT

    def test_pirq_is_refused(self, ports: Ports) -> None:
        for pirq, error in ((0, EPERM), (55, EPERM), (56, EINVAL), (0xFFFFFFFF, EINVAL)):
            result = ports.operate(abi.EVTCHNOP_bind_pirq, abi.EVTCHN_BIND_PIRQ, pirq, 0, 0)
            assert result[0] == -error

    def test_global_virq_moves_with_its_port(self, ports2: Ports) -> None:
        guest = ports2.guest
        port = ports2.bind_virq(xen.VIRQ_CONSOLE)
        assert ports2.bind_vcpu(port, 1) == 0
        assert guest.domain.events.raise_virq(xen.VIRQ_CONSOLE)
        assert [guest.upcall_pending(vcpu) for vcpu in guest.domain.vcpus] == [0, 1]
        assert ports2.bind_virq(xen.VIRQ_CONSOLE) == -EEXIST
        assert ports2.close(port) == 0
        assert not guest.domain.events.raise_virq(xen.VIRQ_CONSOLE)
        assert ports2.bind_virq(xen.VIRQ_CONSOLE) == port
        assert ports2.status(port)[2] == 0

    def test_every_virq_can_be_bound(self, ports2: Ports) -> None:
        for virq in range(xen.NR_VIRQS):
            assert ports2.bind_virq(virq) > 0
            per_vcpu = virq in (xen.VIRQ_TIMER, xen.VIRQ_DEBUG, xen.VIRQ_XENOPROF, xen.VIRQ_XENPMU)
            assert (ports2.bind_virq(virq, 1) > 0) == per_vcpu

    def test_alloc_unbound_for_others(self, ports: Ports) -> None:
        assert ports.alloc_unbound(0) == -EPERM
        assert ports.alloc_unbound(99) == -ESRCH
        assert ports.alloc_unbound(ports.guest.domain.domid) == 1

    def test_interdomain_within_the_domain(self, ports: Ports) -> None:
        first = ports.alloc_unbound(remote=SELF)
        second = ports.bind_interdomain(SELF, first)
        assert second > 0
        assert ports.pending(second)  # what was sent before is not lost
        assert ports.send(first) == 0
        ports.clear(second)
        assert ports.send(first) == 0
        assert ports.pending(second)
        assert ports.send(second) == 0
        assert ports.pending(first)
        assert ports.status(first) == (0, abi.EVTCHNSTAT_interdomain, 0)

    def test_interdomain_refused(self, ports: Ports) -> None:
        waits_for_dom0 = ports.alloc_unbound(remote=0)
        ipi = ports.bind_ipi()
        for domid, port, error in (
            (SELF, waits_for_dom0, EINVAL),
            (SELF, ipi, EINVAL),
            (SELF, 100, EINVAL),
            (SELF, 0xFFFFFFFF, EINVAL),
            (0, 1, EINVAL),  # domain 0 exists, and has no port for us
            (99, 1, ESRCH),
        ):
            assert ports.bind_interdomain(domid, port) == -error
        assert ports.status(waits_for_dom0) == (0, abi.EVTCHNSTAT_unbound, 0)

    def test_close_of_one_end_unbinds_the_other(self, ports: Ports) -> None:
        first = ports.alloc_unbound(remote=SELF)
        second = ports.bind_interdomain(SELF, first)
        assert ports.close(first) == 0
        assert ports.status(first) == (0, abi.EVTCHNSTAT_closed, 0)
        assert ports.status(second) == (0, abi.EVTCHNSTAT_unbound, 0)
        assert ports.send(second) == 0
        assert ports.close(second) == 0

    def test_bind_vcpu(self, ports2: Ports) -> None:
        ipi, timer = ports2.bind_ipi(), ports2.bind_virq(xen.VIRQ_TIMER)
        console, unbound = ports2.bind_virq(xen.VIRQ_CONSOLE), ports2.alloc_unbound()
        assert ports2.bind_vcpu(ipi, 1) == -EINVAL
        assert ports2.bind_vcpu(timer, 1) == -EINVAL
        assert ports2.bind_vcpu(100, 1) == -EINVAL
        assert ports2.bind_vcpu(100, 2) == -ENOENT
        for port in (console, unbound):
            assert ports2.bind_vcpu(port, 1) == 0
            assert ports2.status(port)[2] == 1

    def test_unknown_operations(self, ports: Ports) -> None:
        for command in (99, abi.EVTCHNOP_alloc_unbound | 64):
            assert ports.guest.call(CALL, command, ports.guest.address(6)) == -ENOSYS


class TestClosedPorts:
    def test_port_0_and_free_ports(self, ports: Ports) -> None:
        for port in (0, 1, 63):
            assert ports.status(port) == (0, abi.EVTCHNSTAT_closed, 0)
            assert ports.send(port) == -EINVAL
            assert ports.close(port) == -EINVAL
            ports.mask(port)
            assert ports.unmask(port) == 0  # nothing happens
            assert ports.masked(port)

    def test_ports_that_xen_has_not_made_yet(self, ports: Ports) -> None:
        for port in (64, 4095, 4096, 0xFFFFFFFF):
            assert ports.status(port) == (-EINVAL,)
            assert ports.unmask(port) == -EINVAL
            assert ports.send(port) == -EINVAL
            assert ports.close(port) == -EINVAL
            assert ports.bind_vcpu(port, 0) == -EINVAL
            assert ports.set_priority(port, 0) == -EINVAL
        for _ in range(64):
            ports.guest.domain.events.bind_ipi(0)
        assert ports.status(127) == (0, abi.EVTCHNSTAT_closed, 0)
        assert ports.status(128) == (-EINVAL,)

    def test_status_of_other_domains(self, ports: Ports) -> None:
        assert ports.status(1, 0) == (-EPERM,)
        assert ports.status(64, 0) == (-EINVAL,)
        assert ports.status(1, 99) == (-ESRCH,)

    def test_close_clears_pending_and_keeps_the_mask(self, ports: Ports) -> None:
        port = ports.bind_ipi()
        ports.mask(port)
        ports.send(port)
        assert ports.close(port) == 0
        assert not ports.pending(port)
        assert ports.masked(port)

    def test_reset(self, ports: Ports) -> None:
        console = ports.alloc_unbound()
        back_end = ports.guest.domain.events.bind_back_end(console)
        first = ports.alloc_unbound(remote=SELF)
        second = ports.bind_interdomain(SELF, first)
        ports.bind_virq(xen.VIRQ_TIMER)
        for domid, error in ((0, EPERM), (9, ESRCH)):
            assert ports.operate(abi.EVTCHNOP_reset, abi.EVTCHN_RESET, domid)[0] == -error
        assert ports.operate(abi.EVTCHNOP_reset, abi.EVTCHN_RESET, SELF)[0] == 0
        assert ports.status(second) == (0, abi.EVTCHNSTAT_closed, 0)
        assert not ports.guest.domain.events.virq_port(xen.VIRQ_TIMER)
        assert ports.status(console) == (0, abi.EVTCHNSTAT_closed, 0)
        assert back_end.guest_port == 0
        assert ports.bind_ipi() == 1

    def test_reset_cont_without_a_reset(self, ports: Ports) -> None:
        port = ports.bind_ipi()
        for domid, error in ((0, EPERM), (9, ESRCH), (SELF, EBUSY)):
            assert ports.operate(RESET_CONT, abi.EVTCHN_RESET, domid)[0] == -error
        assert ports.status(port) == (0, abi.EVTCHNSTAT_ipi, 0)


class TestBackEnd:
    """The other end is a port of domain 0."""

    def connect(self, ports: Ports) -> tuple[int, BackEndPort, list[int]]:
        port = ports.alloc_unbound(remote=0)
        back_end = ports.guest.domain.events.bind_back_end(port)
        heard: list[int] = []
        back_end.listen(lambda: heard.append(1))
        return port, back_end, heard

    def test_both_directions(self, ports: Ports) -> None:
        port, back_end, heard = self.connect(ports)
        assert heard == [1]  # one that was sent before is not lost
        assert ports.interdomain(port) == (0, back_end.number)
        assert ports.send(port) == 0
        assert heard == [1, 1]
        assert not ports.pending(port)
        back_end.send()
        assert ports.pending(port)
        assert ports.guest.upcall_pending() == 1

    def test_an_event_before_the_back_end_listens_is_kept(self, ports: Ports) -> None:
        _, back_end, _ = self.connect(ports)
        other = ports.alloc_unbound(remote=0)
        second = ports.guest.domain.events.bind_back_end(other)
        assert second.number != back_end.number
        heard: list[int] = []
        assert ports.send(other) == 0
        assert ports.send(other) == 0
        second.listen(lambda: heard.append(1))
        assert heard == [1]

    def test_bind_needs_a_port_that_waits_for_domain_0(self, ports: Ports) -> None:
        events = ports.guest.domain.events
        bound, _, _ = self.connect(ports)
        for port in (0, 63, 64, 0xFFFFFFFF, ports.alloc_unbound(remote=SELF), bound):
            with pytest.raises(XenError):
                events.bind_back_end(port)

    def test_the_guest_closes_and_binds_again(self, ports: Ports) -> None:
        port, back_end, heard = self.connect(ports)
        assert ports.bind_interdomain(0, back_end.number) == -EINVAL  # it is bound
        assert ports.close(port) == 0
        assert back_end.guest_port == 0
        back_end.send()  # dropped
        assert not ports.pending(port)
        ports.bind_ipi()
        port = ports.bind_interdomain(0, back_end.number)
        assert port == 2
        assert ports.pending(port)
        ports.clear(port)
        assert ports.send(port) == 0
        assert len(heard) == 2
        back_end.send()
        assert ports.pending(port)

    def test_the_back_end_closes(self, ports: Ports) -> None:
        port, back_end, heard = self.connect(ports)
        back_end.close()
        back_end.close()
        assert ports.status(port) == (0, abi.EVTCHNSTAT_unbound, 0)
        assert ports.send(port) == 0
        assert len(heard) == 1
        assert ports.bind_interdomain(0, back_end.number) == -EINVAL
        again = ports.guest.domain.events.bind_back_end(port)
        back_end.send()  # it is nobody's any more
        assert not ports.pending(port)
        again.send()
        assert ports.pending(port)

    def test_counts(self, ports: Ports) -> None:
        port, back_end, _ = self.connect(ports)
        for _ in range(3):
            ports.send(port)
        for _ in range(2):
            back_end.send()
            ports.clear(port)
        back_end.send()
        back_end.send()  # the same event
        ports.mask(port)
        counts = ports.guest.domain.statistics().ports
        assert counts == {port: PortStatistics("interdomain", None, 0, 3, 3, True, True)}
        assert ports.close(port) == 0
        ports.bind_virq(xen.VIRQ_TIMER)
        counts = ports.guest.domain.statistics().ports
        assert counts == {port: PortStatistics("virq", xen.VIRQ_TIMER, 0, 0, 0, False, True)}


class TestDelivery:
    def test_send_sets_all_bits(self, ports: Ports) -> None:
        guest = ports.guest
        guest.set_upcall_mask(1)
        for _ in range(130):
            port = guest.domain.events.bind_ipi(0)
        assert ports.send(port) == 0
        assert ports.pending(port)
        assert guest.pending_selector() == 1 << 130 // 64
        assert guest.upcall_pending() == 1

    def test_masked_port_only_becomes_pending(self, ports: Ports) -> None:
        port = ports.bind_ipi()
        ports.mask(port)
        assert ports.send(port) == 0
        assert ports.pending(port)
        assert (ports.guest.pending_selector(), ports.guest.upcall_pending()) == (0, 0)
        assert ports.unmask(port) == 0
        assert not ports.masked(port)
        assert (ports.guest.pending_selector(), ports.guest.upcall_pending()) == (1, 1)

    def test_unmask_of_an_unmasked_port_does_nothing(self, ports: Ports) -> None:
        port = ports.bind_ipi()
        ports.send(port)
        ports.guest.take_events()
        assert ports.unmask(port) == 0
        assert ports.guest.upcall_pending() == 0

    def test_second_event_before_the_first_is_taken_is_the_same(self, ports: Ports) -> None:
        port = ports.bind_ipi()
        ports.send(port)
        ports.guest.take_events()
        ports.send(port)
        assert ports.guest.upcall_pending() == 0

    def test_virq_cannot_be_sent(self, ports: Ports) -> None:
        port = ports.bind_virq(xen.VIRQ_DEBUG)
        assert ports.send(port) == -EINVAL
        ports.guest.domain.events.raise_virq(xen.VIRQ_DEBUG, 0)
        assert ports.pending(port)
        ports.guest.domain.events.raise_virq(xen.VIRQ_CONSOLE, 0)  # not bound

    def test_unbound_port_drops_events(self, ports: Ports) -> None:
        port = ports.alloc_unbound()
        assert ports.send(port) == 0
        assert not ports.pending(port)

    def test_event_goes_to_the_ports_vcpu_and_wakes_it(self, ports2: Ports) -> None:
        guest = ports2.guest
        first, second = guest.domain.vcpus
        port = ports2.bind_ipi(1)
        second.blocked = first.blocked = True
        ports2.send(port)
        assert (second.blocked, first.blocked) == (False, True)
        assert (guest.upcall_pending(second), guest.upcall_pending(first)) == (1, 0)

    def test_compat_form(self, ports: Ports) -> None:
        guest = ports.guest
        port = ports.bind_ipi()
        argument = guest.put_struct(abi.EVTCHN_OP, abi.EVTCHNOP_send, abi.EVTCHN_SEND.pack(port))
        assert guest.call(xen.HYPERVISOR_event_channel_op_compat, argument) == 0
        assert ports.pending(port)
        for command in (abi.EVTCHNOP_reset, abi.EVTCHNOP_init_control, 0xFFFFFFFF):
            argument = guest.put_struct(abi.EVTCHN_OP, command, abi.EVTCHN_RESET.pack(SELF))
            assert guest.call(xen.HYPERVISOR_event_channel_op_compat, argument) == -ENOSYS
        assert ports.status(port) == (0, abi.EVTCHNSTAT_ipi, 0)
