# SPDX-License-Identifier: GPL-2.0-or-later
"""The reverse of segmentation: packets of one TCP connection that follow each other made one large
segment, as the drivers of real cards do it (Linux calls it GRO).

The guest then handles one packet for many. Merged are packets of which nothing is lost by it: whose
headers differ in nothing but sequence number, length, identification, sums and PSH, of the same
payload (the last may be shorter), and whose sums are known to be right. If the guest passes it on,
the same packets come out again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pyxen.backends.net.link import (
    ETHERNET_HEADER,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    Frame,
)
from pyxen.backends.net.offload import ones_sum, set_pseudo_sum

_LARGEST: Final = 65535
_TCP: Final = 6
_TCP_SUM: Final = 16
_IPV4_START: Final = 34
_IPV6_START: Final = 54
_ACK: Final = 0x10
_PSH: Final = 0x08


class _Run:
    """Packets that are being made one. ``signature`` is what all have in common."""

    def __init__(self, frame: Frame, signature: bytes, start: int, header: int) -> None:
        self.first = frame
        self.signature = signature
        self.start = start
        self.header = header
        self.mss = len(frame.data) - header
        self.size = len(frame.data)
        self.payloads = [frame.data[header:]]
        self.next = _sequence(frame.data, start) + self.mss
        self.closed = bool(frame.data[start + 13] & _PSH)
        self.flags = frame.data[start + 13]

    def takes(self, data: bytes, signature: bytes) -> bool:
        payload = len(data) - self.header
        return (
            not self.closed
            and payload <= self.mss
            and self.size + payload <= _LARGEST
            and signature == self.signature
            and _sequence(data, self.start) == self.next & 0xFFFF_FFFF
        )

    def add(self, data: bytes) -> None:
        payload = data[self.header :]
        self.payloads.append(payload)
        self.size += len(payload)
        self.next += len(payload)
        flags = data[self.start + 13]
        self.flags |= flags
        self.closed = len(payload) < self.mss or bool(flags & _PSH)

    def frame(self) -> Frame:
        if len(self.payloads) == 1:
            return self.first
        start = self.start
        head = bytearray(self.first.data[: self.header])
        head[start + 13] = self.flags
        if start == _IPV4_START:
            gso = GSO_TCPV4
            head[16:18] = (self.size - ETHERNET_HEADER).to_bytes(2, "big")
            head[24:26] = b"\0\0"
            total = 0xFFFF - ones_sum(bytes(head), ETHERNET_HEADER, start)
            head[24:26] = total.to_bytes(2, "big")
        else:
            gso = GSO_TCPV6
            head[18:20] = (self.size - start).to_bytes(2, "big")
        data = set_pseudo_sum(b"".join([bytes(head), *self.payloads]), start)
        return Frame(data, start, _TCP_SUM, True, gso, self.mss)


def coalesce(frames: Sequence[Frame], gso_v4: bool, gso_v6: bool) -> list[Frame]:
    """The frames in their order, with what can be merged in the place of its last packet.

    ``gso_v4`` and ``gso_v6`` say which large segments may come of it.
    """
    done: list[Frame] = []
    run: _Run | None = None
    for frame in frames:
        data = frame.data
        start = _tcp_start(frame, gso_v4, gso_v6)
        header = start + (data[start + 12] >> 4) * 4 if start else 0
        if not start or header < start + 20 or header >= len(data):
            if run is not None:
                done.append(run.frame())
                run = None
            done.append(frame)
            continue
        signature = _signature(data, start, header)
        if run is not None:
            if run.takes(data, signature):
                run.add(data)
                continue
            done.append(run.frame())
        run = _Run(frame, signature, start, header)
    if run is not None:
        done.append(run.frame())
    return done


def _tcp_start(frame: Frame, gso_v4: bool, gso_v6: bool) -> int:
    """Where the TCP header of a packet begins that may be merged; 0 for others."""
    data = frame.data
    size = len(data)
    if size < _IPV4_START + 20 or frame.gso != GSO_NONE:
        return 0
    if not frame.checksum_valid and not frame.checksum_start:
        return 0
    kind = data[12] << 8 | data[13]
    if kind == 0x0800 and gso_v4:
        fragment = (data[20] << 8 | data[21]) & 0x3FFF
        length = data[16] << 8 | data[17]
        if data[14] != 0x45 or data[23] != _TCP or fragment or length + ETHERNET_HEADER != size:
            return 0
        start = _IPV4_START
    elif kind == 0x86DD and gso_v6 and size >= _IPV6_START + 20:
        length = data[18] << 8 | data[19]
        if data[14] >> 4 != 6 or data[20] != _TCP or length + _IPV6_START != size:
            return 0
        start = _IPV6_START
    else:
        return 0
    return start if data[start + 13] & ~_PSH == _ACK else 0


def _signature(data: bytes, start: int, header: int) -> bytes:
    """The bytes that are the same in all packets of a run."""
    tcp = data[start + 8 : start + 13] + data[start + 14 : start + 16] + data[start + 18 : header]
    if start == _IPV4_START:
        return data[:16] + data[20:24] + data[26:38] + tcp
    return data[:18] + data[20:58] + tcp


def _sequence(data: bytes, start: int) -> int:
    return int.from_bytes(data[start + 4 : start + 8], "big")
