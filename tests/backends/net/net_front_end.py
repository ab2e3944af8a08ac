# SPDX-License-Identifier: GPL-2.0-or-later
"""A front end of a network card, as simple as it can be, its back end, and a link for both."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pyxen.abi.io_netif import (
    NETIF_EXTRA_INFO_GSO,
    NETIF_EXTRA_INFO_MCAST,
    NETIF_RX_REQUEST,
    NETIF_RX_RESPONSE,
    NETIF_TX_REQUEST,
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO,
    NETRXF_extra_info,
    NETRXF_more_data,
    NETTXF_extra_info,
    NETTXF_more_data,
)
from pyxen.backends.allowance import Allowance
from pyxen.backends.net import Frame, NetBackend, Receive
from pyxen.errors import PyxenError
from pyxen.testing import FakeDoors

BACKEND = "/local/domain/0/backend/vif/1/0"
FRONTEND = "/local/domain/1/device/vif/0"
ERROR = "/local/domain/0/error/backend/vif/1/0/error"
PAGE = 4096
SLOTS = 256
FIRST_SLOT = 64
FIRST_RING_PAGE = 400
FIRST_RX_PAGE = 100
MASK = 0xFFFF_FFFF
FEATURES = {
    "feature-sg": 1,
    "feature-gso-tcpv4": 1,
    "feature-gso-tcpv6": 1,
    "feature-ipv6-csum-offload": 1,
    "feature-rx-notify": 1,
    "request-rx-copy": 1,
}
"""What Linux writes."""

Piece = tuple[int, int, int]
"""Reference, offset, size."""


class TestLink:
    """Keeps what is sent; ``receive`` is what the back end has given it."""

    __test__ = False

    def __init__(self, takes_unfinished: bool = True) -> None:
        self.takes_unfinished = takes_unfinished
        self.sent: list[Frame] = []
        self.batches: list[int] = []
        self.receive: Receive | None = None
        self.resumed = 0
        self.released = 0
        self.refusal = ""

    def open(self, receive: Receive) -> None:
        if self.refusal:
            raise PyxenError(self.refusal)
        assert self.receive is None
        self.receive = receive

    def send(self, frames: Sequence[Frame]) -> None:
        self.sent += frames
        self.batches.append(len(frames))

    def resume(self) -> None:
        self.resumed += 1

    def close(self) -> None:
        self.receive = None

    def release(self) -> None:
        self.released += 1

    def statistics(self) -> dict[str, int]:
        return {"link_sent": len(self.sent)}


class FrontRing:
    """The front end's side of a ring of requests of ``size`` bytes."""

    def __init__(self, fake: FakeDoors, page: int, size: int, start: int) -> None:
        self.fake = fake
        self.size = size
        self.page = fake.page(page)
        self.words = self.page.cast("I")
        self.ref = fake.grant(page)
        self.port = 0
        self.req_prod = self.rsp_cons = start
        self.page[:16] = struct.pack("4I", start, start + 1 & MASK, start, start + 1 & MASK)

    def put(self, entry: bytes) -> None:
        start = FIRST_SLOT + self.req_prod % SLOTS * self.size
        self.page[start : start + len(entry)] = entry
        self.req_prod = (self.req_prod + 1) & MASK

    def show(self) -> None:
        """Let the back end see what was put in, with an event if it wants one."""
        old, self.words[0] = self.words[0], self.req_prod
        if (self.req_prod - self.words[1]) & MASK < (self.req_prod - old) & MASK:
            self.fake.notify(self.port)

    def take(self, size: int) -> list[bytes]:
        """The slots of the responses that have come."""
        found = []
        while self.rsp_cons != self.words[2]:
            start = FIRST_SLOT + self.rsp_cons % SLOTS * self.size
            found.append(bytes(self.page[start : start + size]))
            self.rsp_cons = (self.rsp_cons + 1) & MASK
        self.words[3] = (self.rsp_cons + 1) & MASK
        return found


@dataclass
class Received:
    """A frame as it came out of the ring rx; an error in ``status`` if a slot had one."""

    data: bytes
    flags: int
    gso: tuple[int, int] | None
    slots: int
    status: int = 0


class FrontQueue:
    """A pair of rings. Page N of rx is page ``rx_page + N`` of the guest."""

    def __init__(self, fake: FakeDoors, number: int, split: bool, start: int) -> None:
        self.fake = fake
        self.tx = FrontRing(fake, FIRST_RING_PAGE + 2 * number, NETIF_TX_REQUEST.size, start)
        self.rx = FrontRing(fake, FIRST_RING_PAGE + 2 * number + 1, NETIF_RX_REQUEST.size, start)
        self.tx.port = fake.alloc_port()
        self.rx.port = fake.alloc_port() if split else self.tx.port
        self.rx_refs: dict[int, int] = {}
        self.next_id = 0
        self.ids: list[int] = []

    # Sending

    def packet(
        self,
        pieces: Sequence[Piece],
        flags: int = 0,
        extras: Sequence[bytes] = (),
        total: int | None = None,
    ) -> int:
        """Put a packet in; returns how many slots it took. ``total`` is a false size."""
        first, *others = pieces
        total = sum(size for _, _, size in pieces) if total is None else total
        flags |= NETTXF_more_data if others else 0
        flags |= NETTXF_extra_info if extras else 0
        self._request(first[0], first[1], flags, total)
        for index, extra in enumerate(extras, 1):
            more = XEN_NETIF_EXTRA_FLAG_MORE if index < len(extras) else 0
            self.tx.put(extra[:1] + bytes([extra[1] | more]) + extra[2:] + bytes(4))
        for index, (ref, offset, size) in enumerate(others, 1):
            self._request(ref, offset, NETTXF_more_data if index < len(others) else 0, size)
        return 1 + len(extras) + len(others)

    def _request(self, ref: int, offset: int, flags: int, size: int) -> None:
        self.next_id = (self.next_id + 1) & 0xFFFF
        self.ids.append(self.next_id)
        self.tx.put(NETIF_TX_REQUEST.pack(ref, offset, flags, self.next_id, size))

    def statuses(self) -> list[int]:
        """Those of the responses that have come, NETIF_RSP_NULL of extra infos left out."""
        found = []
        for entry in self.tx.take(4):
            identity, status = struct.unpack("<Hh", entry)
            if status != 1:
                assert identity == self.ids.pop(0)
                found.append(status)
        return found

    # Receiving

    def refill(self, count: int, first_page: int = FIRST_RX_PAGE, readonly: bool = False) -> None:
        """Put pages into rx; the identity of each request is the number of its page."""
        for page in range(first_page, first_page + count):
            if page not in self.rx_refs:
                self.rx_refs[page] = self.fake.grant(page, readonly=readonly)
            self.rx.put(NETIF_RX_REQUEST.pack(page, 0, self.rx_refs[page]))
        self.rx.show()

    def received(self) -> list[Received]:
        """The frames that have come."""
        entries = self.rx.take(NETIF_RX_RESPONSE.size)
        frames = []
        while entries:
            frames.append(self._parse(entries))
        return frames

    def _parse(self, entries: list[bytes]) -> Received:
        frame = Received(b"", 0, None, 0)
        more = True
        while more:
            page, offset, flags, status = NETIF_RX_RESPONSE.unpack(entries.pop(0))
            if not frame.slots:
                frame.flags = flags
            frame.slots += 1
            if status < 0:
                frame.status = status
            else:
                frame.data += bytes(self.fake.page(page)[offset : offset + status])
            more = bool(flags & NETRXF_more_data)
            if flags & NETRXF_extra_info:
                kind, rest, size, gso, _, _ = NETIF_EXTRA_INFO_GSO.unpack(entries.pop(0))
                assert (kind, rest) == (XEN_NETIF_EXTRA_TYPE_GSO, 0)
                frame.gso = (gso, size)
                frame.slots += 1
        return frame


def gso_extra(kind: int, size: int) -> bytes:
    return NETIF_EXTRA_INFO_GSO.pack(XEN_NETIF_EXTRA_TYPE_GSO, 0, size, kind, 0, 0)


def multicast_extra(kind: int, address: bytes) -> bytes:
    return NETIF_EXTRA_INFO_MCAST.pack(kind, 0, address)


class FrontEnd:
    """A card whose link is ``link``."""

    def __init__(
        self, fake: FakeDoors, link: TestLink | None = None, rate: Allowance | None = None
    ) -> None:
        self.fake = fake
        self.link = link or TestLink()
        self.backend = NetBackend(fake.doors, BACKEND, FRONTEND, self.link, rate)
        self.queues: list[FrontQueue] = []
        fake.store.write(f"{BACKEND}/state", "1")
        self.write({"state": 1})
        self.backend.machine.attach()
        fake.run()

    def write(self, nodes: dict[str, object], folder: str = "") -> None:
        for name, value in nodes.items():
            self.fake.store.write(f"{FRONTEND}/{folder}{name}", str(value))

    def read(self, name: str) -> str:
        return self.fake.store.read(f"{BACKEND}/{name}").decode()

    def connect(
        self, queues: int = 1, split: bool = True, start: int = 0, **features: int
    ) -> FrontQueue:
        """With the features of Linux, and changes to them; returns the first queue."""
        changed = {name.replace("_", "-"): value for name, value in features.items()}
        self.queues = [FrontQueue(self.fake, number, split, start) for number in range(queues)]
        for number, queue in enumerate(self.queues):
            nodes: dict[str, object] = {
                "tx-ring-ref": queue.tx.ref,
                "rx-ring-ref": queue.rx.ref,
            }
            if split:
                nodes |= {"event-channel-tx": queue.tx.port, "event-channel-rx": queue.rx.port}
            else:
                nodes |= {"event-channel": queue.tx.port}
            self.write(nodes, f"queue-{number}/" if queues > 1 else "")
        if queues > 1:
            self.write({"multi-queue-num-queues": queues})
        self.write({**FEATURES, **changed, "state": 4})
        self.fake.run()
        return self.queues[0]

    @property
    def state(self) -> int:
        return int(self.read("state"))

    @property
    def error(self) -> str:
        return self.fake.store.read(ERROR).decode()

    def send(self, queue: FrontQueue | None = None) -> list[int]:
        """Show what was put in, and wait for all statuses, or for the end of the card."""
        queue = queue or self.queues[0]
        queue.tx.show()
        statuses: list[int] = []
        self.fake.run(
            until=lambda: statuses.extend(queue.statuses()) or not queue.ids or self.state != 4
        )
        return statuses

    def receive(self, *frames: Frame) -> bool:
        """Let the link receive."""
        assert self.link.receive is not None
        return self.link.receive(frames)

    def fill(self, data: bytes, page: int = 10) -> list[Piece]:
        """Data in pages of the guest from this on; the pieces."""
        pieces = []
        for number, start in enumerate(range(0, len(data), PAGE)):
            part = data[start : start + PAGE]
            self.fake.page(page + number)[: len(part)] = part
            pieces.append((self.fake.grant(page + number, readonly=True), 0, len(part)))
        return pieces

    def end(self) -> None:
        self.backend.machine.detach(force=True)
        self.fake.run()


# Frames


def ones_complement(data: bytes) -> int:
    """The sum of 16 bit words, in the plainest way."""
    total = 0
    for high, low in zip(data[::2], [*data[1::2], 0], strict=False):
        total += high << 8 | low
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def is_complete(data: bytes) -> bool:
    """Whether all sums of a TCP or UDP frame are right."""
    if data[12:14] == b"\x08\x00":
        header = (data[14] & 15) * 4
        if ones_complement(data[14 : 14 + header]) != 0xFFFF:
            return False
        content = data[14 + header : 14 + int.from_bytes(data[16:18], "big")]
        pseudo = data[26:34] + bytes([0, data[23]]) + struct.pack(">H", len(content))
    else:
        content = data[54 : 54 + int.from_bytes(data[18:20], "big")]
        pseudo = data[22:54] + struct.pack(">I", len(content)) + bytes([0, 0, 0, data[20]])
    return ones_complement(pseudo + content) == 0xFFFF


def ip_frame(
    payload: bytes,
    *,
    version: int = 4,
    protocol: int = 6,
    ports: tuple[int, int] = (1000, 2000),
    sequence: int = 7,
    flags: int = 0x18,
    blank: bool = False,
    options: bytes = b"",
) -> bytes:
    """A TCP (6) or UDP (17) frame; with ``blank`` its sum is that of the pseudo header."""
    if protocol == 6:
        header = struct.pack(
            ">HHIIBBHHH", *ports, sequence, 99, (20 + len(options)) << 2, flags, 512, 0, 0
        )
        header += options
        place = 16
    else:
        header = struct.pack(">HHHH", *ports, 8 + len(payload), 0)
        place = 6
    content = bytearray(header + payload)
    addresses: Iterable[int] = range(1, 9) if version == 4 else range(1, 33)
    if version == 4:
        pseudo = bytes(addresses) + struct.pack(">BBH", 0, protocol, len(content))
        ip = bytearray(struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(content), 5, 0, 64, protocol, 0))
        ip += bytes(addresses)
        ip[10:12] = struct.pack(">H", 0xFFFF - ones_complement(bytes(ip)))
    else:
        pseudo = bytes(addresses) + struct.pack(">IHBB", len(content), 0, 0, protocol)
        ip = bytearray(struct.pack(">IHBB", 0x6 << 28, len(content), protocol, 64))
        ip += bytes(addresses)
    total = ones_complement(pseudo)
    if not blank:
        total = 0xFFFF - ones_complement(pseudo + bytes(content))
        if protocol == 17:
            total = total or 0xFFFF
    content[place : place + 2] = struct.pack(">H", total)
    kind = b"\x08\x00" if version == 4 else b"\x86\xdd"
    return b"\x00\x16\x3e\x00\x00\x01" + b"\x00\x16\x3e\x00\x00\x02" + kind + bytes(ip + content)
