# SPDX-License-Identifier: GPL-2.0-or-later
"""A back end's end of an event channel: a port of domain 0.

The guest (or the tool stack in its place) allocates an unbound port for domain 0 and tells its
number, by xenstore or at the start of day. The back end binds to it
(``EventChannels.bind_back_end``). From then on ``send`` raises the guest's port, and an event of
the guest calls what the back end has given to ``listen``. Either side may close. If the guest does,
this end is unbound: what is sent is dropped, until the guest binds to it again.

All this happens in the thread of the vCPUs; other threads use ``Domain.post``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyxen.hypervisor.events import EventChannels


class BackEndPort:
    """One port of domain 0. ``guest_port`` is the other end, 0 while there is none."""

    def __init__(self, events: EventChannels, number: int, guest_port: int) -> None:
        self.number = number
        self.guest_port = guest_port
        self._events = events
        self._notify: Callable[[], None] | None = None
        self.closed = False
        self._pending = True  # the guest may have sent before there was a channel

    def listen(self, notify: Callable[[], None]) -> None:
        """Hear the guest's events from now on; at once, if there was one before. Nothing happens at
        a port that has been closed."""
        if self.closed:
            return
        self._notify = notify
        if self._pending:
            self.signal()

    def signal(self) -> None:
        """The guest has sent an event."""
        if self._notify is None:
            self._pending = True
        else:
            self._pending = False
            self._notify()

    def send(self) -> None:
        """Raise the guest's port, if it is there."""
        if self.guest_port:
            self._events.set_pending(self.guest_port)

    def close(self) -> None:
        """Give the port up; the guest's is unbound then. A second time does nothing."""
        self.closed = True
        self._events.close_back_end(self)
