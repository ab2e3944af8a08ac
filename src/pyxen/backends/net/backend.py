# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end of a network card, as the xenstore sees it: ``NetBackend``.

It offers what it can (``feature-*``), the front end answers with what it can, in its own directory,
and the references of its rings' pages and their ports: in the directory itself or, with several
pairs of rings, in ``queue-N``. Data goes by copies (``request-rx-copy``): the old way, to exchange
pages, is not offered.

With several queues the sender of a packet chooses one. Frames of one connection keep their order:
they go to the same.

Reference: ``public/io/netif.h``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import ClassVar, Final
from zlib import crc32

from pyxen.backends.allowance import Allowance
from pyxen.backends.doors import Doors
from pyxen.backends.net.coalesce import coalesce
from pyxen.backends.net.link import ETHERNET_HEADER, GSO_TCPV4, GSO_TCPV6, Frame, Link
from pyxen.backends.net.multicast import MulticastFilter
from pyxen.backends.net.offload import finish, is_ipv6
from pyxen.backends.net.queue import Queue
from pyxen.backends.net.receive import Abilities
from pyxen.backends.xenbus import Backend, BackendError
from pyxen.errors import PyxenError

log = logging.getLogger("pyxen")

MAX_QUEUES: Final = 4
_MULTICAST_CONTROL: Final = "request-multicast-control"


class NetBackend(Backend):
    """Connects a link with the guest; gives it back at its end. ``rate`` limits what is sent."""

    kind: ClassVar[str] = "vif"

    def __init__(
        self,
        doors: Doors,
        backend_path: str,
        frontend_path: str,
        link: Link,
        rate: Allowance | None = None,
    ) -> None:
        super().__init__(doors, backend_path, frontend_path)
        self.link = link
        self.rate = rate
        self.multicast = MulticastFilter()
        self.counters = {"tx_events": 0, "rx_events": 0, "rx_filtered": 0}
        self._past: dict[str, int] = {}
        self._queues: list[Queue] = []
        self._abilities = Abilities()
        self._watch: object = None
        self._held_back = False
        self._told: set[str] = set()

    def advertise(self) -> dict[str, str]:
        return {
            "feature-sg": "1",
            "feature-gso-tcpv4": "1",
            "feature-gso-tcpv6": "1",
            "feature-no-csum-offload": "0",
            "feature-ipv6-csum-offload": "1",
            "feature-rx-copy": "1",
            "feature-rx-flip": "0",
            "feature-multicast-control": "1",
            "feature-dynamic-multicast-control": "1",
            "feature-split-event-channels": "1",
            "multi-queue-max-queues": str(MAX_QUEUES),
        }

    # Connecting

    def connect(self) -> None:
        if not self._has("request-rx-copy"):
            raise BackendError("the front end does not ask for copies (request-rx-copy)")
        queues = self.read_frontend_int("multi-queue-num-queues", 1, 1, MAX_QUEUES)
        abilities = self._abilities = self._read_abilities()
        notifies = self._has("feature-rx-notify")
        self.multicast = MulticastFilter()
        self.multicast.enabled = self._has(_MULTICAST_CONTROL)
        for number in range(queues):
            self._connect_queue(f"queue-{number}/" if queues > 1 else "", abilities, notifies)
        path = f"{self.frontend_path}/{_MULTICAST_CONTROL}"
        self._watch = self.doors.store.watch(path, self._on_multicast_control)
        try:
            self.link.open(self._receive)
        except PyxenError as error:
            raise BackendError(str(error)) from None
        self.write({"carrier": "1"})

    def _has(self, name: str) -> bool:
        return self.read_frontend_int(name, 0) != 0

    def _read_abilities(self) -> Abilities:
        names = {"feature-gso-tcpv4": GSO_TCPV4, "feature-gso-tcpv6": GSO_TCPV6}
        sg = self._has("feature-sg")
        return Abilities(
            sg=sg,
            gso=[kind for name, kind in names.items() if self._has(name) and sg],
            ipv4_checksum=not self._has("feature-no-csum-offload"),
            ipv6_checksum=self._has("feature-ipv6-csum-offload"),
        )

    def _connect_queue(self, folder: str, abilities: Abilities, notifies: bool) -> None:
        names = ("tx-ring-ref", "rx-ring-ref")
        references = [self.read_frontend_int(folder + name) for name in names]
        pages = self.doors.grants.map_all(references)
        try:
            queue = Queue(self, pages, abilities, notifies)
        except BackendError:
            self.doors.grants.unmap_all(pages)
            raise
        self._queues.append(queue)
        if self.read_frontend(f"{folder}event-channel-tx", ""):
            tx_port = self.read_frontend_int(f"{folder}event-channel-tx")
            rx_port = self.read_frontend_int(f"{folder}event-channel-rx")
            queue.tx_port = self.bind(tx_port, queue.on_tx_event)
            queue.rx_port = self.bind(rx_port, queue.on_rx_event)
        else:
            port = self.read_frontend_int(f"{folder}event-channel")
            queue.tx_port = queue.rx_port = self.bind(port, queue.on_event)

    def _on_multicast_control(self, path: str) -> None:
        def sample() -> None:
            self.multicast.enabled = self._has(_MULTICAST_CONTROL)

        self.guarded(sample)

    def disconnect(self) -> None:
        if self._watch is not None:
            self.doors.store.unwatch(self._watch)
            self._watch = None
        self.link.close()
        for queue in self._queues:
            for name, value in _counters_of(queue).items():
                self._past[name] = self._past.get(name, 0) + value
            queue.close()
        self._queues.clear()
        self._held_back = False

    def close(self) -> None:
        self.link.release()

    # Frames

    def send(self, frames: list[Frame]) -> None:
        """To the link."""
        self.link.send(frames if self.link.takes_unfinished else finish(frames))

    def _receive(self, frames: Sequence[Frame]) -> bool:
        """From the link, see ``Receive``."""
        self.guarded(lambda: self._distribute(frames))
        self._held_back = not all(queue.has_room for queue in self._queues)
        return not self._held_back

    def _distribute(self, frames: Sequence[Frame]) -> None:
        queues = self._queues
        if not queues:
            return
        if len(frames) > 1 and (self._abilities.gso_v4 or self._abilities.gso_v6):
            frames = coalesce(frames, self._abilities.gso_v4, self._abilities.gso_v6)
        for frame in frames:
            data = frame.data
            if len(data) < ETHERNET_HEADER or not self.multicast.passes(data):
                self.counters["rx_filtered"] += 1
                continue
            number = _flow(data) % len(queues) if len(queues) > 1 else 0
            queues[number].receiver.add(frame)
        for queue in list(queues):
            queue.deliver()

    def resume_link(self) -> None:
        """Let the link go on, if it was held back and need not be."""
        if self._held_back and all(queue.has_room for queue in self._queues):
            self._held_back = False
            self.link.resume()

    # What the queues need

    def guarded(self, work: Callable[[], None]) -> None:
        """Do it; a BackendError closes the device."""
        self.guard(work)()

    def tell_once(self, message: str) -> None:
        """Log what a front end can do without end."""
        if message not in self._told:
            self._told.add(message)
            log.warning("%s: %s; more of this is not told", self._name, message)

    @property
    def _name(self) -> str:
        return f"vif {self.backend_path.rsplit('/', 1)[-1]}"

    def statistics(self) -> dict[str, int]:
        """As the guest sees it: tx is what it sends. What the link counts begins with ``link_``."""
        total = dict.fromkeys(_NAMES, 0) | self._past
        for queue in self._queues:
            for name, value in _counters_of(queue).items():
                total[name] += value
        return total | self.counters | self.link.statistics()


_NAMES: Final = (
    *("tx_packets", "tx_bytes", "tx_refused"),
    *("rx_packets", "rx_bytes", "rx_dropped", "rx_failed"),
)


def _counters_of(queue: Queue) -> dict[str, int]:
    sent, got = queue.transmitter, queue.receiver
    return {
        "tx_packets": sent.packets,
        "tx_bytes": sent.bytes,
        "tx_refused": sent.refused,
        "rx_packets": got.packets,
        "rx_bytes": got.bytes,
        "rx_dropped": got.dropped,
        "rx_failed": got.failed,
    }


def _flow(data: bytes) -> int:
    """A number that is the same for all frames of a connection."""
    if is_ipv6(data):
        return crc32(data[22:58])
    return crc32(data[26:38])
