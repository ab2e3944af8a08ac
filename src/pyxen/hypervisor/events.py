# SPDX-License-Identifier: GPL-2.0-or-later
"""Event channels, the interrupts of a paravirtual domain.

A *port* is a small number of the domain's. It is bound to what raises it: a virtual interrupt
(VIRQ) of a vCPU, an inter-processor interrupt, or another domain's port. Raising it sets its bit
in a *pending* bitmap that the guest sees. In the two-level ABI that bitmap and the *mask* bitmap,
4096 bits each, lie in the shared info page; a vCPU finds by its ``evtchn_pending_sel`` which words
of the bitmap to look at, and ``evtchn_upcall_pending`` tells it (and Xen, which then calls the
event callback unless ``evtchn_upcall_mask`` is set) that there is something. The guest clears bits
with atomic instructions, so bits are changed here only by the thread that runs the vCPUs.

Reference: ``public/event_channel.h``, ``public/xen.h``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pyxen.abi.errno import EEXIST, EINVAL, ENOENT, ENOSPC, EPERM, ESRCH
from pyxen.abi.event_channel import (
    EVTCHN_2L_NR_CHANNELS,
    EVTCHNSTAT_closed,
    EVTCHNSTAT_interdomain,
    EVTCHNSTAT_ipi,
    EVTCHNSTAT_unbound,
    EVTCHNSTAT_virq,
)
from pyxen.abi.xen import SHARED_INFO, VIRQ_DEBUG, VIRQ_TIMER, VIRQ_XENOPROF
from pyxen.abi.xen import VIRQ_XENPMU as _VIRQ_XENPMU
from pyxen.errors import XenError
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.vcpu import PENDING, PENDING_SELECTOR

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

NR_VIRQS: Final = 24
_PER_VCPU_VIRQS: Final = (VIRQ_TIMER, VIRQ_DEBUG, VIRQ_XENOPROF, _VIRQ_XENPMU)
BACK_END_DOMAIN: Final = 0

_BUCKET: Final = 64
"""Xen makes ports in groups of so many; the ports of a group exist, though closed."""

_PENDING_WORDS: Final = SHARED_INFO.offsets["evtchn_pending"] // 8
_MASK_WORDS: Final = SHARED_INFO.offsets["evtchn_mask"] // 8


@dataclass
class Port:
    """What a port is bound to; ``state`` is one of EVTCHNSTAT_*.

    ``notify`` is the back end behind an inter-domain port: called when the guest sends.
    """

    state: int
    vcpu: int = 0
    virq: int = 0
    remote_domain: int = 0
    remote_port: int = 0
    notify: Callable[[], None] | None = None


class EventChannels:
    """The ports of one domain."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self.ports: dict[int, Port] = {}
        self._end = _BUCKET
        shared_info = domain.memory.shared_info_mfn * PAGE_SIZE // 8
        self._pending = shared_info + _PENDING_WORDS
        self._mask = shared_info + _MASK_WORDS

    def _allocate(self, port: Port) -> int:
        """The lowest free number; 0 is never used."""
        for number in range(1, EVTCHN_2L_NR_CHANNELS):
            if number not in self.ports:
                self.ports[number] = port
                self._end = max(self._end, (number // _BUCKET + 1) * _BUCKET)
                return number
        raise XenError(ENOSPC)

    def _find(self, number: int) -> Port:
        port = self.ports.get(number)
        if port is None:
            raise XenError(EINVAL)
        return port

    def _check_exists(self, number: int) -> None:
        """Raises EINVAL for a port beyond those that exist, be they closed."""
        if number >= self._end:
            raise XenError(EINVAL)

    def _find_vcpu(self, index: int) -> Vcpu:
        if index >= len(self._domain.vcpus):
            raise XenError(ENOENT)
        return self._domain.vcpus[index]

    # Binding

    def alloc_unbound(self, remote_domain: int) -> int:
        """A port that ``remote_domain`` may bind to."""
        return self._allocate(Port(EVTCHNSTAT_unbound, remote_domain=remote_domain))

    def bind_back_end(self, notify: Callable[[], None]) -> int:
        """A port whose other end is a back end in domain 0; ``notify`` hears the guest's events."""
        return self._allocate(
            Port(EVTCHNSTAT_interdomain, remote_domain=BACK_END_DOMAIN, notify=notify)
        )

    def bind_virq(self, virq: int, vcpu: int) -> int:
        """Raises EINVAL for an unknown or global VIRQ elsewhere than on vCPU 0, EEXIST."""
        if virq >= NR_VIRQS:
            raise XenError(EINVAL)
        if virq not in _PER_VCPU_VIRQS and vcpu != 0:
            raise XenError(EINVAL)
        self._find_vcpu(vcpu)
        if self._virq_port(virq, vcpu):
            raise XenError(EEXIST)
        number = self._allocate(Port(EVTCHNSTAT_virq, vcpu=vcpu, virq=virq))
        if virq == VIRQ_TIMER:
            self._domain.vcpus[vcpu].timer_port = number
        return number

    def _virq_port(self, virq: int, vcpu: int) -> int:
        for number, port in self.ports.items():
            if port.state == EVTCHNSTAT_virq and port.virq == virq and port.vcpu == vcpu:
                return number
        return 0

    def bind_ipi(self, vcpu: int) -> int:
        self._find_vcpu(vcpu)
        return self._allocate(Port(EVTCHNSTAT_ipi, vcpu=vcpu))

    def bind_interdomain(self, remote_domain: int, remote_port: int) -> int:
        """Connect to an unbound port; there is only this domain to connect to.

        Raises ESRCH for a domain that is not, EINVAL for a port that does not wait for this one.
        """
        if remote_domain == BACK_END_DOMAIN:
            raise XenError(EINVAL)
        self.check_domain(remote_domain)
        remote = self.ports.get(remote_port)
        if remote is None or remote.state != EVTCHNSTAT_unbound:
            raise XenError(EINVAL)
        if remote.remote_domain != self._domain.domid:
            raise XenError(EINVAL)
        number = self._allocate(
            Port(
                EVTCHNSTAT_interdomain,
                remote_domain=self._domain.domid,
                remote_port=remote_port,
            )
        )
        remote.state = EVTCHNSTAT_interdomain
        remote.remote_domain = self._domain.domid
        remote.remote_port = number
        self.set_pending(number)  # one that was sent before the connection is not lost
        return number

    def check_domain(self, domid: int) -> None:
        """Raises EPERM for domain 0, ESRCH for one that does not exist."""
        if not self._domain.is_self(domid):
            raise XenError(EPERM if domid == BACK_END_DOMAIN else ESRCH)

    def bind_vcpu(self, number: int, vcpu: int) -> None:
        """Let another vCPU get the port's events. Raises ENOENT, EINVAL for ports that are tied."""
        self._find_vcpu(vcpu)
        port = self._find(number)
        if port.state == EVTCHNSTAT_ipi:
            raise XenError(EINVAL)
        if port.state == EVTCHNSTAT_virq and port.virq in _PER_VCPU_VIRQS:
            raise XenError(EINVAL)
        port.vcpu = vcpu

    def close(self, number: int) -> None:
        """Raises EINVAL for a closed port. A back end is not told; it finds nobody there."""
        port = self._find(number)
        if port.state == EVTCHNSTAT_virq and port.virq == VIRQ_TIMER:
            self._domain.vcpus[port.vcpu].timer_port = 0
        if port.state == EVTCHNSTAT_interdomain and port.notify is None:
            remote = self.ports[port.remote_port]
            remote.state = EVTCHNSTAT_unbound
            remote.remote_port = 0
        del self.ports[number]
        words = self._domain.memory.words
        bit = 1 << (number & 63)
        words[self._pending + (number >> 6)] &= ~bit & 0xFFFFFFFFFFFFFFFF

    def reset(self) -> None:
        """Close all ports but those of the console and the store, which have no way back."""
        for number in [number for number, port in self.ports.items() if port.notify is None]:
            if number in self.ports:
                self.close(number)

    def status(self, domid: int, number: int) -> Port:
        """The port, or one that is closed. Raises EPERM, ESRCH, EINVAL for one out of range."""
        self.check_domain(domid)
        self._check_exists(number)
        return self.ports.get(number) or Port(EVTCHNSTAT_closed)

    # Raising

    def send(self, number: int) -> None:
        """The guest notifies the other end. Raises EINVAL for a port that cannot be sent to."""
        port = self._find(number)
        if port.state == EVTCHNSTAT_interdomain:
            if port.notify is not None:
                port.notify()
            else:
                self.set_pending(port.remote_port)
        elif port.state == EVTCHNSTAT_ipi:
            self.set_pending(number)
        elif port.state != EVTCHNSTAT_unbound:  # nobody there: the event is dropped
            raise XenError(EINVAL)

    def raise_virq(self, virq: int, vcpu: int) -> None:
        """Raise a virtual interrupt, if the guest has bound it."""
        number = self._virq_port(virq, vcpu)
        if number:
            self.set_pending(number)

    def set_pending(self, number: int) -> None:
        """Raise a port, if it is bound; in the thread of the vCPUs only."""
        port = self.ports.get(number)
        if port is None:
            return  # a back end does not know that the guest has closed it
        words = self._domain.memory.words
        index, bit = number >> 6, 1 << (number & 63)
        pending = words[self._pending + index]
        if pending & bit:
            return
        words[self._pending + index] = pending | bit
        if not words[self._mask + index] & bit:
            self._mark(self._domain.vcpus[port.vcpu], index)
        if self._domain.scheduler.pollers:
            self._domain.scheduler.check_pollers(number)

    def unmask(self, number: int) -> None:
        """Clear a bound port's mask bit, and deliver what came meanwhile.

        Raises EINVAL for a number out of range.
        """
        self._check_exists(number)
        port = self.ports.get(number)
        if port is None:
            return
        words = self._domain.memory.words
        index, bit = number >> 6, 1 << (number & 63)
        if not words[self._mask + index] & bit:
            return
        words[self._mask + index] &= ~bit & 0xFFFFFFFFFFFFFFFF
        if words[self._pending + index] & bit:
            self._mark(self._domain.vcpus[port.vcpu], index)

    def poll(self, number: int) -> bool:
        """Whether a bound port is pending. Raises EINVAL for one that is closed."""
        self._find(number)
        word = self._domain.memory.words[self._pending + (number >> 6)]
        return bool(word >> (number & 63) & 1)

    def _mark(self, vcpu: Vcpu, index: int) -> None:
        """Tell a vCPU that a word of the bitmap has news; the first news of all wakes it up."""
        memory = self._domain.memory
        selector = (vcpu.info + PENDING_SELECTOR) >> 3
        if memory.words[selector] >> index & 1:
            return
        memory.words[selector] |= 1 << index
        if not memory.bytes[vcpu.info + PENDING]:
            memory.bytes[vcpu.info + PENDING] = 1
            vcpu.wake()
