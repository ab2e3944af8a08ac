# SPDX-License-Identifier: GPL-2.0-or-later
"""Finishing frames: what a network card does for its driver, in software.

*Checksum.* TCP and UDP have a sum over a pseudo header (addresses, protocol, length) and the whole
packet. A sender that leaves it to the card puts the sum of the pseudo header alone into the field;
the card adds the rest, and stores the complement. All sums are of 16 bit words, in ones'
complement, where the order of bytes in a word does not matter as long as it is always the same.

*Segmentation.* A large TCP segment is cut into many of ``segment_size`` bytes of payload. Each gets
the headers of the large one, with its own length, sequence number, identification (IPv4) and sums;
FIN and PSH stay with the last, CWR with the first.

Reference: RFC 1071, 9293, 8200, 791.
"""

from __future__ import annotations

from typing import Final

from pyxen.backends.net.link import ETHERNET_HEADER, GSO_NONE, GSO_TCPV4, GSO_TCPV6, Frame

_IPV6_HEADER: Final = 40
_TCP_HEADER: Final = 20
_TCP: Final = 6
_UDP: Final = 17
_TCP_SUM: Final = 16
_UDP_SUM: Final = 6
_HOP_BY_HOP: Final = 0
_ROUTING: Final = 43
_DESTINATION: Final = 60
_MAX_EXTENSIONS: Final = 16
_FIN_PSH: Final = 0x09
_CWR: Final = 0x80
_SMALLEST_SEGMENT: Final = 8
"""Of payload: what Linux leaves of its smallest MSS when all options are in use."""


def ones_sum(data: bytes, start: int, end: int, total: int = 0) -> int:
    """The ones' complement sum of 16 bits over a part of ``data``, and ``total`` added to it.

    ``start`` counts as the first byte of a word; a last single byte is filled up with zero.
    """
    if start & 1:
        return ones_sum(data[start:end], 0, end - start, total)
    first = min(end, (start + 3) // 4 * 4)  # from here on in words of 32 bits
    last = first + (end - first) // 4 * 4
    words = memoryview(data)[first:last].cast("I")
    little = 0
    for index in range((last - first) // 4):
        little += words[index]
    while little > 0xFFFF:
        little = (little & 0xFFFF) + (little >> 16)
    total += (little >> 8 | little << 8) & 0xFFFF
    for index in range(start, first):
        total += data[index] if index & 1 else data[index] << 8
    for index in range(last, end):
        total += data[index] if index & 1 else data[index] << 8
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def find_checksum(data: bytes) -> tuple[int, int]:
    """Where the TCP or UDP header of a frame begins, and the place of the sum in it.

    (0, 0) for a frame that has none of both, or not whole: a fragment, a tagged or a cut one.
    """
    if len(data) < ETHERNET_HEADER + _TCP_HEADER:
        return 0, 0
    kind = data[12] << 8 | data[13]
    if kind == 0x0800:
        start, protocol = _find_in_ipv4(data)
    elif kind == 0x86DD:
        start, protocol = _find_in_ipv6(data)
    else:
        return 0, 0
    if protocol == _TCP:
        place = _TCP_SUM
    elif protocol == _UDP:
        place = _UDP_SUM
    else:
        return 0, 0
    if start + place + 2 > len(data):
        return 0, 0
    return start, place


def _find_in_ipv4(data: bytes) -> tuple[int, int]:
    """Where the IP packet's content begins, and its protocol; 0 for one that cannot be."""
    first = data[ETHERNET_HEADER]
    header = (first & 15) * 4
    fragment = (data[ETHERNET_HEADER + 6] << 8 | data[ETHERNET_HEADER + 7]) & 0x3FFF
    if first >> 4 != 4 or header < 20 or fragment:
        return 0, 0
    return ETHERNET_HEADER + header, data[ETHERNET_HEADER + 9]


def _find_in_ipv6(data: bytes) -> tuple[int, int]:
    """The same, behind the extension headers."""
    size = len(data)
    start = ETHERNET_HEADER + _IPV6_HEADER
    if size < start or data[ETHERNET_HEADER] >> 4 != 6:
        return 0, 0
    protocol = data[ETHERNET_HEADER + 6]
    for _ in range(_MAX_EXTENSIONS):
        if protocol not in (_HOP_BY_HOP, _ROUTING, _DESTINATION):
            return start, protocol
        if start + 2 > size:
            break
        protocol = data[start]
        start += (data[start + 1] + 1) * 8
    return 0, 0


def is_ipv6(data: bytes) -> bool:
    return data[12] == 0x86 and data[13] == 0xDD


def fill_checksum(frame: Frame) -> Frame:
    """The frame with its sum; one that has nothing to fill in is returned as it is."""
    start = frame.checksum_start
    if not start:
        return frame
    data = frame.data
    place = start + frame.checksum_offset
    size = len(data)
    if place + 2 > size:
        return Frame(data, checksum_valid=frame.checksum_valid)
    total = 0xFFFF - ones_sum(data, start, size)
    if total == 0 and frame.checksum_offset == _UDP_SUM:
        total = 0xFFFF  # there zero means that there is none
    filled = bytearray(data)
    filled[place] = total >> 8
    filled[place + 1] = total & 0xFF
    return Frame(bytes(filled), checksum_valid=True)


def _pseudo_sum(data: bytes, ipv4: bool, length: int) -> int:
    """The sum of a TCP packet's pseudo header."""
    if ipv4:
        return ones_sum(data, ETHERNET_HEADER + 12, ETHERNET_HEADER + 20, _TCP + length)
    return ones_sum(data, ETHERNET_HEADER + 8, ETHERNET_HEADER + 40, _TCP + length)


def is_segment(data: bytes, place: int, gso: int) -> bool:
    """Whether a frame, where ``find_checksum`` has found this place, is TCP over the IP of ``gso``;
    no other can be cut."""
    return place == _TCP_SUM and is_ipv6(data) == (gso == GSO_TCPV6)


def set_pseudo_sum(data: bytes, start: int) -> bytes:
    """A large segment whose sum was complete, or anything, made one that is to be filled in."""
    total = _pseudo_sum(data, not is_ipv6(data), len(data) - start)
    return b"%b%b%b" % (
        data[: start + _TCP_SUM],
        total.to_bytes(2, "big"),
        data[start + _TCP_SUM + 2 :],
    )


def segment(frame: Frame) -> list[Frame]:
    """Cut a large TCP segment. Nothing comes of one that has not the form it says to have."""
    data = frame.data
    size = len(data)
    mss = frame.segment_size
    ipv4 = frame.gso == GSO_TCPV4
    start, place = find_checksum(data)
    if not is_segment(data, place, frame.gso) or start + _TCP_HEADER > size:
        return []
    header = start + (data[start + 12] >> 4) * 4
    if header < start + _TCP_HEADER or header > size or mss < _SMALLEST_SEGMENT:
        return []
    identification = data[ETHERNET_HEADER + 4] << 8 | data[ETHERNET_HEADER + 5]
    sequence = int.from_bytes(data[start + 4 : start + 8], "big")
    flags = data[start + 13]
    # The sums over all that the segments have in common are added once.
    head = bytearray(data[:header])
    head[start + _TCP_SUM] = head[start + _TCP_SUM + 1] = 0
    segments = []
    done = header
    while True:
        payload = data[done : done + mss]
        end = done + len(payload)
        length = header - start + len(payload)
        here = flags
        if end < size:
            here &= ~_FIN_PSH
        if done > header:
            here &= ~_CWR
        head[start + 13] = here
        _put(head, start + 4, sequence >> 16 & 0xFFFF)
        _put(head, start + 6, sequence & 0xFFFF)
        if ipv4:
            _put(head, ETHERNET_HEADER + 2, start + length - ETHERNET_HEADER)
            _put(head, ETHERNET_HEADER + 4, identification)
            _put(head, ETHERNET_HEADER + 10, 0)
            total = ones_sum(bytes(head), ETHERNET_HEADER, start)
            _put(head, ETHERNET_HEADER + 10, 0xFFFF - total)
        else:
            _put(head, ETHERNET_HEADER + 4, start + length - ETHERNET_HEADER - _IPV6_HEADER)
        copy = bytes(head)
        total = ones_sum(copy, start, header, _pseudo_sum(copy, ipv4, length))
        total = 0xFFFF - ones_sum(payload, 0, len(payload), total)
        packet = bytearray(copy + payload)
        _put(packet, start + _TCP_SUM, total)
        segments.append(Frame(bytes(packet), checksum_valid=True))
        if end >= size:
            return segments
        done = end
        sequence += mss
        identification += 1


def _put(buffer: bytearray, place: int, value: int) -> None:
    """A number of 16 bits."""
    buffer[place] = value >> 8 & 0xFF
    buffer[place + 1] = value & 0xFF


def finish(frames: list[Frame]) -> list[Frame]:
    """What is to be sent to somebody who takes complete frames only."""
    finished: list[Frame] = []
    for frame in frames:
        if frame.gso != GSO_NONE:
            finished.extend(segment(frame))
        else:
            finished.append(fill_checksum(frame))
    return finished
