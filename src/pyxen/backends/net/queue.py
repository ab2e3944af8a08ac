# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair of rings at work: the guest's packets go to the link, and the link's frames to the guest.

A packet is copied and answered when it is taken, so that nothing is in progress between two events.
The front end has an event channel for each ring, or one for both. An event costs an emulated guest
more than a packet, so that there are as few as possible:

*Answers.* Linux looks for answers itself after each packet. So they are shown at once, and the
event that it has asked for is sent a little later, if it has not looked by then.

*Many packets.* When events come quickly the ring is looked at from time to time instead, until that
finds hardly anything.

*Frames for the guest* are given in rounds, see ``receive``: when the front end tells that it has
looked at the ring, it is left half as much time again for its programs before the next round.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

from pyxen.backends.net.receive import ENOUGH_WAITING, Abilities, Receiver
from pyxen.backends.net.transmit import Transmitter

if TYPE_CHECKING:
    from pyxen.backends.net.backend import NetBackend
    from pyxen.hypervisor.events_back_end import BackEndPort
    from pyxen.hypervisor.grant_access import Mapping

# Seconds.
_ANSWERS_WAIT: Final = 0.001
_BUSY_TIME: Final = 0.001
_LOOK_FOR_PACKETS: Final = 0.0003
_BETWEEN_ROUNDS: Final = (0.0001, 0.002)
_LOOK_FOR_SLOTS: Final = 0.01

_BUSY: Final = 5
"""Events within ``_BUSY_TIME``."""
_FEW: Final = 2
"""Packets: with fewer at a time the ring is not looked at without an event."""


class Queue:
    """``pages`` are the mapped pages of the rings tx and rx. ``notifies``: the front end sends
    events for the slots that it puts into rx."""

    def __init__(
        self, device: NetBackend, pages: Sequence[Mapping], abilities: Abilities, notifies: bool
    ) -> None:
        self.tx_port: BackEndPort | None = None
        self.rx_port: BackEndPort | None = None
        self._device = device
        self._grants = device.doors.grants
        self._pages = pages
        self._notifies = notifies
        self._due: set[Callable[[], None]] = set()
        self._looking = False
        self._events = 0
        self._busy_since = 0.0
        self._round_began = 0.0
        self._closed = False
        tx_page, rx_page = (mapping.page for mapping in pages)
        self.transmitter = Transmitter(tx_page, self._grants, device.multicast, device.rate)
        self.receiver = Receiver(rx_page, self._grants, abilities)

    # What the front end's events call. All may raise BackendError for a broken ring.

    def on_event(self) -> None:
        """An event of a channel for both rings."""
        self.on_tx_event()
        self.on_rx_event()

    def on_tx_event(self) -> None:
        """The front end has put in packets, or may have."""
        self._device.counters["tx_events"] += 1
        if self._looking or self._closed:
            return
        self._transmit()
        self._later(_ANSWERS_WAIT, self._tell_answers)
        if self._is_busy():
            self._looking = True
            self._later(_LOOK_FOR_PACKETS, self._look_for_packets)
        else:
            self._wait_for_packets()

    def on_rx_event(self) -> None:
        """The front end has put in slots for what it receives, or may have."""
        self._device.counters["rx_events"] += 1
        if self.receiver.waiting_bytes and not self._closed:
            least, most = _BETWEEN_ROUNDS
            taken = (monotonic() - self._round_began) / 2
            self._later(max(least, min(taken, most)), self._next_round)

    # The guest's packets

    def _is_busy(self) -> bool:
        """Whether this was one of many events in a short time."""
        self._events += 1
        if self._events < _BUSY:
            return False
        now = monotonic()
        busy = now - self._busy_since < _BUSY_TIME
        self._events = 0
        self._busy_since = now
        return busy

    def _transmit(self) -> int:
        """Take what is there. Returns how many packets that was."""
        transmitter = self.transmitter
        refused = transmitter.refused
        frames = transmitter.take_all()
        transmitter.ring.push()
        if transmitter.delay:
            self._later(transmitter.delay, self._go_on)
        if transmitter.refused != refused:
            self._device.tell_once(f"packet refused: {transmitter.reason}")
        if frames:
            self._device.send(frames)
        return len(frames)

    def _wait_for_packets(self) -> None:
        """Let the next packet send an event, unless the rate has left some."""
        while not self._closed and not self.transmitter.delay:
            if not self.transmitter.ring.ask_for_events(0):
                return
            self._transmit()

    def _look_for_packets(self) -> None:
        count = self._transmit()
        self._tell_answers()
        if count >= _FEW:
            self._later(_LOOK_FOR_PACKETS, self._look_for_packets)
        else:
            self._looking = False
            self._wait_for_packets()

    def _go_on(self) -> None:
        """The rate lets more packets pass."""
        self._transmit()
        self._tell_answers()
        if not self._looking:
            self._wait_for_packets()

    def _tell_answers(self) -> None:
        if self.transmitter.ring.wants_event() and self.tx_port is not None:
            self.tx_port.send()

    # Frames for the guest

    def deliver(self) -> None:
        """Give the guest what it has slots for of what ``receiver`` has waiting."""
        receiver = self.receiver
        receiver.deliver()
        receiver.ring.push()
        if receiver.ring.wants_event() and self.rx_port is not None:
            self.rx_port.send()
        if receiver.waiting_bytes:
            self._round_began = monotonic()
            if receiver.paused or not self._notifies:
                self._later(_LOOK_FOR_SLOTS, self._look_for_slots)

    def _next_round(self) -> None:
        self.deliver()
        self._device.resume_link()

    def _look_for_slots(self) -> None:
        """The front end has told of no slots for a while, or does not do so at all."""
        self.receiver.begin_round()
        self._next_round()

    @property
    def has_room(self) -> bool:
        return self.receiver.waiting_bytes < ENOUGH_WAITING

    # Time

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        """Do this after a time; the same work is not due twice."""
        if work in self._due:
            return
        self._due.add(work)

        def due() -> None:
            self._due.discard(work)
            if not self._closed:
                self._device.guarded(work)

        self._device.doors.call_later(seconds, due)

    def close(self) -> None:
        """Let go of the pages and ports; what waits is dropped."""
        if self._closed:
            return
        self._closed = True
        for port in (self.tx_port, self.rx_port):
            if port is not None:
                port.close()
        self._grants.unmap_all(self._pages)
