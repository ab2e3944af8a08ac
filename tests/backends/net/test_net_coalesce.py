# SPDX-License-Identifier: GPL-2.0-or-later
"""Packets that follow each other are made one, and nothing is lost by it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from net_front_end import ip_frame, is_complete

from pyxen.backends.net.coalesce import coalesce
from pyxen.backends.net.link import GSO_NONE, GSO_TCPV4, GSO_TCPV6, Frame
from pyxen.backends.net.offload import finish

ACK, PSH, FIN = 0x10, 0x08, 0x01
TIMESTAMPS = b"\x01\x01\x08\x0a" + bytes(8)


def packets(payload: bytes, mss: int, version: int = 4, **fields: object) -> list[Frame]:
    data = ip_frame(payload, version=version, blank=True, **fields)  # type: ignore[arg-type]
    gso, start = (GSO_TCPV4, 34) if version == 4 else (GSO_TCPV6, 54)
    return finish([Frame(data, start, 16, True, gso, mss)])


@settings(deadline=None)
@given(
    size=st.integers(1, 20000),
    mss=st.integers(8, 3000),
    version=st.sampled_from((4, 6)),
    flags=st.sampled_from((ACK, ACK | PSH)),
    sequence=st.sampled_from((0, 0xFFFF_F000)),
    options=st.sampled_from((b"", TIMESTAMPS)),
)
def test_what_was_cut_is_whole_again(
    size: int, mss: int, version: int, flags: int, sequence: int, options: bytes
) -> None:
    payload = (bytes(range(256)) * 80)[:size]
    fields = {"flags": flags, "sequence": sequence, "options": options}
    cut = packets(payload, mss, version, **fields)
    whole = coalesce(cut, True, True)
    if size <= mss:
        assert whole == cut
        return
    data = ip_frame(payload, version=version, blank=True, **fields)  # type: ignore[arg-type]
    gso, start = (GSO_TCPV4, 34) if version == 4 else (GSO_TCPV6, 54)
    assert whole == [Frame(data, start, 16, True, gso, mss)]


def test_no_larger_than_a_packet_can_be() -> None:
    first = packets(bytes(60000), 1000, sequence=0)
    second = packets(bytes(60000), 1000, sequence=60000, flags=ACK)
    first[-1] = Frame(ip_frame(bytes(1000), sequence=59000, flags=ACK), checksum_valid=True)
    whole = coalesce([*first, *second], True, True)
    assert len(whole) == 2
    assert all(len(frame.data) <= 65535 for frame in whole)
    assert sum(len(frame.data) - 54 for frame in whole) == 120000


def test_only_what_the_front_end_takes() -> None:
    four, six = packets(bytes(3000), 1000), packets(bytes(3000), 1000, version=6)
    assert len(coalesce(four + six, True, True)) == 2
    assert len(coalesce(four + six, True, False)) == 4
    assert len(coalesce(four + six, False, True)) == 4
    assert coalesce(four + six, False, False) == four + six


def one(sequence: int, size: int = 100, **fields: object) -> Frame:
    data = ip_frame(bytes(size), sequence=sequence, **{"flags": ACK, **fields})  # type: ignore[arg-type]
    return Frame(data, checksum_valid=True)


@pytest.mark.parametrize(
    "second",
    [
        one(101),  # a gap
        one(0),  # the same again
        one(100, size=101),  # larger than the first
        one(100, size=0),
        one(100, flags=ACK | FIN),
        one(100, flags=ACK | 0x40),  # ECN
        one(100, ports=(1000, 2001)),
        one(100, options=TIMESTAMPS),
        one(100, version=6),
        one(100, protocol=17),
        Frame(one(100).data),  # nobody has looked at its sum
        Frame(one(100).data + bytes(6), checksum_valid=True),  # with bytes behind it
        Frame(one(100).data[:22] + b"\x3f" + one(100).data[23:], checksum_valid=True),  # other TTL
        Frame(b"\x02" + one(100).data[1:], checksum_valid=True),  # to somebody else
    ],
)
def test_what_is_not_merged(second: Frame) -> None:
    first = one(0)
    assert coalesce([first, second], True, True) == [first, second]


def test_nothing_behind_the_end_of_a_message() -> None:
    pushed, short = one(100, flags=ACK | PSH), one(100, size=50)
    for last in (pushed, short):
        size = len(last.data) - 54
        merged = coalesce([one(0), last, one(100 + size)], True, True)
        assert [len(frame.data) - 54 for frame in merged] == [100 + size, 100]


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from((40, 100))), max_size=30))
def test_any_mixture_comes_out_as_it_went_in(mixture: list[tuple[int, int]]) -> None:
    """Cut again, each connection's packets are the same, in the same order."""
    following = [0] * 4
    frames = []
    for connection, size in mixture:
        ports = (connection, 80)
        frames.append(one(following[connection], size=size, ports=ports))
        following[connection] += size
    again = finish(coalesce(frames, True, True))
    assert all(is_complete(frame.data) and frame.gso == GSO_NONE for frame in again)

    def seen(all_of: list[Frame]) -> list[bytes]:
        """Without identification and the sum of the header, which are counted anew."""
        return [frame.data[:18] + frame.data[20:24] + frame.data[26:] for frame in all_of]

    assert seen(again) == seen(frames)
