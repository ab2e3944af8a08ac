# SPDX-License-Identifier: GPL-2.0-or-later
"""The two-level form of event channels: bitmaps in the shared info page.

A port has a bit in ``evtchn_pending`` and one in ``evtchn_mask``, 4096 bits each. Each vCPU has a
word of 64 bits, ``evtchn_pending_sel``, that tells it which words of the bitmap to look at, and the
byte ``evtchn_upcall_pending`` says that there is something. The guest clears what it has seen from
the top down: the byte, the bits of the selector, the bits of the ports. A domain begins with this
form.

Reference: ``public/xen.h`` (``struct shared_info``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.abi.errno import ENOSYS
from pyxen.abi.event_channel import EVTCHN_2L_NR_CHANNELS
from pyxen.abi.xen import SHARED_INFO
from pyxen.errors import XenError
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.vcpu import PENDING_SELECTOR

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.events_ports import Ports


class TwoLevel:
    """See ``events.PortOperations`` for the methods. It has no state but the guest's."""

    max_ports = EVTCHN_2L_NR_CHANNELS

    def __init__(self, domain: Domain, ports: Ports) -> None:
        self._domain = domain
        self._ports = ports
        self._words = domain.memory.words
        shared_info = domain.memory.shared_info_mfn * PAGE_SIZE
        self._pending = shared_info + SHARED_INFO.offsets["evtchn_pending"] >> 3
        self._mask = shared_info + SHARED_INFO.offsets["evtchn_mask"] >> 3

    def init(self, number: int) -> None:
        pass

    def set_pending(self, number: int, vcpu: int) -> bool:
        words = self._words
        index = number >> 6
        bit = 1 << (number & 63)
        pending = words[self._pending + index]
        if pending & bit:
            return False
        words[self._pending + index] = pending | bit
        if not words[self._mask + index] & bit:
            self._select(vcpu, index)
        return True

    def clear_pending(self, number: int) -> None:
        index = self._pending + (number >> 6)
        bit = 1 << (number & 63)
        pending = self._words[index]
        if pending & bit:
            self._words[index] = pending ^ bit

    def unmask(self, number: int) -> None:
        words = self._words
        index = number >> 6
        bit = 1 << (number & 63)
        mask = words[self._mask + index]
        if mask & bit:
            words[self._mask + index] = mask ^ bit
            if words[self._pending + index] & bit:
                self._select(self._ports.vcpu[number], index)

    def is_pending(self, number: int) -> bool:
        return bool(self._words[self._pending + (number >> 6)] >> (number & 63) & 1)

    def is_masked(self, number: int) -> bool:
        return bool(self._words[self._mask + (number >> 6)] >> (number & 63) & 1)

    def show_state(self, number: int) -> str:
        """Whether its vCPU finds the word of the bitmap."""
        target = self._domain.vcpus[self._ports.vcpu[number]]
        selected = self._words[(target.info + PENDING_SELECTOR) >> 3]
        return str(selected >> (number >> 6) & 1)

    def find_free(self) -> int:
        return self._ports.find_closed()

    def set_priority(self, number: int, priority: int) -> None:
        raise XenError(ENOSYS)

    def _select(self, vcpu: int, index: int) -> None:
        """Tell a vCPU that a word of the bitmap has news."""
        target = self._domain.vcpus[vcpu]
        selector = (target.info + PENDING_SELECTOR) >> 3
        selected = self._words[selector]
        if not selected >> index & 1:
            self._words[selector] = selected | 1 << index
            target.mark_events_pending()
