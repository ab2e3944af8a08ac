# SPDX-License-Identifier: GPL-2.0-or-later
"""event_channel_op, and events on their way to a vCPU."""

from __future__ import annotations

import pytest
from small_domain import SmallDomain

from pyxen.abi import event_channel as abi
from pyxen.abi import xen
from pyxen.abi.errno import EEXIST, EINVAL, ENOENT, ENOSPC, ENOSYS, EPERM, ESRCH
from pyxen.hypervisor.page_flags import PAGE_SIZE

SELF = xen.DOMID_SELF
CALL = xen.HYPERVISOR_event_channel_op


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
        for _ in range(abi.EVTCHN_2L_NR_CHANNELS - 1):
            guest.domain.events.bind_ipi(0)
        assert ports.bind_ipi() == -ENOSPC
        assert ports.bind_virq(xen.VIRQ_TIMER) == -ENOSPC
        assert ports.alloc_unbound() == -ENOSPC
        assert guest.vcpu.timer_port == 0
        assert ports.close(4095) == 0
        assert ports.bind_ipi() == 4095

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
        assert [vcpu.timer_port for vcpu in ports2.guest.domain.vcpus] == [1, 2]
        assert ports2.close(1) == 0
        assert ports2.guest.vcpu.timer_port == 0
        assert ports2.bind_virq(xen.VIRQ_TIMER) == 1

    def test_ipi_of_no_vcpu(self, ports: Ports) -> None:
        assert ports.bind_ipi(1) == -ENOENT

    def test_pirq_is_refused(self, ports: Ports) -> None:
        assert ports.operate(abi.EVTCHNOP_bind_pirq, abi.EVTCHN_BIND_PIRQ, 1, 0, 0)[0] == -EPERM

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
        for _ in range(64):
            ports.guest.domain.events.bind_ipi(0)
        assert ports.status(127) == (0, abi.EVTCHNSTAT_closed, 0)
        assert ports.status(128) == (-EINVAL,)

    def test_status_of_other_domains(self, ports: Ports) -> None:
        assert ports.status(1, 0) == (-EPERM,)
        assert ports.status(1, 99) == (-ESRCH,)

    def test_close_clears_pending_and_keeps_the_mask(self, ports: Ports) -> None:
        port = ports.bind_ipi()
        ports.mask(port)
        ports.send(port)
        assert ports.close(port) == 0
        assert not ports.pending(port)
        assert ports.masked(port)

    def test_back_end_may_notify_a_port_that_the_guest_has_closed(self, ports: Ports) -> None:
        port = ports.guest.domain.events.bind_back_end(lambda: None)
        assert ports.close(port) == 0
        ports.guest.domain.events.set_pending(port)
        assert not ports.pending(port)

    def test_reset(self, ports: Ports) -> None:
        heard: list[int] = []
        console = ports.guest.domain.events.bind_back_end(lambda: heard.append(1))
        first = ports.alloc_unbound(remote=SELF)
        second = ports.bind_interdomain(SELF, first)
        ports.bind_virq(xen.VIRQ_TIMER)
        for domid, error in ((0, EPERM), (9, ESRCH)):
            assert ports.operate(abi.EVTCHNOP_reset, abi.EVTCHN_RESET, domid)[0] == -error
        assert ports.operate(abi.EVTCHNOP_reset, abi.EVTCHN_RESET, SELF)[0] == 0
        assert ports.status(second) == (0, abi.EVTCHNSTAT_closed, 0)
        assert ports.guest.vcpu.timer_port == 0
        assert ports.send(console) == 0
        assert heard == [1]


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
