# SPDX-License-Identifier: GPL-2.0-or-later
"""The console that a domain has from its start, as xenconsoled serves it: ``PrimaryConsole``.

It is no device of xenbus: the guest learns its page and its port from ``start_info``, and so both
are there before the guest. The back end learns them from the domain's ``console`` directory, which
the tool stack has written and the guest may only read:

- ``type``: ``xenconsoled``, or else another program serves the ring;
- ``ring-ref``: the frame of the page. It is mapped by the grant that the tools have made of it,
  GNTTAB_RESERVED_CONSOLE;
- ``port``: the guest's port, which waits for domain 0;
- ``limit``, ``output``, ``tty``: how much may wait for a reader, and where he finds it.

It watches the directory, as the tools may put another port there. There is no ``state`` to follow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyxen.abi.grant_table import GNTTAB_RESERVED_CONSOLE
from pyxen.backends.console.ring import COUNTERS, ConsoleRing
from pyxen.backends.doors import Doors, StoreError
from pyxen.errors import XenError
from pyxen.hypervisor.grants import GrantError

if TYPE_CHECKING:
    from pyxen.hypervisor.events_back_end import BackEndPort
    from pyxen.hypervisor.grant_access import Mapping

log = logging.getLogger("pyxen")

_TYPE: Final = "xenconsoled"


class PrimaryConsole:
    """See the module. All in the thread of the vCPUs, but for ``pending_input``.

    Args:
        path: the domain's ``console`` directory.
        output: as for ``ConsoleRing``; may block.
    """

    def __init__(self, doors: Doors, path: str, output: Callable[[bytes], None]) -> None:
        self._doors = doors
        self._path = path
        self._output = output
        self._counters = dict.fromkeys(COUNTERS, 0)
        self._page: Mapping | None = None
        self._port: BackEndPort | None = None
        self._guest_port = 0
        self._ring: ConsoleRing | None = None
        self._early = b""
        """Input that came while there was no ring."""
        self._watch: object = None

    def attach(self) -> None:
        """Begin."""
        self._look()
        self._watch = self._doors.store.watch(self._path, lambda path: self._look())

    def detach(self) -> None:
        """Let go of the domain."""
        self._doors.store.unwatch(self._watch)
        self._ring = None
        if self._port is not None:
            self._port.close()
        if self._page is not None:
            self._doors.grants.unmap(self._page)
        self._port = self._page = None

    def drain(self) -> None:
        """See ``ConsoleRing.drain``."""
        if self._ring is not None:
            self._ring.drain()

    def write_input(self, data: bytes) -> None:
        """See ``ConsoleRing.write_input``."""
        if self._ring is not None:
            self._ring.write_input(data)
        else:
            self._early += data

    def pending_input(self) -> int:
        """The number of bytes of input that wait for the guest."""
        ring = self._ring
        return len(self._early) if ring is None else ring.pending_input()

    def statistics(self) -> dict[str, int]:
        """Counters, by name."""
        return dict(self._counters)

    def _look(self) -> None:
        """Connect with what the directory names, if that is not so yet."""
        if self._read("type") != _TYPE:
            return
        ring_ref, guest_port = self._read_number("ring-ref"), self._read_number("port")
        if ring_ref is None or guest_port is None:
            return
        if self._port is not None and self._port.guest_port == self._guest_port == guest_port:
            return
        try:
            self._connect(guest_port)
        except GrantError as error:
            log.warning("console: its grant is refused: %s", error)
        except XenError as error:
            log.warning("console: port %d is refused: error %d", guest_port, error.errno)

    def _connect(self, guest_port: int) -> None:
        grants = self._doors.grants
        if self._page is None:
            self._page = grants.map(GNTTAB_RESERVED_CONSOLE)
        if self._port is not None:
            self._port.close()
            self._port = None
        self._port = self._doors.bind(guest_port, self._on_event)
        self._guest_port = guest_port
        if self._ring is None:
            self._ring = ConsoleRing(self._page.page, self._send, self._output, self._counters)
            early, self._early = self._early, b""
            if early:
                self._ring.write_input(early)

    def _on_event(self) -> None:
        if self._ring is not None:
            self._ring.on_event()

    def _send(self) -> None:
        if self._port is not None:
            self._port.send()

    def _read(self, name: str) -> str:
        try:
            return self._doors.store.read(f"{self._path}/{name}").decode("latin-1")
        except StoreError:
            return ""

    def _read_number(self, name: str) -> int | None:
        text = self._read(name)
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None
