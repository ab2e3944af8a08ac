# SPDX-License-Identifier: GPL-2.0-or-later
"""A computer on a link, in the test: as much of ARP, DHCP, UDP and TCP as a test needs."""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Callable, Sequence

from pyxen.backends.net.link import GSO_TCPV4, Frame, Link
from pyxen.testing.fake_doors import FakeDoors

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
TCP, UDP = 6, 17


def checksum(data: bytes, start: int = 0) -> int:
    if len(data) % 2:
        data += b"\0"
    total = start + sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


class Station:
    """See the module. ``frames`` are those that came and that nobody has taken yet."""

    def __init__(self, fake: FakeDoors, link: Link, mac: str, address: str = "0.0.0.0") -> None:
        self.fake = fake
        self.link = link
        self.mac = bytes.fromhex(mac.replace(":", ""))
        self.address = address
        self.router_mac = b"\xff" * 6
        self.frames: list[Frame] = []
        link.open(self._receive)

    def _receive(self, frames: Sequence[Frame]) -> bool:
        self.frames += frames
        return True

    # Frames

    def send(self, kind: int, payload: bytes, to: bytes | None = None) -> None:
        to = self.router_mac if to is None else to
        self.link.send([Frame(to + self.mac + kind.to_bytes(2, "big") + payload)])

    def take(self, wanted: Callable[[Frame], bool], timeout: float = 20) -> Frame:
        """The first frame of this kind; those before it are lost."""
        found: list[Frame] = []

        def look() -> bool:
            while self.frames and not found:
                frame = self.frames.pop(0)
                if wanted(frame):
                    found.append(frame)
            return bool(found)

        self.fake.run(until=look, timeout=timeout)
        return found[0]

    # IPv4

    def resolve(self, address: str) -> bytes:
        """Who has this address: ARP."""
        header = struct.pack("!HHBBH", 1, IPV4, 6, 4, 1)
        sender = self.mac + packed(self.address)
        self.send(ARP, header + sender + bytes(6) + packed(address), b"\xff" * 6)
        reply = self.take(
            lambda frame: frame.data[12:14] == b"\x08\x06" and frame.data[28:32] == packed(address)
        )
        return reply.data[22:28]

    def packet(self, to: str, protocol: int, payload: bytes) -> bytes:
        """A packet of IP, of the kind of the address, around a checksum that is zero."""
        source, destination = packed(self.address), packed(to)
        if len(destination) == 4:
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, 64, protocol, 0)
            head += source + destination
            return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload
        source = packed("fd00::2") if len(source) == 4 else source
        head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, 64)
        return head + source + destination + payload

    def send_udp(self, to: str, source: int, destination: int, data: bytes) -> None:
        payload = struct.pack("!HHHH", source, destination, 8 + len(data), 0) + data
        kind = IPV6 if ":" in to else IPV4
        self.send(kind, self.packet(to, UDP, payload))

    def take_udp(self, destination: int) -> tuple[str, int, bytes]:
        """The address and port that a datagram to this port came from, and what is in it."""
        data = self.take(lambda f: is_to(f, UDP, destination)).data
        (port,) = struct.unpack_from("!H", data, 34)
        return socket.inet_ntoa(data[26:30]), port, data[42:]

    def send_tcp(
        self,
        to: str,
        ports: tuple[int, int],
        numbers: tuple[int, int],
        flags: int,
        data: bytes = b"",
        *,
        unfinished: int = 0,
    ) -> None:
        """A segment; ``unfinished`` with a sum to be filled in, as a large one of so many bytes."""
        head = struct.pack("!HHIIBBHHH", *ports, *numbers, 5 << 4, flags, 0xFFFF, 0, 0)
        pseudo = packed(self.address) + packed(to) + struct.pack("!HH", TCP, len(head + data))
        if unfinished:
            partial = ~checksum(pseudo) & 0xFFFF
            head = head[:16] + struct.pack("!H", partial) + head[18:]
        elif ":" not in to:
            head = head[:16] + struct.pack("!H", checksum(pseudo + head + data)) + head[18:]
        kind = IPV6 if ":" in to else IPV4
        packet = self.packet(to, TCP, head + data)
        frame = self.router_mac + self.mac + kind.to_bytes(2, "big") + packet
        if unfinished:
            gso = {"gso": GSO_TCPV4, "segment_size": unfinished} if len(data) > unfinished else {}
            self.link.send([Frame(frame, 34, 16, **gso)])
        else:
            self.link.send([Frame(frame)])

    def dhcp(self) -> dict[int, bytes]:
        """Ask for an address, and take it. The options of the answer, and the address as 0."""
        for kind in (1, 3):  # discover and offer, request and acknowledgement
            request = struct.pack("!BBBBIHH16x", 1, 1, 6, 0, 4711, 0, 0)
            request += self.mac.ljust(208, b"\0") + bytes.fromhex("63825363")
            request += bytes([53, 1, kind, 255])
            self.send_udp("255.255.255.255", 68, 67, request)
            _, _, answer = self.take_udp(68)
            options = {0: answer[16:20]}
            at = 240
            while answer[at] != 255:
                length = answer[at + 1]
                options[answer[at]] = answer[at + 2 : at + 2 + length]
                at += 2 + length
            assert options[53] == bytes([kind * 2 - (kind == 3)])
        self.address = socket.inet_ntoa(options[0])
        return options


def is_to(frame: Frame, protocol: int, port: int) -> bool:
    data = frame.data
    return (
        data[12:14] == b"\x08\x00"
        and data[23] == protocol
        and struct.unpack_from("!H", data, 36)[0] == port
    )


class Connection:
    """One of TCP from a station, which nothing is lost from."""

    def __init__(self, station: Station, to: str, ports: tuple[int, int]) -> None:
        self.station = station
        self.to = to
        self.ports = ports
        self.sent = 1000
        self.seen = 0
        self.received = b""

    def connect(self, timeout: float = 20) -> bool:
        """False if it is refused. Raises TimeoutError if there is no answer."""
        self.station.send_tcp(self.to, self.ports, (self.sent, 0), SYN)
        answer = self._take(timeout)
        if answer[47] & RST:
            return False
        assert answer[47] & (SYN | ACK) == SYN | ACK
        self.sent += 1
        self.seen = int.from_bytes(answer[38:42], "big") + 1
        self._acknowledge()
        return True

    def accept(self) -> None:
        """Wait for one from there, which becomes this."""
        syn = self._take(20)
        assert syn[47] & (SYN | ACK) == SYN
        self.to = socket.inet_ntoa(syn[26:30])
        self.ports = (self.ports[0], int.from_bytes(syn[34:36], "big"))
        self.seen = int.from_bytes(syn[38:42], "big") + 1
        self.station.send_tcp(self.to, self.ports, (self.sent, self.seen), SYN | ACK)
        self.sent += 1

    def send(self, data: bytes, unfinished: int = 0) -> None:
        numbers = (self.sent, self.seen)
        self.station.send_tcp(self.to, self.ports, numbers, ACK | PSH, data, unfinished=unfinished)
        self.sent += len(data)

    def receive(self, count: int) -> bytes:
        """So many bytes, or as many as there were before the end."""
        while len(self.received) < count:
            segment = self._take(20)
            length = int.from_bytes(segment[16:18], "big") - 20 - (segment[46] >> 4) * 4
            if int.from_bytes(segment[38:42], "big") != self.seen:
                continue
            self.received += segment[34 + (segment[46] >> 4) * 4 :][:length]
            self.seen += length + bool(segment[47] & FIN)
            if length or segment[47] & FIN:
                self._acknowledge()
            if segment[47] & (FIN | RST):
                break
        taken, self.received = self.received[:count], self.received[count:]
        return taken

    def _acknowledge(self) -> None:
        self.station.send_tcp(self.to, self.ports, (self.sent, self.seen), ACK)

    def _take(self, timeout: float) -> bytes:
        return self.station.take(lambda f: is_to(f, TCP, self.ports[0]), timeout).data
