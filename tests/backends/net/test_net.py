# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end of network cards: what a front end may ask for, and what comes of it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from net_front_end import (
    BACKEND,
    FRONTEND,
    MASK,
    PAGE,
    FrontEnd,
    FrontQueue,
    Received,
    TestLink,
    gso_extra,
    ip_frame,
    is_complete,
    multicast_extra,
)

from pyxen.abi.io_netif import (
    NETIF_RSP_ERROR,
    NETIF_RSP_OKAY,
    XEN_NETIF_EXTRA_TYPE_MCAST_ADD,
    XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
    XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6,
    NETRXF_csum_blank,
    NETRXF_data_validated,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    NETTXF_extra_info,
    NETTXF_more_data,
)
from pyxen.backends.allowance import Allowance
from pyxen.backends.net import Frame
from pyxen.backends.net.link import GSO_TCPV4, GSO_TCPV6
from pyxen.backends.net.multicast import MAX_ADDRESSES
from pyxen.backends.net.receive import MAX_WAITING, ROUND
from pyxen.testing import FakeDoors

OKAY, FAILED = NETIF_RSP_OKAY, NETIF_RSP_ERROR
BLANK = NETTXF_csum_blank | NETTXF_data_validated
TCPV4, TCPV6 = XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6
ADD, DEL = XEN_NETIF_EXTRA_TYPE_MCAST_ADD, XEN_NETIF_EXTRA_TYPE_MCAST_DEL
GROUP = b"\x33\x33\x00\x00\x00\x01"
NOISE = bytes(range(256)) * 300


@pytest.fixture
def fake() -> Iterator[FakeDoors]:
    with FakeDoors() as fake:
        yield fake


@pytest.fixture
def front(fake: FakeDoors) -> FrontEnd:
    return FrontEnd(fake)


def plain(size: int, start: int = 0) -> bytes:
    """A frame of no known protocol."""
    return b"\x00\x16\x3e\x00\x00\x01\x00\x16\x3e\x00\x00\x02\x88\xb5" + NOISE[start:][: size - 14]


class TestOffer:
    def test_what_it_can(self, fake: FakeDoors, front: FrontEnd) -> None:
        assert front.state == 2
        assert {name: front.read(name) for name in fake.store.directory(BACKEND)} == {
            "state": "2",
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
            "multi-queue-max-queues": "4",
        }
        front.connect()
        assert front.state == 4
        assert front.read("carrier") == "1"

    def test_copies_are_the_only_way(self, front: FrontEnd) -> None:
        front.connect(request_rx_copy=0)
        assert front.state == 5
        assert "request-rx-copy" in front.error

    def test_a_link_that_cannot_be_opened_closes_the_card(
        self, fake: FakeDoors, front: FrontEnd
    ) -> None:
        front.link.refusal = "no such tap device"
        front.connect()
        assert front.state == 5
        assert front.error == "no such tap device"
        assert front.link.receive is None
        front.end()
        assert fake.leaks() == []

    @pytest.mark.parametrize(("queues", "split"), [(1, True), (1, False), (4, True), (3, False)])
    def test_nothing_is_left_at_the_end(
        self, fake: FakeDoors, front: FrontEnd, queues: int, split: bool
    ) -> None:
        front.connect(queues, split)
        assert front.state == 4
        assert len(fake.domain.events.back_end_ports) == queues * (1 + split)
        front.end()
        assert fake.leaks() == []
        assert front.link.receive is None
        assert front.link.released == 1

    def test_more_queues_than_there_are(self, front: FrontEnd) -> None:
        front.connect(5)
        assert front.state == 5

    def test_a_front_end_begins_anew(self, fake: FakeDoors, front: FrontEnd) -> None:
        front.connect()
        front.queues[0].packet(front.fill(plain(100)))
        assert front.send() == [OKAY]
        front.write({"state": 6})
        fake.run()
        assert front.link.receive is None
        front.write({"state": 1})
        fake.run()
        front.connect(start=MASK)
        front.queues[0].packet(front.fill(plain(60)))
        assert front.send() == [OKAY]
        assert [len(frame.data) for frame in front.link.sent] == [100, 60]
        assert front.backend.statistics()["tx_packets"] == 2


class TestTransmit:
    @pytest.mark.parametrize("split", [True, False])
    def test_a_frame(self, front: FrontEnd, split: bool) -> None:
        queue = front.connect(split=split)
        queue.packet(front.fill(plain(777)))
        assert front.send() == [OKAY]
        assert front.link.sent == [Frame(plain(777))]

    def test_pieces(self, fake: FakeDoors, front: FrontEnd) -> None:
        """The size of the first is what the others leave of the whole."""
        queue = front.connect()
        fake.page(10)[100:120] = plain(20)
        fake.page(11)[4090:] = b"abcdef"
        fake.page(12)[:3] = b"xyz"
        refs = [fake.grant(page) for page in (10, 11, 12)]
        queue.packet([(refs[0], 100, 20), (refs[1], 4090, 6), (refs[2], 0, 3)])
        assert front.send() == [OKAY] * 3
        assert front.link.sent[0].data == plain(20) + b"abcdefxyz"

    def test_the_largest(self, front: FrontEnd) -> None:
        queue = front.connect()
        assert queue.packet(front.fill(plain(65535))) == 16
        assert front.send() == [OKAY] * 16
        assert front.link.sent[0].data == plain(65535)

    def test_many_at_once_go_to_the_link_at_once(self, front: FrontEnd) -> None:
        queue = front.connect(start=MASK - 100)
        pieces = front.fill(plain(60))
        for _ in range(256):
            queue.packet(pieces)
        assert front.send() == [OKAY] * 256
        assert front.link.batches == [256]
        for _ in range(10):
            queue.packet(pieces)
        assert front.send() == [OKAY] * 10

    @pytest.mark.parametrize("version", [4, 6])
    @pytest.mark.parametrize("protocol", [6, 17])
    def test_checksums_are_filled_in_for_a_link_that_wants_them(
        self, fake: FakeDoors, version: int, protocol: int
    ) -> None:
        front = FrontEnd(fake, TestLink(takes_unfinished=False))
        queue = front.connect()
        options = {"version": version, "protocol": protocol}
        for payload in (b"", b"odd", b"even" * 300):
            queue.packet(front.fill(ip_frame(payload, blank=True, **options)), BLANK)
            front.send()
            frame = front.link.sent.pop()
            assert frame.data == ip_frame(payload, **options)
            assert frame.checksum_start == 0
            assert frame.checksum_valid
            assert is_complete(frame.data)

    @pytest.mark.parametrize("version", [4, 6])
    def test_others_get_them_as_they_are(self, front: FrontEnd, version: int) -> None:
        queue = front.connect()
        data = ip_frame(b"payload", version=version, blank=True)
        queue.packet(front.fill(data), BLANK)
        front.send()
        start = 34 if version == 4 else 54
        assert front.link.sent == [Frame(data, start, 16, True)]

    @pytest.mark.parametrize("version", [4, 6])
    @pytest.mark.parametrize("blank", [True, False])
    def test_a_large_segment(self, front: FrontEnd, version: int, blank: bool) -> None:
        """One whose sum is complete gets that of its pseudo header again."""
        queue = front.connect()
        kind, extra = (GSO_TCPV4, TCPV4) if version == 4 else (GSO_TCPV6, TCPV6)
        data = ip_frame(NOISE[:40000], version=version, blank=blank)
        queue.packet(front.fill(data), BLANK if blank else 0, [gso_extra(extra, 1400)])
        assert set(front.send()) == {OKAY}
        start = 34 if version == 4 else 54
        expected = ip_frame(NOISE[:40000], version=version, blank=True)
        assert front.link.sent == [Frame(expected, start, 16, True, kind, 1400)]

    @pytest.mark.parametrize("version", [4, 6])
    def test_it_is_cut_for_a_link_that_wants_that(self, fake: FakeDoors, version: int) -> None:
        front = FrontEnd(fake, TestLink(takes_unfinished=False))
        queue = front.connect()
        data = ip_frame(NOISE[:10000], version=version, blank=True)
        queue.packet(front.fill(data), BLANK, [gso_extra(TCPV4 if version == 4 else TCPV6, 1448)])
        front.send()
        header = len(data) - 10000
        assert [len(f.data) - header for f in front.link.sent] == [1448] * 6 + [10000 - 6 * 1448]
        assert all(is_complete(frame.data) for frame in front.link.sent)
        assert b"".join(frame.data[header:] for frame in front.link.sent) == NOISE[:10000]

    def test_validated(self, front: FrontEnd) -> None:
        queue = front.connect()
        queue.packet(front.fill(plain(60)), NETTXF_data_validated)
        front.send()
        assert front.link.sent == [Frame(plain(60), checksum_valid=True)]


class TestRefusals:
    """A packet that cannot be sent gets an error in each slot, and the next one is sent."""

    def sends_on(self, front: FrontEnd, queue: FrontQueue) -> None:
        assert front.state == 4
        assert front.link.sent == []
        queue.packet(front.fill(plain(64), page=60))
        assert front.send() == [OKAY]
        assert front.link.sent == [Frame(plain(64))]
        front.end()
        assert front.fake.leaks() == []

    def test_a_grant_that_is_none(self, front: FrontEnd) -> None:
        queue = front.connect()
        good = front.fill(plain(50))[0]
        queue.packet([good, (3, 0, 10), good])
        queue.packet([(0xFFFF_FFFF, 0, 50)])
        assert front.send() == [FAILED] * 4
        assert front.backend.statistics()["tx_refused"] == 2
        self.sends_on(front, queue)

    def test_a_grant_to_somebody_else(self, fake: FakeDoors, front: FrontEnd) -> None:
        queue = front.connect()
        queue.packet([(fake.grant(10, domid=7), 0, 50)])
        assert front.send() == [FAILED]
        self.sends_on(front, queue)

    @pytest.mark.parametrize("size", [0, 13])
    def test_too_short(self, front: FrontEnd, size: int) -> None:
        queue = front.connect()
        queue.packet([(front.fill(plain(50))[0][0], 0, size)])
        assert front.send() == [FAILED]
        self.sends_on(front, queue)

    def test_pieces_larger_than_the_whole(self, front: FrontEnd) -> None:
        queue = front.connect()
        queue.packet(front.fill(plain(9000)), total=4000)
        assert front.send() == [FAILED] * 3
        self.sends_on(front, queue)

    def test_too_many_pieces(self, front: FrontEnd) -> None:
        queue = front.connect()
        ref = front.fill(plain(50))[0][0]
        queue.packet([(ref, 0, 14)] + [(ref, 0, 1)] * 18)
        assert set(front.send()) == {OKAY}
        front.link.sent.clear()
        queue.packet([(ref, 0, 14)] + [(ref, 0, 1)] * 19)
        assert front.send() == [FAILED] * 20
        self.sends_on(front, queue)

    @pytest.mark.parametrize(
        "data", [plain(60), ip_frame(b"", protocol=17)[:30] + bytes(30), ip_frame(b"")[:40]]
    )
    def test_a_checksum_in_what_has_none(self, front: FrontEnd, data: bytes) -> None:
        queue = front.connect()
        if data[12:14] == b"\x08\x00" and len(data) == 60:
            data = data[:23] + b"\x01" + data[24:]  # ICMP
        queue.packet(front.fill(data), BLANK)
        assert front.send() == [FAILED]
        self.sends_on(front, queue)

    def test_segmentation_of_what_is_no_such_segment(self, front: FrontEnd) -> None:
        queue = front.connect()
        for data, kind in (
            (ip_frame(b"", protocol=17), TCPV4),
            (ip_frame(b"", version=6), TCPV4),
            (ip_frame(b""), TCPV6),
        ):
            queue.packet(front.fill(data), BLANK, [gso_extra(kind, 1400)])
            assert front.send() == [FAILED]
        self.sends_on(front, queue)


class TestBrokenRings:
    """What no front end does that is in its right mind closes the card, with a message."""

    def closes(self, front: FrontEnd, message: str) -> None:
        front.queues[0].tx.show()
        front.fake.run()
        assert front.state == 5
        assert message in front.error
        assert front.link.receive is None
        assert front.fake.domain.events.back_end_ports == {}
        front.end()
        assert front.fake.leaks() == []

    @pytest.mark.parametrize("ahead", [257, 0x8000_0000, MASK])
    @pytest.mark.parametrize("ring", ["tx", "rx"])
    def test_an_index_that_runs_away(self, front: FrontEnd, ring: str, ahead: int) -> None:
        queue = front.connect()
        which = getattr(queue, ring)
        which.words[0] = ahead
        if ring == "rx":
            front.receive(Frame(plain(60)))
        else:
            front.fake.notify(which.port)
        front.fake.run()
        assert front.state == 5
        assert "index" in front.error
        front.end()
        assert front.fake.leaks() == []

    @pytest.mark.parametrize("ring", ["tx", "rx"])
    def test_one_from_the_start(self, fake: FakeDoors, front: FrontEnd, ring: str) -> None:
        queue = front.connect()
        front.write({"state": 6})
        fake.run()
        front.write({"state": 1})
        fake.run()
        getattr(queue, ring).words[0] = 300
        front.write({"state": 4})
        fake.run()
        assert front.state == 5
        front.end()
        assert fake.leaks() == []

    def test_the_end_of_a_packet_is_missing(self, front: FrontEnd) -> None:
        queue = front.connect()
        queue._request(front.fill(plain(60))[0][0], 0, NETTXF_more_data, 60)
        self.closes(front, "not whole")

    def test_an_extra_info_is_missing(self, front: FrontEnd) -> None:
        queue = front.connect()
        queue._request(front.fill(plain(60))[0][0], 0, NETTXF_extra_info, 60)
        self.closes(front, "not whole")

    def test_extra_infos_without_end(self, front: FrontEnd) -> None:
        queue = front.connect()
        queue.packet(front.fill(plain(60)), 0, [gso_extra(TCPV4, 1)] * 255)
        queue.tx.page[64 + 255 * 12 + 1] |= 1
        self.closes(front, "not whole")

    def test_pieces_without_end(self, front: FrontEnd) -> None:
        queue = front.connect()
        ref = front.fill(plain(60))[0][0]
        queue.packet([(ref, 0, 14)] + [(ref, 0, 1)] * 21)
        self.closes(front, "pieces")

    @pytest.mark.parametrize("extra", [bytes(8), b"\x05" + bytes(7), b"\xff" * 8])
    def test_an_extra_info_of_no_known_type(self, front: FrontEnd, extra: bytes) -> None:
        queue = front.connect()
        queue.packet(front.fill(plain(60)), 0, [extra])
        self.closes(front, "extra info of type")

    @pytest.mark.parametrize(("kind", "size"), [(0, 1400), (3, 1400), (TCPV4, 0)])
    def test_a_segmentation_that_is_none(self, front: FrontEnd, kind: int, size: int) -> None:
        queue = front.connect()
        queue.packet(front.fill(ip_frame(b"")), BLANK, [gso_extra(kind, size)])
        self.closes(front, "GSO")

    @pytest.mark.parametrize("place", [(0, 4097), (4090, 100), (0xFFFF, 14)])
    def test_a_piece_beyond_its_page(self, front: FrontEnd, place: tuple[int, int]) -> None:
        queue = front.connect()
        ref = front.fill(plain(60))[0][0]
        queue.packet([(ref, *place)])
        self.closes(front, "of its page")

    def test_a_second_piece_beyond_its_page(self, front: FrontEnd) -> None:
        queue = front.connect()
        ref = front.fill(plain(60))[0][0]
        queue.packet([(ref, 0, 60), (ref, 4000, 100)])
        self.closes(front, "of its page")

    def test_what_was_taken_before_is_not_lost(self, front: FrontEnd) -> None:
        """The front end may begin anew."""
        queue = front.connect()
        queue.tx.words[0] = 1000
        front.fake.notify(queue.tx.port)
        front.fake.run()
        assert front.state == 5
        front.write({"state": 6})
        front.fake.run()
        front.write({"state": 1})
        front.fake.run()
        queue = front.connect()
        queue.packet(front.fill(plain(60)))
        assert front.send() == [OKAY]


class TestEvents:
    def test_none_for_answers_that_the_front_end_has_seen(
        self, fake: FakeDoors, front: FrontEnd
    ) -> None:
        queue = front.connect()
        pieces = front.fill(plain(60))
        for _ in range(3):
            queue.packet(pieces)
            assert front.send() == [OKAY]
        time.sleep(0.02)
        fake.run()
        assert not fake.take_event(queue.tx.port)
        queue.packet(pieces)
        queue.tx.show()
        fake.run(until=lambda: fake.take_event(queue.tx.port))
        assert queue.statuses() == [OKAY]

    def test_many_packets_need_few(self, fake: FakeDoors, front: FrontEnd) -> None:
        """The ring is looked at without events while there are many; then they are asked for."""
        queue = front.connect()
        pieces = front.fill(plain(60))
        sent = 0
        before = front.backend.statistics()["tx_events"]
        for _ in range(20):
            for _ in range(10):
                queue.packet(pieces)
                queue.tx.show()
                sent += 1
            fake.run(until=lambda total=sent: len(front.link.sent) == total)
            queue.statuses()
        assert front.backend.statistics()["tx_events"] - before < sent // 2
        time.sleep(0.02)
        fake.run()
        time.sleep(0.02)
        fake.run()
        queue.packet(pieces)
        assert front.send() == [OKAY]


class TestReceive:
    @pytest.mark.parametrize("split", [True, False])
    def test_a_frame(self, fake: FakeDoors, front: FrontEnd, split: bool) -> None:
        queue = front.connect(split=split)
        queue.refill(64)
        fake.run()
        fake.take_event(queue.rx.port)
        assert front.receive(Frame(plain(1514)))
        assert fake.take_event(queue.rx.port)
        (frame,) = queue.received()
        assert frame.data == plain(1514)
        assert (frame.flags, frame.slots, frame.gso) == (0, 1, None)

    @pytest.mark.parametrize("size", [14, 4096, 4097, 65535])
    def test_sizes(self, front: FrontEnd, size: int) -> None:
        queue = front.connect()
        queue.refill(64)
        front.receive(Frame(plain(size)), Frame(plain(60, start=5)))
        first, second = queue.received()
        assert first.data == plain(size)
        assert first.slots == -(-size // PAGE)
        assert second.data == plain(60, start=5)

    @pytest.mark.parametrize("size", [0, 13, 65536])
    def test_sizes_that_no_frame_has(self, front: FrontEnd, size: int) -> None:
        queue = front.connect()
        queue.refill(64)
        assert front.receive(Frame(NOISE[:size]))
        assert queue.received() == []
        assert front.state == 4

    def test_checksums(self, front: FrontEnd) -> None:
        queue = front.connect()
        queue.refill(64)
        blank = ip_frame(b"hello", blank=True)
        front.receive(
            Frame(ip_frame(b"hello")),
            Frame(ip_frame(b"hello"), checksum_valid=True),
            Frame(blank, 34, 16, True),
        )
        one, two, three = queue.received()
        assert [one.flags, two.flags] == [0, NETRXF_data_validated]
        assert three.flags == NETRXF_data_validated | NETRXF_csum_blank
        assert three.data == blank

    @pytest.mark.parametrize("version", [4, 6])
    def test_they_are_filled_in_for_front_ends_that_want_them(
        self, front: FrontEnd, version: int
    ) -> None:
        queue = front.connect(feature_no_csum_offload=1, feature_ipv6_csum_offload=0)
        queue.refill(64)
        start = 34 if version == 4 else 54
        front.receive(Frame(ip_frame(b"hello", version=version, blank=True), start, 16, True))
        (frame,) = queue.received()
        assert frame.flags == NETRXF_data_validated
        assert is_complete(frame.data)

    @pytest.mark.parametrize("version", [4, 6])
    def test_a_large_segment(self, front: FrontEnd, version: int) -> None:
        queue = front.connect()
        queue.refill(64)
        data = ip_frame(NOISE[:60000], version=version, blank=True)
        kind = GSO_TCPV4 if version == 4 else GSO_TCPV6
        front.receive(Frame(data, 34 if version == 4 else 54, 16, True, kind, 1448))
        (frame,) = queue.received()
        assert frame.data == data
        assert frame.gso == (TCPV4 if version == 4 else TCPV6, 1448)
        assert frame.slots == -(-len(data) // PAGE) + 1

    @pytest.mark.parametrize("features", [{"feature_gso_tcpv4": 0}, {"feature_sg": 0}])
    def test_it_is_cut_for_front_ends_that_want_that(
        self, front: FrontEnd, features: dict[str, int]
    ) -> None:
        queue = front.connect(**features)
        queue.refill(64)
        data = ip_frame(NOISE[:9000], blank=True)
        front.receive(Frame(data, 34, 16, True, GSO_TCPV4, 1448))
        frames = queue.received()
        assert b"".join(frame.data[54:] for frame in frames) == NOISE[:9000]
        assert all(is_complete(frame.data) and frame.slots == 1 for frame in frames)

    def test_without_scatter_gather_a_frame_has_one_slot(self, front: FrontEnd) -> None:
        queue = front.connect(feature_sg=0)
        queue.refill(64)
        front.receive(Frame(plain(4097)), Frame(plain(4096)))
        assert [len(frame.data) for frame in queue.received()] == [4096]
        assert front.backend.statistics()["rx_dropped"] == 1

    def test_frames_wait_for_slots(self, fake: FakeDoors, front: FrontEnd) -> None:
        queue = front.connect()
        queue.refill(2)
        front.receive(*[Frame(plain(60, start=n)) for n in range(5)], Frame(plain(9000)))
        assert [frame.data for frame in queue.received()] == [plain(60), plain(60, start=1)]
        queue.refill(4, first_page=102)
        got: list[Received] = []
        fake.run(until=lambda: got.extend(queue.received()) or got)
        assert [frame.data for frame in got] == [plain(60, start=n) for n in (2, 3, 4)]
        queue.refill(1, first_page=106)
        time.sleep(0.02)
        fake.run()
        assert queue.received() == []
        got.clear()
        queue.refill(1, first_page=107)
        fake.run(until=lambda: got.extend(queue.received()) or got)
        assert [frame.data for frame in got] == [plain(9000)]

    def test_not_too_many_come_at_once(self, fake: FakeDoors, front: FrontEnd) -> None:
        """Only after the front end has looked at the ring, or after a while."""
        queue = front.connect()
        queue.refill(200)
        front.receive(*[Frame(plain(60, start=n)) for n in range(100)])
        assert len(queue.received()) == ROUND // 2
        queue.refill(1, first_page=300)
        got: list[Received] = []
        fake.run(until=lambda: got.extend(queue.received()) or len(got) >= ROUND // 2)
        assert len(got) == ROUND // 2
        fake.run(until=lambda: got.extend(queue.received()) or len(got) >= 100 - ROUND // 2)
        assert [frame.data for frame in got] == [plain(60, start=n) for n in range(ROUND // 2, 100)]

    def test_a_front_end_that_does_not_tell_of_slots(
        self, fake: FakeDoors, front: FrontEnd
    ) -> None:
        queue = front.connect(feature_rx_notify=0)
        front.receive(Frame(plain(60)))
        queue.rx.words[1] = 0x4000_0000  # no event will come
        queue.refill(1)
        found: list[object] = []
        fake.run(until=lambda: found.extend(queue.received()) or found)

    def test_a_link_is_held_back_and_goes_on(self, fake: FakeDoors, front: FrontEnd) -> None:
        queue = front.connect()
        frames = [Frame(plain(60000, start=n)) for n in range(9)]
        results = [front.receive(frame) for frame in frames]
        assert results == [True] * 8 + [False]
        assert front.link.resumed == 0
        got: list[Received] = []
        for _ in frames:
            queue.refill(15)
            done = len(got)
            fake.run(until=lambda done=done: got.extend(queue.received()) or len(got) > done)
        assert [frame.data for frame in got] == [frame.data for frame in frames]
        assert front.link.resumed == 1

    def test_what_waits_is_bounded(self, front: FrontEnd) -> None:
        front.connect()
        for _ in range(100):
            front.receive(Frame(plain(60000)))
        (queue,) = front.backend._queues
        assert queue.receiver.waiting_bytes < MAX_WAITING + 65536
        assert front.backend.statistics()["rx_dropped"] == 100 - 70

    def test_a_grant_that_is_refused(self, fake: FakeDoors, front: FrontEnd) -> None:
        queue = front.connect()
        queue.refill(1)
        queue.refill(1, first_page=101, readonly=True)
        queue.refill(2, first_page=102)
        front.receive(Frame(plain(9000)), Frame(plain(60)))
        bad, good = queue.received()
        assert bad.status == FAILED
        assert bad.slots == 3
        assert good.data == plain(60)
        assert front.backend.statistics()["rx_failed"] == 1
        assert front.state == 4

    def test_nothing_comes_after_the_end(self, fake: FakeDoors, front: FrontEnd) -> None:
        queue = front.connect()
        receive = front.link.receive
        assert receive is not None
        queue.refill(8)
        front.end()
        before = bytes(queue.rx.page)
        receive([Frame(plain(60))])
        assert bytes(queue.rx.page) == before


class TestQueues:
    def test_a_connection_keeps_to_one(self, front: FrontEnd) -> None:
        front.connect(4)
        for queue in front.queues:
            queue.refill(20, first_page=100 + 20 * front.queues.index(queue))
        flows = [ip_frame(b"", ports=(port, 80)) for port in range(40)]
        front.receive(*[Frame(data) for data in flows for _ in range(2)])
        got = [[frame.data for frame in queue.received()] for queue in front.queues]
        assert sum(map(len, got)) == 80
        assert all(got)
        assert all(where.count(data) in (0, 2) for where in got for data in flows)

    def test_all_send(self, front: FrontEnd) -> None:
        front.connect(3)
        for number, queue in enumerate(front.queues):
            queue.packet(front.fill(plain(60 + number), page=10 + number))
            assert front.send(queue) == [OKAY]
        assert [len(frame.data) for frame in front.link.sent] == [60, 61, 62]


class TestMulticast:
    def group(self, address: bytes) -> Frame:
        return Frame(address + plain(60)[6:])

    def passed(self, front: FrontEnd) -> list[bytes]:
        """Which of a group's, another group's, all's and one's own frames come through."""
        front.queues[0].refill(4)
        addresses = (GROUP, b"\x01\x00\x5e\x00\x00\x01", b"\xff" * 6, plain(60)[:6])
        front.receive(*[self.group(address) for address in addresses])
        return [frame.data[:6] for frame in front.queues[0].received()]

    def name(self, front: FrontEnd, kind: int, address: bytes) -> list[int]:
        queue = front.queues[0]
        queue.packet([(0, 0, 0)], 0, [multicast_extra(kind, address)])
        return front.send()

    def test_all_come_unless_asked(self, front: FrontEnd) -> None:
        front.connect()
        assert len(self.passed(front)) == 4

    def test_only_named_ones(self, front: FrontEnd) -> None:
        front.connect(request_multicast_control=1)
        assert self.passed(front) == [b"\xff" * 6, plain(60)[:6]]
        assert self.name(front, ADD, GROUP) == [OKAY]
        assert self.passed(front) == [GROUP, b"\xff" * 6, plain(60)[:6]]
        assert self.name(front, DEL, GROUP) == [OKAY]
        assert self.name(front, DEL, GROUP) == [OKAY]
        assert self.passed(front) == [b"\xff" * 6, plain(60)[:6]]
        assert front.backend.statistics()["rx_filtered"] == 5
        assert front.link.sent == []

    def test_asked_for_later(self, fake: FakeDoors, front: FrontEnd) -> None:
        front.connect()
        assert self.name(front, ADD, GROUP) == [OKAY]
        for wanted, count in ((1, 3), (0, 4), (1, 3)):
            front.write({"request-multicast-control": wanted})
            fake.run()
            assert len(self.passed(front)) == count

    def test_no_more_than_so_many(self, front: FrontEnd) -> None:
        front.connect()
        answers = [self.name(front, ADD, GROUP[:5] + bytes([n])) for n in range(MAX_ADDRESSES + 1)]
        assert answers == [[OKAY]] * MAX_ADDRESSES + [[FAILED]]
        assert self.name(front, DEL, GROUP) == [OKAY]
        assert self.name(front, ADD, GROUP) == [OKAY]

    def test_a_request_that_is_no_number_closes_the_card(
        self, fake: FakeDoors, front: FrontEnd
    ) -> None:
        front.connect()
        fake.store.write(f"{FRONTEND}/request-multicast-control", "yes")
        fake.run()
        assert front.state == 5


class TestRate:
    def test_packets_beyond_it_wait(self, fake: FakeDoors) -> None:
        now = [0.0]
        front = FrontEnd(fake, rate=Allowance(1000, 0.001, clock=lambda: now[0]))
        queue = front.connect()
        for _ in range(5):
            queue.packet(front.fill(plain(600)))
        queue.tx.show()
        fake.run()
        statuses = queue.statuses()
        assert statuses == [OKAY] * 2
        assert len(front.link.sent) == 2
        for elapsed in (0.001, 0.002):
            now[0] = elapsed
            due = len(front.link.sent) + 1
            fake.run(until=lambda due=due: len(front.link.sent) >= due)
        now[0] = 1.0
        fake.run(until=lambda: statuses.extend(queue.statuses()) or len(statuses) == 5)
        assert len(front.link.sent) == 5
        front.end()
        assert fake.leaks() == []


def test_statistics(fake: FakeDoors, front: FrontEnd) -> None:
    queue = front.connect()
    queue.packet(front.fill(plain(100)))
    front.send()
    queue.refill(2)
    front.receive(Frame(plain(200)), Frame(plain(300)))
    counters = front.backend.statistics()
    assert counters.pop("tx_events") > 0
    assert counters.pop("rx_events") > 0
    assert counters == {
        "tx_packets": 1,
        "tx_bytes": 100,
        "tx_refused": 0,
        "rx_packets": 2,
        "rx_bytes": 500,
        "rx_dropped": 0,
        "rx_failed": 0,
        "rx_filtered": 0,
        "link_sent": 1,
    }
