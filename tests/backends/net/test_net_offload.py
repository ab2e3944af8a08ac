# SPDX-License-Identifier: GPL-2.0-or-later
"""Checksums and segmentation in software, against the plainest way to do them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from net_front_end import ip_frame, is_complete, ones_complement

from pyxen.backends.net.link import GSO_TCPV4, GSO_TCPV6, Frame
from pyxen.backends.net.offload import fill_checksum, find_checksum, finish, ones_sum, segment

FIN, PSH, CWR, ACK = 0x01, 0x08, 0x80, 0x10
TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(8)


@settings(deadline=None)
@given(data=st.binary(max_size=200), start=st.integers(0, 40), total=st.integers(0, 0xFFFF))
def test_the_sum(data: bytes, start: int, total: int) -> None:
    start = min(start, len(data))
    found = ones_sum(data, start, len(data), total)
    expected = ones_complement(data[start:]) + total
    assert found <= 0xFFFF
    assert found % 0xFFFF == expected % 0xFFFF
    assert (found == 0) == (expected == 0)


def test_the_sum_of_much() -> None:
    assert ones_sum(b"\xff" * 65535, 0, 65535) == ones_complement(b"\xff" * 65535)
    assert ones_sum(b"\xff" * 65535, 34, 65535, 0xFFFF) == ones_complement(b"\xff" * 65501)


def test_where_it_is() -> None:
    assert find_checksum(ip_frame(b"")) == (34, 16)
    assert find_checksum(ip_frame(b"", protocol=17)) == (34, 6)
    assert find_checksum(ip_frame(b"", version=6)) == (54, 16)
    assert find_checksum(ip_frame(b"", version=6, protocol=17)) == (54, 6)


def test_behind_options() -> None:
    frame = ip_frame(bytes(100))
    frame = frame[:14] + b"\x46" + frame[15:34] + bytes(4) + frame[34:]
    assert find_checksum(frame) == (38, 16)


def test_behind_extension_headers() -> None:
    frame = ip_frame(b"", version=6)
    hop_by_hop = bytes([43, 0]) + bytes(6)
    routing = bytes([60, 1]) + bytes(14)
    destination = bytes([6, 0]) + bytes(6)
    longer = frame[:20] + b"\0" + frame[21:54] + hop_by_hop + routing + destination + frame[54:]
    assert find_checksum(longer) == (54 + 8 + 16 + 8, 16)
    for cut in range(34, len(longer) - 2):
        assert find_checksum(longer[:cut]) == (0, 0)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (12, b"\x81\x00"),  # tagged
        (12, b"\x08\x06"),  # ARP
        (14, b"\x55"),  # not IPv4 in an IPv4 packet
        (14, b"\x44"),  # a header of 16 bytes
        (20, b"\x20\x00"),  # the first fragment
        (20, b"\x00\x01"),  # a later one
        (23, b"\x01"),  # ICMP
    ],
)
def test_what_has_none(place: int, value: bytes) -> None:
    frame = ip_frame(bytes(100))
    frame = frame[:place] + value + frame[place + len(value) :]
    assert find_checksum(frame) == (0, 0)


def test_extension_headers_without_end() -> None:
    frame = ip_frame(b"", version=6)
    assert find_checksum(frame[:20] + b"\0" + frame[21:54] + bytes(1000)) == (0, 0)


@settings(deadline=None)
@given(st.binary(max_size=120))
def test_noise_has_a_sum_within_it_or_none(noise: bytes) -> None:
    for kind in (b"\x08\x00E", b"\x86\xdd`", b""):
        data = bytes(12) + kind + noise
        start, place = find_checksum(data)
        assert start == 0 or 34 <= start <= start + place + 2 <= len(data)
        for gso in (GSO_TCPV4, GSO_TCPV6):
            for each in segment(Frame(data, start, place, True, gso, 20)):
                assert len(each.data) <= len(data)


def test_zero_is_written_as_all_ones() -> None:
    """To UDP zero means that there is no sum."""
    for number in range(0x10000):
        payload = number.to_bytes(2, "big")
        frame = ip_frame(payload, protocol=17, blank=True)
        if ones_complement(frame[34:]) == 0xFFFF:
            break
    else:
        pytest.fail("there is none")
    filled = fill_checksum(Frame(frame, 34, 6, True))
    assert filled.data[40:42] == b"\xff\xff"
    assert is_complete(filled.data)


def test_a_place_beyond_the_frame() -> None:
    assert fill_checksum(Frame(bytes(60), 58, 6, True)) == Frame(bytes(60), checksum_valid=True)


@settings(deadline=None)
@given(
    size=st.integers(0, 9000),
    mss=st.integers(8, 3000),
    version=st.sampled_from((4, 6)),
    flags=st.sampled_from((ACK, ACK | PSH, ACK | PSH | FIN | CWR)),
    sequence=st.sampled_from((0, 0xFFFF_F000)),
    options=st.sampled_from((b"", TIMESTAMPS)),
)
def test_segments(
    size: int, mss: int, version: int, flags: int, sequence: int, options: bytes
) -> None:
    payload = (bytes(range(256)) * 40)[:size]
    fields = {"version": version, "sequence": sequence, "options": options}
    data = ip_frame(payload, flags=flags, blank=True, **fields)
    tcp = 34 if version == 4 else 54
    header = tcp + 20 + len(options)
    gso = GSO_TCPV4 if version == 4 else GSO_TCPV6
    cut = finish([Frame(data, tcp, 16, True, gso, mss)])
    assert len(cut) == max(1, -(-size // mss))
    for number, frame in enumerate(cut):
        first, last = number == 0, number == len(cut) - 1
        here = flags & ~(0 if last else FIN | PSH) & ~(0 if first else CWR)
        part = payload[number * mss : (number + 1) * mss]
        expected = bytearray(
            ip_frame(
                part,
                flags=here,
                version=version,
                sequence=(sequence + number * mss) & 0xFFFF_FFFF,
                options=options,
            )
        )
        if version == 4:
            expected[18:20] = (5 + number).to_bytes(2, "big")
            expected[24:26] = frame.data[24:26]
        assert frame.data == bytes(expected)
        assert frame.data[header:] == part
        assert is_complete(frame.data)
        assert (frame.checksum_start, frame.gso, frame.checksum_valid) == (0, 0, True)


@pytest.mark.parametrize("mss", [0, 7])
def test_segments_too_small(mss: int) -> None:
    assert segment(Frame(ip_frame(bytes(1000), blank=True), 34, 16, True, GSO_TCPV4, mss)) == []


def test_a_header_that_ends_beyond_the_frame() -> None:
    data = bytearray(ip_frame(bytes(10), blank=True))
    for length in (0x40, 0xF0):
        data[46] = length
        assert segment(Frame(bytes(data), 34, 16, True, GSO_TCPV4, 100)) == []
