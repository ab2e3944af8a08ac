# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's side of FIFO event channels, as plainly as the header says it."""

from __future__ import annotations

from small_domain import FREE, SmallDomain

from pyxen.abi import event_channel as abi

PENDING, MASKED, LINKED = (
    1 << bit for bit in (abi.EVTCHN_FIFO_PENDING, abi.EVTCHN_FIFO_MASKED, abi.EVTCHN_FIFO_LINKED)
)
CONTROL = abi.EVTCHN_FIFO_CONTROL_BLOCK


class FifoGuest:
    """vCPU ``n`` has its control block at offset ``128 * n`` of pfn FREE; the event array follows.

    Each vCPU remembers which queues are ready and the heads that it follows, between two steps.
    """

    def __init__(self, guest: SmallDomain) -> None:
        self.guest = guest
        self.words = guest.memory.bytes.cast("I")
        vcpus = len(guest.domain.vcpus)
        self.ready = [0] * vcpus
        self.heads = [[0] * abi.EVTCHN_FIFO_MAX_QUEUES for _ in range(vcpus)]

    def control(self, vcpu: int, name: str) -> int:
        """Position of a field of a control block in ``words``."""
        return self.guest.maddr(FREE, 128 * vcpu + CONTROL.offsets[name]) // 4

    def at(self, port: int) -> int:
        return self.guest.maddr(FREE + 1 + port // 1024, 4 * (port % 1024)) // 4

    def word(self, port: int) -> int:
        return int(self.words[self.at(port)])

    def init_control(self, vcpu: int) -> None:
        self.guest.domain.events.init_control(vcpu, self.guest.mfn(FREE), 128 * vcpu)

    def expand_array(self, page: int = 0) -> None:
        self.guest.domain.events.expand_array(self.guest.mfn(FREE + 1 + page))

    def start(self) -> None:
        for vcpu in range(len(self.ready)):
            self.init_control(vcpu)
        self.expand_array()

    def mask(self, port: int) -> None:
        self.words[self.at(port)] |= MASKED

    def look(self, vcpu: int) -> None:
        """Fetch the queues that have become ready."""
        place = self.control(vcpu, "ready")
        self.ready[vcpu] |= self.words[place]
        self.words[place] = 0

    def step(self, vcpu: int) -> tuple[int, bool] | None:
        """Take one port from the most urgent queue; None if all are empty.

        Returns the port and whether there was an event to handle, which is then no more pending.
        """
        self.guest.memory.bytes[self.guest.domain.vcpus[vcpu].info] = 0  # evtchn_upcall_pending
        self.look(vcpu)
        ready = self.ready[vcpu]
        if not ready:
            return None
        priority = (ready & -ready).bit_length() - 1
        heads = self.heads[vcpu]
        port = heads[priority] or self.words[self.control(vcpu, "head") + priority]
        word = self.word(port)
        assert word & LINKED, f"port {port} in a queue is not linked"
        heads[priority] = word & abi.EVTCHN_FIFO_LINK_MASK
        word &= ~(LINKED | abi.EVTCHN_FIFO_LINK_MASK)
        if not heads[priority]:
            self.ready[vcpu] &= ~(1 << priority)
        handled = word & (PENDING | MASKED) == PENDING
        if handled:
            word ^= PENDING
        self.words[self.at(port)] = word
        return port, handled

    def drain(self, vcpu: int = 0) -> list[int]:
        """Take everything; returns the ports whose events were handled."""
        handled = []
        while taken := self.step(vcpu):
            if taken[1]:
                handled.append(taken[0])
        return handled
