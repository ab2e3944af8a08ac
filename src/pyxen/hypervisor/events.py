# SPDX-License-Identifier: GPL-2.0-or-later
"""Event channels, the interrupts of a paravirtual domain.

A *port* is a small number of the domain's. It is bound to what raises it: a virtual interrupt
(VIRQ) of a vCPU, an inter-processor interrupt, or another domain's port. Raising it sets its
*pending* bit in memory that the guest sees, and, unless the guest has set its *mask* bit, tells the
vCPU to which the port is bound: by ``evtchn_upcall_pending`` in its ``vcpu_info``, whereupon Xen
calls the event callback unless ``evtchn_upcall_mask`` is set. A pending port that is raised again
is one event.

Where the bits are and how a vCPU finds a pending port among many differs between the two forms of
the interface, the two-level one (``events_2l``) and the FIFO one (``events_fifo``). A domain begins
with the first; ``EVTCHNOP_init_control`` switches to the second, ``EVTCHNOP_reset`` back. This
module knows what ports are bound to, and leaves bits to ``PortOperations``.

Guests change these bits with atomic instructions, so they are changed here only by the thread that
runs the vCPUs, when no guest code runs.

Reference: ``public/event_channel.h``, ``public/xen.h``.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Protocol

from msgspec import Struct

from pyxen.abi.errno import (
    EACCES,
    EAGAIN,
    EBUSY,
    EEXIST,
    EINVAL,
    ENOENT,
    ENOSPC,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
)
from pyxen.abi.event_channel import (
    EVTCHNSTAT_NAMES,
    EVTCHNSTAT_closed,
    EVTCHNSTAT_interdomain,
    EVTCHNSTAT_ipi,
    EVTCHNSTAT_unbound,
    EVTCHNSTAT_virq,
)
from pyxen.abi.xen import (
    DOMID_SELF,
    NR_VIRQS,
    VIRQ_DEBUG,
    VIRQ_TIMER,
    VIRQ_XENOPROF,
    VIRQ_XENPMU,
)
from pyxen.errors import XenError
from pyxen.hypervisor.events_2l import TwoLevel
from pyxen.hypervisor.events_back_end import BackEndPort
from pyxen.hypervisor.events_fifo import Fifo
from pyxen.hypervisor.events_ports import CLOSED, GROUP, RESERVED, Ports
from pyxen.hypervisor.instruments import PortStatistics

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

BACK_END_DOMAIN: Final = 0
NR_GSIS: Final = 24
"""Interrupts of the machine: one I/O APIC has so many."""
NR_PIRQS: Final = NR_GSIS + 32
"""What a domain can name: Xen adds 32 to those of the machine."""

DEFAULT_MAX_EVENT_CHANNELS: Final = 1023
"""What ``xl`` gives a domain that does not say ``max_event_channels``."""

_PER_VCPU_VIRQS: Final = (VIRQ_TIMER, VIRQ_DEBUG, VIRQ_XENOPROF, VIRQ_XENPMU)
_CHECK_INTERVAL: Final = 64


class PortOperations(Protocol):
    """What the two forms do differently. Ports are bound unless something else is said."""

    max_ports: int

    def init(self, number: int) -> None:
        """The port has just been bound."""

    def set_pending(self, number: int, vcpu: int) -> bool:
        """Raise a port for this vCPU; whether it was not pending before."""

    def clear_pending(self, number: int) -> None:
        """Take back an event that the guest has not seen: the port is closed."""

    def unmask(self, number: int) -> None:
        """Clear the mask bit, and tell the port's vCPU of what came meanwhile."""

    def is_pending(self, number: int) -> bool: ...

    def is_masked(self, number: int) -> bool: ...

    def show_state(self, number: int) -> str:
        """What else Xen shows of a port in its dumps."""

    def find_free(self) -> int:
        """The lowest closed port that can be bound, or the first that has not been made yet."""

    def set_priority(self, number: int, priority: int) -> None:
        """Raises ENOSYS where there are no priorities, EINVAL."""


class PortStatus(Struct, frozen=True):
    """What a port is bound to; ``state`` is one of EVTCHNSTAT_*."""

    state: int
    vcpu: int
    virq: int
    remote_domain: int
    remote_port: int


class EventChannels:
    """The ports of one domain; ``max_event_channels`` is the highest that it can have.

    ``back_end_ports`` are the ports of domain 0 at the other ends, by number.
    """

    def __init__(
        self, domain: Domain, max_event_channels: int = DEFAULT_MAX_EVENT_CHANNELS
    ) -> None:
        self._domain = domain
        self._vcpus = domain.vcpus
        self._max_port = max_event_channels
        self.ports = Ports()
        self.operations: PortOperations = TwoLevel(domain, self.ports)
        self.fifo: Fifo | None = None
        self.next_to_close = 0
        """Where a reset that has given way goes on."""
        self.back_end_ports: dict[int, BackEndPort] = {}
        self._virq_ports = array("I", bytes(4 * NR_VIRQS * len(domain.vcpus)))

    # Numbers

    def _find_free(self) -> int:
        """The lowest port that can be bound; makes new ones if need be. Raises ENOSPC."""
        number = self.operations.find_free()
        if number > self._max_port or number >= self.operations.max_ports:
            raise XenError(ENOSPC)
        if number == len(self.ports):
            self.ports.grow()
        return number

    def _bind(self, number: int, state: int, vcpu: int = 0) -> None:
        self.ports.state[number] = state
        self.ports.vcpu[number] = vcpu
        self.ports.sent[number] = 0
        self.ports.raised[number] = 0
        self.operations.init(number)

    def _check_exists(self, number: int) -> None:
        """Raises EINVAL for a port beyond those that exist, be they closed."""
        if number >= len(self.ports):
            raise XenError(EINVAL)

    def _check_vcpu(self, index: int) -> None:
        if index >= len(self._vcpus):
            raise XenError(ENOENT)

    # Binding

    def alloc_unbound(self, remote_domain: int) -> int:
        """A port that ``remote_domain`` may bind to. Raises ENOSPC."""
        number = self._find_free()
        self._bind(number, EVTCHNSTAT_unbound)
        self._unbind(number, remote_domain)
        return number

    def _unbind(self, number: int, remote_domain: int) -> None:
        """Let a port wait for a new other end."""
        if remote_domain == DOMID_SELF:
            remote_domain = self._domain.domid
        self.ports.state[number] = EVTCHNSTAT_unbound
        self.ports.remote_domain[number] = remote_domain
        self.ports.remote_port[number] = 0

    def _connect(self, number: int, remote_domain: int, remote_port: int) -> None:
        self.ports.state[number] = EVTCHNSTAT_interdomain
        self.ports.remote_domain[number] = remote_domain
        self.ports.remote_port[number] = remote_port

    def bind_interdomain(self, remote_domain: int, remote_port: int) -> int:
        """Connect to an unbound port of this domain's, or of a back end's.

        Raises ESRCH for a domain that is not, ENOSPC, EINVAL for a port that does not wait for us.
        """
        own = self._domain.is_self(remote_domain)
        if not own and remote_domain != BACK_END_DOMAIN:
            raise XenError(ESRCH)
        number = self._find_free()
        if own:
            self._check_waits(remote_port, self._domain.domid)
            self._connect(remote_port, self._domain.domid, number)
        else:
            back_end = self.back_end_ports.get(remote_port)
            if back_end is None or back_end.guest_port:
                raise XenError(EINVAL)
            back_end.guest_port = number
        self._bind(number, EVTCHNSTAT_interdomain)
        self._connect(number, self._domain.domid if own else BACK_END_DOMAIN, remote_port)
        self.set_pending(number)  # one that was sent before the connection is not lost
        return number

    def _check_waits(self, number: int, domid: int) -> None:
        """Raises EINVAL for a port that does not wait for this domain to bind to it."""
        self._check_exists(number)
        if (
            self.ports.state[number] != EVTCHNSTAT_unbound
            or self.ports.remote_domain[number] != domid
        ):
            raise XenError(EINVAL)

    def bind_virq(self, virq: int, vcpu: int) -> int:
        """Raises EINVAL for an unknown VIRQ, or a global one elsewhere than on vCPU 0; EEXIST."""
        if virq >= NR_VIRQS or (virq not in _PER_VCPU_VIRQS and vcpu != 0):
            raise XenError(EINVAL)
        self._check_vcpu(vcpu)
        if self.virq_port(virq, vcpu):
            raise XenError(EEXIST)
        number = self._find_free()
        self._bind(number, EVTCHNSTAT_virq, vcpu)
        self.ports.virq[number] = virq
        self._virq_ports[vcpu * NR_VIRQS + virq] = number
        return number

    def virq_port(self, virq: int, vcpu: int = 0) -> int:
        """The port to which a VIRQ is bound, 0 for none. Global ones belong to vCPU 0."""
        return self._virq_ports[vcpu * NR_VIRQS + virq]

    def bind_ipi(self, vcpu: int) -> int:
        self._check_vcpu(vcpu)
        number = self._find_free()
        self._bind(number, EVTCHNSTAT_ipi, vcpu)
        return number

    def bind_pirq(self, pirq: int) -> int:
        """Physical interrupts are for domains with hardware. Raises EINVAL, EPERM."""
        raise XenError(EINVAL if pirq >= NR_PIRQS else EPERM)

    def bind_vcpu(self, number: int, vcpu: int) -> None:
        """Let another vCPU get the port's events. Raises ENOENT, EINVAL for ports that are tied."""
        self._check_vcpu(vcpu)
        self._check_exists(number)
        state = self.ports.state[number]
        if state == EVTCHNSTAT_virq:
            if self.ports.virq[number] in _PER_VCPU_VIRQS:
                raise XenError(EINVAL)
        elif state not in (EVTCHNSTAT_unbound, EVTCHNSTAT_interdomain):
            raise XenError(EINVAL)
        self.ports.vcpu[number] = vcpu

    def close(self, number: int) -> None:
        """The other end, if there is one, waits for a new one. Raises EINVAL for a closed port."""
        self._check_exists(number)
        ports = self.ports
        state = ports.state[number]
        if state in (CLOSED, RESERVED):
            raise XenError(EINVAL)
        if state == EVTCHNSTAT_virq:
            virq = ports.virq[number]
            vcpu = ports.vcpu[number] if virq in _PER_VCPU_VIRQS else 0
            self._virq_ports[vcpu * NR_VIRQS + virq] = 0
        elif state == EVTCHNSTAT_interdomain:
            remote = ports.remote_port[number]
            if ports.remote_domain[number] == BACK_END_DOMAIN:
                self.back_end_ports[remote].guest_port = 0
            else:
                self._unbind(remote, self._domain.domid)
        self.operations.clear_pending(number)
        ports.state[number] = CLOSED
        ports.vcpu[number] = 0

    def reset(self, vcpu: Vcpu, *, continued: bool) -> bool:
        """Close all ports, those of the console and the store too; back to the two-level form.

        Returns whether that is done; else it has given way and is to be continued. Raises EBUSY
        for a second one meanwhile, and for a continuation of none; EAGAIN if ports were bound
        meanwhile, which leaves the form as it is.
        """
        if bool(self.next_to_close) != continued:
            raise XenError(EBUSY)
        for number in range(self.next_to_close or 1, len(self.ports)):
            if self.ports.state[number] != CLOSED:
                self.close(number)
            if number % _CHECK_INTERVAL == 0 and self._domain.preempt_check(vcpu):
                self.next_to_close = number + 1
                return False
        self.next_to_close = 0
        if self.ports.state.count(CLOSED) < len(self.ports) - 1:  # all but port 0
            raise XenError(EAGAIN)
        if self.fifo is not None:
            self.fifo.release()
            self.fifo = None
            self.operations = TwoLevel(self._domain, self.ports)
        return True

    def status(self, domid: int, number: int) -> PortStatus:
        """Raises ESRCH, EINVAL for a port out of range, EPERM for one of domain 0."""
        if domid == BACK_END_DOMAIN:
            groups = max(self.back_end_ports, default=0) // GROUP + 1
            raise XenError(EPERM if number < groups * GROUP else EINVAL)
        self._domain.check_is_self(domid)
        self._check_exists(number)
        ports = self.ports
        state = ports.state[number]
        return PortStatus(
            EVTCHNSTAT_closed if state == RESERVED else state,
            ports.vcpu[number],
            ports.virq[number],
            ports.remote_domain[number],
            ports.remote_port[number],
        )

    # The FIFO form

    def init_control(self, vcpu: int, mfn: int, offset: int) -> None:
        """Give a vCPU its control block; the first one switches to the FIFO form.

        Ports that are pending then are raised again when they get their event words. Raises ENOENT
        for no such vCPU, EINVAL for a bad place or a second control block.
        """
        self._check_vcpu(vcpu)
        if self.fifo is not None:
            self.fifo.map_control_block(vcpu, mfn, offset)
            return
        fifo = Fifo(self._domain, self.ports)
        fifo.map_control_block(vcpu, mfn, offset)
        for number in range(1, min(len(self.ports), self.operations.max_ports)):
            self.ports.missed[number] = self.operations.is_pending(number)
            fifo.init(number)
        self.fifo = fifo
        self.operations = fifo

    def expand_array(self, mfn: int) -> None:
        """Add a page to the event array. Raises EOPNOTSUPP in the two-level form, ENOSPC, EINVAL.

        Raises the ports that had to wait for their words.
        """
        if self.fifo is None:
            raise XenError(EOPNOTSUPP)
        added = self.fifo.add_page(mfn)
        missed = self.ports.missed
        number = missed.find(1, added.start, added.stop)
        while number >= 0:
            missed[number] = 0
            if self.ports.is_usable(number):
                self.set_pending(number)
            number = missed.find(1, number, added.stop)

    def set_priority(self, number: int, priority: int) -> None:
        """The queue of future events. Raises EINVAL, ENOSYS in the two-level form, EACCES."""
        self._check_exists(number)
        if self.fifo is not None and not self.ports.is_usable(number):
            raise XenError(EACCES)
        self.operations.set_priority(number, priority)

    def held_frames(self) -> Iterator[tuple[int, int]]:
        """Frames of the domain that are held by type, each as often as it is used."""
        return self.fifo.held_frames() if self.fifo is not None else iter(())

    # Raising

    def send(self, number: int) -> None:
        """The guest notifies the other end. Raises EINVAL for a port that cannot be sent to."""
        ports = self.ports
        if number >= len(ports.state):
            raise XenError(EINVAL)
        state = ports.state[number]
        if state == EVTCHNSTAT_interdomain:
            ports.sent[number] += 1
            remote = ports.remote_port[number]
            if ports.remote_domain[number] == BACK_END_DOMAIN:
                self.back_end_ports[remote].signal()
            else:
                self.set_pending(remote)
        elif state == EVTCHNSTAT_ipi:
            ports.sent[number] += 1
            self.set_pending(number)
        elif state != EVTCHNSTAT_unbound:  # nobody there: the event is dropped
            raise XenError(EINVAL)

    def raise_virq(self, virq: int, vcpu: int = 0) -> bool:
        """Raise a virtual interrupt; whether the guest has bound it. Global ones have no vCPU."""
        number = self._virq_ports[vcpu * NR_VIRQS + virq]
        if not number:
            return False
        self.set_pending(number)
        return True

    def set_pending(self, number: int) -> None:
        """Raise a bound port; in the thread of the vCPUs only."""
        ports = self.ports
        if self.operations.set_pending(number, ports.vcpu[number]):
            ports.raised[number] += 1
            if self._domain.scheduler.pollers:
                self._domain.scheduler.check_pollers(number)

    def unmask(self, number: int) -> None:
        """Clear a bound port's mask bit, and deliver what came meanwhile.

        Raises EINVAL for a number out of range; nothing happens to a closed port.
        """
        self._check_exists(number)
        if self.ports.is_usable(number):
            self.operations.unmask(number)

    def poll(self, number: int) -> bool:
        """Whether a bound port is pending. Raises EINVAL for one that is closed."""
        if not self.ports.is_usable(number):
            raise XenError(EINVAL)
        return self.operations.is_pending(number)

    # Domain 0's side

    def bind_back_end(self, guest_port: int) -> BackEndPort:
        """Connect a back end to a port that waits for domain 0. Raises EINVAL if it does not."""
        self._check_waits(guest_port, BACK_END_DOMAIN)
        number = 1
        while number in self.back_end_ports:
            number += 1
        back_end = BackEndPort(self, number, guest_port)
        self.back_end_ports[number] = back_end
        self._connect(guest_port, BACK_END_DOMAIN, number)
        return back_end

    def close_back_end(self, back_end: BackEndPort) -> None:
        """See ``BackEndPort.close``."""
        if self.back_end_ports.pop(back_end.number, None) is not None and back_end.guest_port:
            self._unbind(back_end.guest_port, BACK_END_DOMAIN)
            back_end.guest_port = 0

    # For the host

    def statistics(self) -> dict[int, PortStatistics]:
        """The bound ports, with what passed through each since it was bound."""
        ports = self.ports
        return {
            number: PortStatistics(
                kind=EVTCHNSTAT_NAMES[state],
                virq=ports.virq[number] if state == EVTCHNSTAT_virq else None,
                vcpu=ports.vcpu[number],
                sent=ports.sent[number],
                raised=ports.raised[number],
                pending=self.operations.is_pending(number),
                masked=self.operations.is_masked(number),
            )
            for number, state in enumerate(ports.state)
            if state not in (CLOSED, RESERVED)
        }
