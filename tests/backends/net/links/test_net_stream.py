# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames over a stream socket, in pieces of any size."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxen.backends.net.links import stream
from pyxen.backends.net.links.stream import FrameStream
from pyxen.testing.fake_doors import FakeDoors

LARGEST = 70_000


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeDoors]:
    with FakeDoors(pages=64) as fake:
        yield fake


class Ends:
    """A stream, the other end of its socket, and what was heard."""

    def __init__(self, fake: FakeDoors) -> None:
        ours, self.peer = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.peer.settimeout(20)
        self.fake = fake
        self.frames: list[bytes] = []
        self.ends = 0
        self.stream = FrameStream(
            fake.doors.loop, ours, LARGEST, lambda _, frames: self.frames.extend(frames), self._end
        )
        self.stream.start()

    def _end(self, ended: FrameStream) -> None:
        assert ended is self.stream
        self.ends += 1

    def close(self) -> None:
        self.stream.close()
        self.peer.close()


sizes = st.lists(st.integers(0, 200) | st.integers(0, LARGEST), max_size=30)


@settings(max_examples=30, deadline=None)
@given(sizes=sizes, seed=st.integers(0, 1 << 16))
def test_what_is_sent_arrives(fake: FakeDoors, sizes: list[int], seed: int) -> None:
    pieces = random.Random(seed)
    ends = Ends(fake)
    sent = [pieces.randbytes(size) for size in sizes]
    for data in sent:
        cut = pieces.randrange(len(data) + 1)
        ends.stream.send([(data[:cut], data[cut:])])
    got = [receive_frame(ends.peer) for _ in sent]
    assert got == sent
    assert ends.stream.dropped == 0
    ends.close()


def receive_frame(sock: socket.socket) -> bytes:
    return receive(sock, int.from_bytes(receive(sock, 4), "big"))


def receive(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = sock.recv(count - len(data))
        assert part
        data += part
    return data


@settings(max_examples=30, deadline=None)
@given(sizes=sizes, seed=st.integers(0, 1 << 16))
def test_what_arrives_is_taken(fake: FakeDoors, sizes: list[int], seed: int) -> None:
    pieces = random.Random(seed)
    ends = Ends(fake)
    sent = [pieces.randbytes(size) for size in sizes]
    wire = b"".join(len(data).to_bytes(4, "big") + data for data in sent)
    while wire:
        count = pieces.choice((1, 3, 1000, 100_000))
        ends.peer.sendall(wire[:count])
        wire = wire[count:]
        if pieces.random() < 0.1:
            fake.doors.loop.call_soon_threadsafe(ends.stream.pause_reading)
            fake.doors.loop.call_soon_threadsafe(ends.stream.resume_reading)
    fake.run(until=lambda: len(ends.frames) == len(sent))
    assert ends.frames == sent
    ends.peer.close()
    fake.run(until=lambda: ends.ends == 1)
    ends.stream.close()


def test_a_full_queue_drops_whole_frames(fake: FakeDoors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "_QUEUE_LIMIT", 100_000)
    ends = Ends(fake)
    sent = [number.to_bytes(2, "big") + bytes(3000) for number in range(200)]
    ends.stream.send([(data,) for data in sent])
    dropped = ends.stream.dropped
    assert 0 < dropped < 200
    got = [receive_frame(ends.peer) for _ in range(200 - dropped)]
    assert got == sent[: 200 - dropped]
    ends.stream.send([(b"again",)])
    assert receive_frame(ends.peer) == b"again"
    ends.close()


@pytest.mark.parametrize("last", [b"\xff\xff\xff\xff", (LARGEST + 1).to_bytes(4, "big")])
def test_a_senseless_length_ends_it(fake: FakeDoors, last: bytes) -> None:
    ends = Ends(fake)
    ends.peer.sendall(b"\0\0\0\1x" + last)
    fake.run(until=lambda: ends.ends)
    assert ends.peer.recv(1) == b""
    ends.stream.send([(b"to nobody",)] * 3)
    assert ends.stream.dropped == 3
    ends.close()
    assert ends.ends == 1
