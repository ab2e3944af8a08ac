# SPDX-License-Identifier: GPL-2.0-or-later
"""The console ring, from both sides: a naive front end plays the guest."""

from __future__ import annotations

import hashlib
import logging
import random
import struct
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxen.backends.console.buffer import OutputBuffer, Scrollback
from pyxen.backends.console.ring import ConsoleRing

WRAP = 2**32


OFFSETS = {"in_cons": 3072, "in_prod": 3076, "out_cons": 3080, "out_prod": 3084}


class FrontEnd:
    """The guest's side, byte by byte, straight from public/io/console.h."""

    def __init__(self, out_index: int = 0, in_index: int = 0) -> None:
        self.page = bytearray(4096)
        self.set_index("out_cons", out_index)
        self.set_index("out_prod", out_index)
        self.set_index("in_cons", in_index)
        self.set_index("in_prod", in_index)

    def index(self, name: str) -> int:
        value: int = struct.unpack_from("<I", self.page, OFFSETS[name])[0]
        return value

    def set_index(self, name: str, value: int) -> None:
        struct.pack_into("<I", self.page, OFFSETS[name], value % WRAP)

    def write(self, data: bytes) -> int:
        """Put what fits into the output ring; returns how much that was."""
        written = 0
        while written < len(data):
            prod = self.index("out_prod")
            if (prod - self.index("out_cons")) % WRAP >= 2048:
                break
            self.page[1024 + prod % 2048] = data[written]
            self.set_index("out_prod", prod + 1)
            written += 1
        return written

    def read(self, limit: int) -> bytes:
        """Take at most ``limit`` bytes from the input ring."""
        taken = bytearray()
        while len(taken) < limit:
            cons = self.index("in_cons")
            if cons == self.index("in_prod"):
                break
            taken.append(self.page[cons % 1024])
            self.set_index("in_cons", cons + 1)
        return bytes(taken)


class Rig:
    """A back end on a front end's page."""

    def __init__(self, guest: FrontEnd | None = None) -> None:
        self.guest = guest or FrontEnd()
        self.received = bytearray()
        self.notified = 0
        self.console = ConsoleRing(memoryview(self.guest.page), self.notify, self.received.extend)

    def notify(self) -> None:
        self.notified += 1


def test_output_reaches_the_reader_and_frees_the_ring() -> None:
    rig = Rig()
    assert rig.guest.write(b"hello\r\n") == 7
    rig.console.on_event()
    assert rig.received == b"hello\r\n"
    assert rig.guest.index("out_cons") == 7
    assert rig.notified == 1


def test_an_event_without_data_is_not_answered() -> None:
    rig = Rig()
    rig.console.on_event()
    assert rig.notified == 0
    assert rig.console.counters["events"] == 1


def test_a_full_ring_is_legal() -> None:
    rig = Rig(FrontEnd(out_index=WRAP - 1000))
    data = bytes(range(256)) * 8
    assert rig.guest.write(data + b"more") == 2048
    rig.console.on_event()
    assert rig.received == data
    assert rig.console.counters["overruns"] == 0


def test_input_beyond_the_ring_waits_for_the_guest() -> None:
    rig = Rig()
    data = random.Random(1).randbytes(2500)
    rig.console.write_input(data)
    assert rig.console.pending_input() == 2500 - 1024
    assert rig.notified == 1
    seen = rig.guest.read(100)
    rig.console.on_event()
    assert rig.console.pending_input() == 2500 - 1124
    while chunk := rig.guest.read(4096):
        seen += chunk
        rig.console.on_event()
    assert seen == data
    assert rig.console.counters["bytes_in"] == 2500


def test_input_to_a_full_ring_sends_no_event() -> None:
    rig = Rig()
    rig.console.write_input(bytes(1024))
    rig.console.write_input(b"x")
    assert rig.notified == 1
    assert rig.console.pending_input() == 1


def test_drain_takes_the_last_output_without_an_event() -> None:
    rig = Rig()
    rig.guest.write(b"Kernel panic")
    rig.console.drain()
    assert rig.received == b"Kernel panic"
    rig.console.drain()
    assert rig.received == b"Kernel panic"


def test_output_that_could_not_be_passed_on_stays_in_the_ring() -> None:
    guest = FrontEnd()
    attempts: list[bytes] = []

    def fail_once(data: bytes) -> None:
        attempts.append(data)
        if len(attempts) == 1:
            raise OSError("full")

    console = ConsoleRing(memoryview(guest.page), lambda: None, fail_once)
    guest.write(b"once")
    with pytest.raises(OSError, match="full"):
        console.drain()
    console.drain()
    assert attempts == [b"once", b"once"]


@pytest.mark.parametrize("size", (0, 4095, 8192))
def test_a_page_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="4096"):
        ConsoleRing(memoryview(bytearray(size)), lambda: None, lambda data: None)


def test_a_read_only_page_is_refused() -> None:
    with pytest.raises(ValueError, match="writable"):
        ConsoleRing(memoryview(bytes(4096)), lambda: None, lambda data: None)


@pytest.mark.parametrize("distance", (2049, 4096, 2**31, WRAP - 1))
def test_an_impossible_output_ring_is_ignored_and_told_once(
    distance: int, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig()
    rig.guest.set_index("out_cons", 77)
    rig.guest.set_index("out_prod", 77 + distance)
    before = bytes(rig.guest.page)
    with caplog.at_level(logging.WARNING):
        rig.console.on_event()
        rig.console.on_event()
        rig.console.drain()
    assert rig.received == b""
    assert bytes(rig.guest.page) == before
    assert rig.console.counters["overruns"] == 3
    assert len(caplog.records) == 1
    # A guest that repairs its ring is served again.
    rig.guest.set_index("out_prod", 77)
    rig.guest.write(b"again")
    rig.console.on_event()
    assert rig.received == b"again"


def test_an_impossible_input_ring_keeps_the_input() -> None:
    rig = Rig()
    rig.guest.set_index("in_cons", 5)
    rig.console.write_input(b"abc")
    assert rig.console.pending_input() == 3
    assert rig.console.counters["overruns"] == 1
    rig.guest.set_index("in_cons", 0)
    rig.console.on_event()
    assert rig.guest.read(10) == b"abc"


@given(st.lists(st.tuples(*[st.integers(0, WRAP - 1)] * 4), min_size=1, max_size=20))
def test_no_indexes_make_the_back_end_fail_or_touch_more_than_its_own(
    states: list[tuple[int, int, int, int]],
) -> None:
    rig = Rig()
    output = bytes(rig.guest.page[1024:3072])
    for in_cons, in_prod, out_cons, out_prod in states:
        rig.guest.set_index("in_cons", in_cons)
        rig.guest.set_index("in_prod", in_prod)
        rig.guest.set_index("out_cons", out_cons)
        rig.guest.set_index("out_prod", out_prod)
        received = len(rig.received)
        rig.console.write_input(b"input")
        rig.console.on_event()
        assert len(rig.received) - received <= 2048
        assert rig.guest.index("in_cons") == in_cons
        assert rig.guest.index("out_prod") == out_prod
        assert rig.guest.page[1024:3072] == output
        assert not any(rig.guest.page[3088:])


STEP = st.one_of(
    st.tuples(st.just("guest writes"), st.integers(1, 3000)),
    st.tuples(st.just("guest reads"), st.integers(1, 1500)),
    st.tuples(st.just("user types"), st.integers(1, 3000)),
    st.tuples(st.just("drain"), st.just(0)),
)


@settings(deadline=None)
@given(
    out_index=st.one_of(st.integers(0, WRAP - 1), st.integers(WRAP - 3000, WRAP - 1)),
    in_index=st.one_of(st.integers(0, WRAP - 1), st.integers(WRAP - 3000, WRAP - 1)),
    steps=st.lists(STEP, max_size=40),
    seed=st.integers(0, 2**16),
)
def test_both_directions_are_two_queues(
    out_index: int, in_index: int, steps: list[tuple[str, int]], seed: int
) -> None:
    rig = Rig(FrontEnd(out_index, in_index))
    noise = random.Random(seed)
    written, typed, seen = bytearray(), bytearray(), bytearray()
    for action, size in steps:
        if action == "guest writes":
            data = noise.randbytes(size)
            written += data[: rig.guest.write(data)]
            rig.console.on_event()
        elif action == "guest reads":
            seen += rig.guest.read(size)
            rig.console.on_event()
        elif action == "user types":
            data = noise.randbytes(size)
            typed += data
            rig.console.write_input(data)
        else:
            rig.console.drain()
        assert rig.received == written
        in_ring = (rig.guest.index("in_prod") - rig.guest.index("in_cons")) % WRAP
        assert in_ring == min(1024, len(typed) - len(seen))
        assert in_ring + rig.console.pending_input() == len(typed) - len(seen)
    while chunk := rig.guest.read(512):
        seen += chunk
        rig.console.on_event()
    assert seen == typed
    counters = rig.console.counters
    assert (counters["bytes_out"], counters["bytes_in"]) == (len(written), len(typed))
    assert counters["overruns"] == 0


def test_a_megabyte_passes_each_way_quickly() -> None:
    """Only the back end's own time counts; the naive front end is far slower."""
    data = random.Random(2).randbytes(1 << 20)
    page = bytearray(4096)
    digest = hashlib.sha256()
    console = ConsoleRing(memoryview(page), lambda: None, digest.update)
    spent = 0.0
    for start in range(0, len(data), 2048):
        page[1024:3072] = data[start : start + 2048]
        struct.pack_into("<I", page, 3084, start + 2048)
        begin = time.thread_time()
        console.on_event()
        spent += time.thread_time() - begin
    assert digest.digest() == hashlib.sha256(data).digest()

    echoed = bytearray()
    begin = time.thread_time()
    console.write_input(data)
    spent += time.thread_time() - begin
    while len(echoed) < len(data):
        echoed += page[0:1024]
        struct.pack_into("<I", page, 3072, len(echoed))
        begin = time.thread_time()
        console.on_event()
        spent += time.thread_time() - begin
    assert echoed == data
    assert spent < 0.5


def test_input_from_another_thread_keeps_its_order() -> None:
    rig = Rig()
    data = random.Random(3).randbytes(100_000)

    def type_it() -> None:
        for start in range(0, len(data), 333):
            rig.console.write_input(data[start : start + 333])

    typist = threading.Thread(target=type_it)
    typist.start()
    seen = bytearray()
    deadline = time.monotonic() + 30
    while len(seen) < len(data) and time.monotonic() < deadline:
        seen += rig.guest.read(700)
        rig.console.on_event()
    typist.join()
    assert seen == data


def test_scrollback_keeps_the_last_bytes_only() -> None:
    window = Scrollback(limit=10)
    for piece in (b"abc", b"defghij", b"k", b"l" * 25, b"mn"):
        window.append(piece)
    assert window.contents() == b"llllllllmn"


@given(st.lists(st.binary(max_size=50)), st.integers(1, 40))
def test_scrollback_is_a_suffix_of_everything(pieces: list[bytes], limit: int) -> None:
    window = Scrollback(limit)
    for piece in pieces:
        window.append(piece)
    assert window.contents() == b"".join(pieces)[-limit:]


def test_scrollback_tail_is_text() -> None:
    window = Scrollback()
    window.append(b"one\r\ntwo\r\nthr\xffee\r\n")
    assert window.tail(2) == "two\nthr\ufffdee"


def test_scrollback_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        Scrollback(0)


def test_output_buffer_is_a_queue() -> None:
    buffer = OutputBuffer(limit=100)
    buffer.append(b"abc")
    buffer.append(b"def")
    assert buffer.first(4) == b"abcd"
    buffer.consume(4)
    assert (len(buffer), buffer.first(100), buffer.discarded) == (2, b"ef", 0)


@given(st.lists(st.binary(max_size=60)), st.integers(1, 40))
def test_output_buffer_keeps_the_oldest_and_the_newest(pieces: list[bytes], limit: int) -> None:
    buffer = OutputBuffer(limit)
    for piece in pieces:
        buffer.append(piece)
        assert len(buffer) <= limit * 5 // 4
    whole, kept = b"".join(pieces), buffer.first(10_000)
    assert len(kept) + buffer.discarded == len(whole)
    if buffer.discarded:
        half = limit // 2
        assert kept[:half] == whole[:half]
        assert kept[half:] == whole[len(whole) - len(kept) + half :]
    else:
        assert kept == whole


def test_output_buffer_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="positive"):
        OutputBuffer(0)
