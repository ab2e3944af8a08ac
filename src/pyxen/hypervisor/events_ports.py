# SPDX-License-Identifier: GPL-2.0-or-later
"""What Xen keeps of each port of a domain: arrays indexed by port.

Xen makes ports in groups. Those of a group exist from then on, though they may be closed, and some
operations tell a guest whether a port exists. So the arrays end with the last group.
"""

from __future__ import annotations

from array import array
from typing import Final

from pyxen.abi.event_channel import EVTCHNSTAT_closed

RESERVED: Final = 255
"""The state of port 0, which is never used. The other states are EVTCHNSTAT_*."""
CLOSED: Final = EVTCHNSTAT_closed
GROUP: Final = 64


class Ports:
    """The arrays. Which of them mean something depends on ``state``.

    ``vcpu`` is the vCPU that is told of events. ``priority``, ``last_vcpu`` and ``last_priority``
    belong to the FIFO form: the queue of future events, and the queue that the port was last
    linked into. ``missed`` is set for an event that came before the guest gave the port its event
    word. ``sent`` counts what the guest sent through the port, ``raised`` how often its pending bit
    was set.
    """

    def __init__(self) -> None:
        self.state = bytearray()
        self.vcpu = array("H")
        self.virq = bytearray()
        self.remote_domain = array("H")
        self.remote_port = array("I")
        self.priority = bytearray()
        self.last_vcpu = array("H")
        self.last_priority = bytearray()
        self.missed = bytearray()
        self.sent = array("Q")
        self.raised = array("Q")
        self.grow()
        self.state[0] = RESERVED

    def __len__(self) -> int:
        return len(self.state)

    def grow(self) -> None:
        """Make one more group of closed ports."""
        for numbers in (self.vcpu, self.remote_domain, self.remote_port, self.last_vcpu):
            numbers.frombytes(bytes(numbers.itemsize * GROUP))
        for counts in (self.sent, self.raised):
            counts.frombytes(bytes(counts.itemsize * GROUP))
        for small in (self.virq, self.priority, self.last_priority, self.missed, self.state):
            small.extend(bytes(GROUP))

    def find_closed(self, first: int = 0) -> int:
        """The lowest closed port from ``first`` on; the first that has not been made, if none."""
        number = self.state.find(CLOSED, first)
        return number if number >= 0 else len(self.state)

    def is_usable(self, number: int) -> bool:
        """Whether the port exists and is bound, or waits for the other end."""
        return number < len(self.state) and CLOSED != self.state[number] != RESERVED
