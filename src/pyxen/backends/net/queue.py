# SPDX-License-Identifier: GPL-2.0-or-later
"""A pair of rings at work: the guest's packets go to the link, and the link's frames to the guest.

A packet is copied and answered when it is taken, so that nothing is in progress between two events.
The front end has an event channel for each ring, or one for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from pyxen.backends.net.receive import ENOUGH_WAITING, Abilities, Receiver
from pyxen.backends.net.transmit import Transmitter

if TYPE_CHECKING:
    from pyxen.backends.net.backend import NetBackend
    from pyxen.hypervisor.events_back_end import BackEndPort
    from pyxen.hypervisor.grant_access import Mapping

_LOOK_FOR_SLOTS: Final = 0.03
"""Seconds until a front end is looked at again that does not tell of new slots."""


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
        self._timers: set[Callable[[], None]] = set()
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
        self._transmit()

    def on_rx_event(self) -> None:
        """The front end has put in slots for what it receives, or may have."""
        self._device.counters["rx_events"] += 1
        if not self._closed:
            self.deliver()
            self._device.resume_link()

    # The guest's packets

    def _transmit(self) -> None:
        if self._closed:
            return
        transmitter = self.transmitter
        refused = transmitter.refused
        frames = transmitter.take_all()
        if transmitter.delay:
            self._later(transmitter.delay, self._transmit)
        if transmitter.ring.push() and self.tx_port is not None:
            self.tx_port.send()
        if transmitter.refused != refused:
            self._device.tell_once(f"packet refused: {transmitter.reason}")
        if frames:
            self._device.send(frames)

    # Frames for the guest

    def deliver(self) -> None:
        """Give the guest what it has slots for of what ``receiver`` has waiting."""
        receiver = self.receiver
        receiver.deliver()
        if receiver.ring.push() and self.rx_port is not None:
            self.rx_port.send()
        if receiver.waiting_bytes and not self._notifies:
            self._later(_LOOK_FOR_SLOTS, self.on_rx_event)

    @property
    def has_room(self) -> bool:
        return self.receiver.waiting_bytes < ENOUGH_WAITING

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        """Call this after a time; one call of each kind waits at most."""
        if work in self._timers:
            return
        self._timers.add(work)
        doors = self._device.doors

        def due() -> None:
            self._timers.discard(work)
            if not self._closed:
                self._device.guarded(work)

        doors.loop.call_soon_threadsafe(doors.loop.call_later, seconds, doors.post, due)

    def close(self) -> None:
        """Let go of the pages and ports; what waits is dropped."""
        if self._closed:
            return
        self._closed = True
        for port in (self.tx_port, self.rx_port):
            if port is not None:
                port.close()
        self._grants.unmap_all(self._pages)
