# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end of an extra console, which the front end finds by xenbus: ``ConsoleBackend``.

Its directories are ``device/console/N`` and ``backend/console/DOMID/N``, N from 1 on. The front end
allocates the page of the ring and a port, writes ``ring-ref`` and ``port``, and is *Initialised*;
the back end maps and binds both and is *Connected*. In Linux the console is then ``/dev/hvcN``.
With a ``name`` it is what xl calls a channel. Where it is connected to a terminal of the host, the
back end writes that one's path to the front end's ``tty``.

What matters to the host, such as the limit, is never read from the front end's directory: it is the
guest's.

Reference: ``xen-pv-channel(7)``, ``docs/misc/console.txt``, ``public/io/console.h``.
"""

from __future__ import annotations

import contextlib
from typing import ClassVar

from pyxen.backends.console.outlet import Outlet
from pyxen.backends.console.ring import COUNTERS, ConsoleRing
from pyxen.backends.doors import Doors
from pyxen.backends.xenbus import Backend, BackendError
from pyxen.hypervisor.events_back_end import BackEndPort
from pyxen.hypervisor.grant_access import Mapping


class ConsoleBackend(Backend):
    """Connects a guest's console with an outlet, which it closes at its end."""

    kind: ClassVar[str] = "console"

    def __init__(self, doors: Doors, backend_path: str, frontend_path: str, outlet: Outlet) -> None:
        super().__init__(doors, backend_path, frontend_path)
        self._outlet = outlet
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._ring: ConsoleRing | None = None
        self._page: Mapping | None = None
        self._port: BackEndPort | None = None
        self._early = b""
        """Input that came while there was no ring."""
        self._asked = True
        outlet.start(
            lambda data: doors.post(lambda: self._type(data)),
            lambda: doors.post(self._on_room),
        )
        outlet.ask()

    def advertise(self) -> dict[str, str]:
        """Nothing; but tell where the console can be had."""
        self.doors.store.write(f"{self.frontend_path}/tty", self._outlet.tty)
        return {}

    def connect(self) -> None:
        reference = self.read_frontend_int("ring-ref")
        guest_port = self.read_frontend_int("port")
        self._page = self.doors.grants.map(reference)
        self._port = self.bind(guest_port, self._on_event)
        self._ring = ConsoleRing(
            self._page.page,
            self._port.send,
            self._outlet.output,
            self._counters,
            broken=_refuse,
            has_room=self._outlet.has_room,
        )
        early, self._early = self._early, b""
        if early:
            self._ring.write_input(early)
        self._ask_when_taken(self._ring)

    def disconnect(self) -> None:
        ring, self._ring = self._ring, None
        if ring is not None:
            with contextlib.suppress(BackendError):  # a broken ring has no last output
                ring.drain()
        if self._port is not None:
            self._port.close()
            self._port = None
        if self._page is not None:
            self.doors.grants.unmap(self._page)
            self._page = None

    def close(self) -> None:
        self._outlet.close()

    def statistics(self) -> dict[str, int]:
        return {**self._counters, "bytes_discarded": self._outlet.discarded}

    def _on_event(self) -> None:
        if self._ring is not None:
            self._ring.on_event()
            self._ask_when_taken(self._ring)

    def _on_room(self) -> None:
        """The outlet takes output again."""
        if self._ring is not None:
            self.guard(self._ring.drain)()

    def _type(self, data: bytes) -> None:
        """The outlet has input. There is no more before it is asked again."""
        self._asked = False
        ring = self._ring
        if ring is None:
            self._early += data
        else:
            self.guard(lambda: ring.write_input(data))()
            self._ask_when_taken(ring)

    def _ask_when_taken(self, ring: ConsoleRing) -> None:
        if not self._asked and not ring.pending_input():
            self._asked = True
            self._outlet.ask()


def _refuse(message: str) -> None:
    raise BackendError(message)
