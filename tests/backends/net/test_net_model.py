# SPDX-License-Identifier: GPL-2.0-or-later
"""Random packets and slots, good and bad, through a card whose link gives back what it gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from net_front_end import SLOTS, FrontEnd, Piece, TestLink, gso_extra

from pyxen.abi.io_netif import (
    NETIF_RSP_ERROR,
    NETIF_RSP_OKAY,
    NETRXF_data_validated,
    NETTXF_data_validated,
)
from pyxen.backends.net import Frame
from pyxen.testing import FakeDoors

OKAY, FAILED = NETIF_RSP_OKAY, NETIF_RSP_ERROR
DATA = 10
DATA_PAGES = 6
RX_PAGES = 48


class Loop(TestLink):
    """Frames come back at once."""

    def send(self, frames: Sequence[Frame]) -> None:
        super().send(frames)
        assert self.receive is not None
        self.receive(frames)


@dataclass(frozen=True)
class Packet:
    """``pieces`` are (page, offset, size), page DATA_PAGES one that is not granted; ``total`` is a
    size other than theirs."""

    pieces: list[tuple[int, int, int]]
    total: int | None
    validated: bool


def packets() -> st.SearchStrategy[Packet]:
    piece = st.tuples(
        st.sampled_from((0, 1, 2, 3, 4, 5, 5, 4, 3, 2, 1, 0, DATA_PAGES)),
        st.integers(0, 4095),
        st.integers(0, 4096),
    ).map(lambda p: (p[0], p[1], min(p[2], 4096 - p[1])))
    return st.builds(
        Packet,
        pieces=st.lists(piece, min_size=1, max_size=20),
        total=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 0xFFFF)),
        validated=st.booleans(),
    )


def expected(packet: Packet, pages: list[bytes]) -> bytes | None:
    """What is sent of a packet; None if it is refused. AssertionError for a broken ring."""
    sizes = [size for _, _, size in packet.pieces]
    total = sum(sizes) if packet.total is None else packet.total
    first = total - sum(sizes[1:])
    if first < 14 or len(sizes) > 19:
        return None
    pieces = [(*packet.pieces[0][:2], first), *packet.pieces[1:]]
    assert pieces[0][1] + first <= 4096
    if any(page == DATA_PAGES for page, _, _ in pieces):
        return None
    return b"".join(pages[page][offset : offset + size] for page, offset, size in pieces)


@pytest.mark.parametrize("split", [True, False])
@settings(max_examples=60, deadline=None)
@given(sent=st.lists(packets(), max_size=12), start=st.sampled_from((0, 250, 0xFFFF_FFF0)))
def test_what_is_sent_comes_back(split: bool, sent: list[Packet], start: int) -> None:
    with FakeDoors() as fake:
        front = FrontEnd(fake, Loop())
        queue = front.connect(split=split, start=start)
        pages = []
        refs = []
        for number in range(DATA_PAGES):
            pages.append(bytes([number * 2, *range(255)]) * 16)  # no address of a group
            fake.page(DATA + number)[:] = pages[-1]
            refs.append(fake.grant(DATA + number, readonly=True))
        refs.append(5)  # granted to nobody
        queue.refill(RX_PAGES)
        for packet in sent:
            pieces: list[Piece] = [(refs[page], *place) for page, *place in packet.pieces]
            flags = NETTXF_data_validated if packet.validated else 0
            total = sum(size for _, _, size in pieces) if packet.total is None else packet.total
            count = queue.packet(pieces, flags, total=total & 0xFFFF)
            if total > 0xFFFF:
                packet = Packet(packet.pieces, total & 0xFFFF, packet.validated)
            try:
                data = expected(packet, pages)
            except AssertionError:
                front.send()
                assert front.state == 5
                break
            assert front.send() == [FAILED if data is None else OKAY] * count, packet
            got = queue.received()
            assert [frame.data for frame in got] == ([] if data is None else [data])
            assert all(
                bool(frame.flags & NETRXF_data_validated) == packet.validated for frame in got
            )
            queue.refill(sum(frame.slots for frame in got))
        front.end()
        assert fake.leaks() == []


@settings(max_examples=100, deadline=None)
@given(
    slots=st.lists(st.binary(min_size=12, max_size=12), max_size=40),
    empty=st.lists(st.binary(min_size=8, max_size=8), max_size=40),
    words=st.lists(
        st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 0xFFFF_FFFF)), max_size=4
    ),
)
def test_noise_in_the_rings_ends_in_answers_or_in_the_end_of_the_card(
    slots: list[bytes], empty: list[bytes], words: list[tuple[bool, int, int]]
) -> None:
    with FakeDoors() as fake:
        front = FrontEnd(fake, TestLink(takes_unfinished=False))
        queue = front.connect()
        ref = front.fill(bytes(4096))[0][0]
        for number, slot in enumerate(slots):
            # Half of them such that something can come of them.
            if number % 2:
                slot = ref.to_bytes(4, "little") + slot[4:5] + b"\0" + slot[6:7] + b"\0" + slot[8:]
            queue.tx.put(slot)
        queue.tx.show()
        for slot in empty:
            queue.rx.put(slot)
        queue.rx.show()
        fake.run()
        assert len(queue.tx.take(4)) == len(slots) or front.state == 5
        for size in (60, 5000):
            if front.link.receive is not None:
                front.receive(Frame(bytes(size)))
        for tx, index, value in words:
            ring = queue.tx if tx else queue.rx
            ring.words[index] = value
            fake.notify(ring.port)
            fake.run()
        assert front.state in (4, 5)
        front.end()
        assert fake.leaks() == []


@given(
    kind=st.integers(0, 255), size=st.integers(0, 0xFFFF), noise=st.binary(min_size=14, max_size=90)
)
@settings(max_examples=100, deadline=None)
def test_noise_that_is_to_be_finished(kind: int, size: int, noise: bytes) -> None:
    with FakeDoors() as fake:
        front = FrontEnd(fake, TestLink(takes_unfinished=False))
        queue = front.connect()
        for protocol in (b"\x08\x00\x45", b"\x86\xdd\x60"):
            data = bytes(12) + protocol + noise
            queue.packet(front.fill(data), 1, [gso_extra(1 + kind % 2, size or 1)])
            (status,) = set(front.send())
            assert status in (OKAY, FAILED)
            assert len(queue.ids) <= SLOTS
        assert front.state == 4
        front.end()
        assert fake.leaks() == []
