# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end of disks: what a front end may ask for, and what comes of it."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from block_front_end import (
    BACKEND,
    ERROR,
    FRONTEND,
    MASK,
    PAGE,
    SECTOR,
    FrontEnd,
    Segment,
    image_file,
)

from pyxen.abi.io_blkif import (
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
)
from pyxen.backends.block import Allowance, Image, Limits
from pyxen.testing import FakeDoors

READ, WRITE = BLKIF_OP_READ, BLKIF_OP_WRITE
FLUSH, BARRIER = BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_WRITE_BARRIER
OKAY, FAILED, UNSUPPORTED = BLKIF_RSP_OKAY, BLKIF_RSP_ERROR, BLKIF_RSP_EOPNOTSUPP
DATA = 10
"""First page of data."""


@pytest.fixture
def fake() -> Iterator[FakeDoors]:
    with FakeDoors() as fake:
        yield fake


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return image_file(tmp_path)


class MemoryImage(Image):
    """Waits before each operation for a test to let it go on, and notes what is done."""

    def __init__(self, size: int = 1 << 20) -> None:
        self.name = "memory"
        self.size = size
        self.sector_size = 512
        self.readonly = False
        self.discards = True
        self.volatile = True
        self.data = bytearray(size)
        self.done: list[str] = []
        self.failure: int | None = None
        self.gate = threading.Event()
        self.gate.set()

    def _enter(self, name: str) -> None:
        assert self.gate.wait(20)
        self.done.append(name)
        if self.failure is not None:
            raise OSError(self.failure, os.strerror(self.failure))

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        self._enter("read")
        for buffer in buffers:
            buffer[:] = self.data[offset : offset + len(buffer)]
            offset += len(buffer)

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        self._enter(f"write {offset // 512}")
        for buffer in buffers:
            self.data[offset : offset + len(buffer)] = buffer
            offset += len(buffer)

    def flush(self) -> None:
        self._enter("flush")

    def discard(self, offset: int, size: int) -> None:
        self._enter("discard")

    def close(self) -> None:
        self.done.append("close")


def pages(fake: FakeDoors, count: int, readonly: bool = False) -> list[Segment]:
    """Segments of whole pages, the first ones of data."""
    return [(fake.grant(DATA + n, readonly=readonly), 0, 7) for n in range(count)]


class TestOffer:
    def test_what_it_can(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path)
        assert front.state == 2
        offered = {name: front.read(name) for name in fake.store.directory(BACKEND)}
        assert offered == {
            "state": "2",
            "feature-flush-cache": "1",
            "feature-barrier": "1",
            "feature-discard": "1",
            "discard-granularity": "512",
            "discard-alignment": "0",
            "discard-secure": "0",
            "feature-persistent": "1",
            "feature-max-indirect-segments": "256",
            "max-ring-page-order": "4",
            "multi-queue-max-queues": "4",
        }
        front.connect()
        assert front.state == 4
        assert front.read("sectors") == "2048"
        assert front.read("sector-size") == "512"
        assert front.read("info") == "0"

    def test_a_disk_for_reading_offers_nothing_that_writes(
        self, fake: FakeDoors, path: Path
    ) -> None:
        front = FrontEnd(fake, path, readonly=True)
        front.connect()
        assert front.read("info") == "4"
        assert [front.read(f"feature-{x}") for x in ("flush-cache", "barrier", "discard")] == [
            *("0", "0", "0")
        ]

    def test_write_through_needs_no_flush(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path, writethrough=True)
        front.connect()
        assert front.read("feature-flush-cache") == "0"
        segments = pages(fake, 1, readonly=True)
        fake.page(DATA)[:] = bytes([9]) * PAGE
        assert front.do(front.entry(WRITE, 8, segments)) == [OKAY]
        assert front.backend.statistics()["handed_over"] == 1  # it waits for the disk
        assert path.read_bytes()[8 * 512 :][:PAGE] == bytes([9]) * PAGE
        assert front.do(front.entry(FLUSH, 0)) == [OKAY]

    def test_other_protocols_are_refused(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path)
        front.write(protocol="x86_32-abi")
        front.write(state=3)
        fake.run()
        assert front.state == 5
        assert b"x86_32-abi" in fake.store.read(ERROR)

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("multi-queue-num-queues", "0"),
            ("multi-queue-num-queues", "5"),
            ("ring-page-order", "5"),
            ("feature-persistent", "2"),
            ("event-channel", "none"),
            ("ring-ref", "4711"),
        ],
    )
    def test_nodes_out_of_range(self, fake: FakeDoors, path: Path, name: str, value: str) -> None:
        front = FrontEnd(fake, path)
        ring_ref, port = fake.grant(200), fake.alloc_port()
        front.write(**{"ring-ref": ring_ref, "event-channel": port, name: value})
        front.write(state=3)
        fake.run()
        assert front.state == 5
        front.end()
        assert fake.leaks() == []


class TestTransfer:
    @pytest.mark.parametrize("persistent", [False, True])
    @pytest.mark.parametrize("order", [0, 3])
    @pytest.mark.parametrize("queues", [1, 4])
    def test_pages(
        self, fake: FakeDoors, path: Path, queues: int, order: int, persistent: bool
    ) -> None:
        front = FrontEnd(fake, path)
        front.connect(queues, order, persistent)
        content = path.read_bytes()
        for number in range(queues):
            segments = pages(fake, 11)
            for turn in range(3):
                sector = 100 * number + turn
                assert front.do(front.entry(READ, sector, segments), ring=number) == [OKAY]
                for n in range(11):
                    expected = content[sector * SECTOR + n * PAGE :][:PAGE]
                    assert fake.page(DATA + n) == expected
        front.end()
        assert fake.leaks() == []

    def test_parts_of_pages(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path)
        front.connect()
        before = bytearray(path.read_bytes())
        fake.page(DATA)[:] = bytes(range(256)) * 16
        segment = (fake.grant(DATA, readonly=True), 2, 4)
        assert front.do(front.entry(WRITE, 7, [segment, segment])) == [OKAY]
        before[7 * 512 : 13 * 512] = (bytes(range(256)) * 6) * 2
        assert path.read_bytes() == before
        # What is outside of the sectors of a page stays as it is.
        fake.page(DATA + 1)[:] = bytes([7]) * PAGE
        assert front.do(front.entry(READ, 0, [(fake.grant(DATA + 1), 7, 7)])) == [OKAY]
        assert fake.page(DATA + 1) == bytes([7]) * (7 * 512) + before[:512]

    @pytest.mark.parametrize("count", [1, 11, 12, 32, 256])
    @pytest.mark.parametrize("persistent", [False, True])
    def test_indirect(self, fake: FakeDoors, path: Path, count: int, persistent: bool) -> None:
        front = FrontEnd(fake, path)
        front.connect(persistent=persistent)
        content = path.read_bytes()
        segments = [(fake.grant(DATA + n % 64), 0, 7) for n in range(count)]
        entry = front.indirect_entry(READ, 0, segments)
        front.rings[0].put(entry)
        front.rings[0].show()
        fake.run(until=lambda: front.rings[0].words[2] == 1)
        ((_, operation, status),) = front.rings[0].take()
        assert (operation, status) == (READ, OKAY)  # Linux wants the operation inside
        last = (count - 1) * PAGE
        assert fake.page(DATA + (count - 1) % 64) == content[last : last + PAGE]
        front.end()
        assert fake.leaks() == []

    def test_the_disk_ends_where_it_ends(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path)
        front.connect()
        (segment,) = pages(fake, 1)
        good, behind, over = 2040, 2041, 1 << 63
        entries = [front.entry(READ, sector, [segment]) for sector in (good, behind, over)]
        assert front.do(*entries) == [OKAY, FAILED, FAILED]

    def test_many_requests_before_one_event(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path)
        front.connect()
        segments = pages(fake, 32)
        entries = [front.entry(READ, 8 * n, [segments[n]]) for n in range(32)]
        for _ in range(5):
            assert front.do(*entries) == [OKAY] * 32
        assert front.backend.statistics()["reads"] == 160
        assert front.backend.statistics()["bytes_read"] == 160 * PAGE
        content = path.read_bytes()
        for n in range(32):
            assert fake.page(DATA + n) == content[n * PAGE : (n + 1) * PAGE]

    def test_one_event_for_the_responses_of_one_event(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path)
        front.connect()
        segments = pages(fake, 4)
        front.do(front.entry(READ, 0, segments))
        fake.take_event(front.rings[0].port)
        sent = fake.domain.statistics().ports[front.rings[0].port].raised
        front.do(*[front.entry(READ, 8 * n, segments) for n in range(8)])
        assert fake.domain.statistics().ports[front.rings[0].port].raised == sent + 1

    def test_indices_wrap(self, fake: FakeDoors, path: Path) -> None:
        """A ring that another back end has served before goes on where its responses end."""
        front = FrontEnd(fake, path)
        front.connect(start=MASK - 10)
        segments = pages(fake, 1)
        for turn in range(4):
            entries = [front.entry(READ, turn * 7 + n, segments) for n in range(7)]
            assert front.do(*entries) == [OKAY] * 7

    def test_large_sectors(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path, sector_size=4096)
        front.connect()
        assert front.read("sector-size") == "4096"
        assert front.read("sectors") == "2048"  # of 512 bytes all the same
        ref = fake.grant(DATA)
        whole, shifted = front.entry(READ, 8, [(ref, 0, 7)]), front.entry(READ, 9, [(ref, 0, 7)])
        part = front.entry(READ, 8, [(ref, 0, 6)])
        assert front.do(whole, shifted, part) == [OKAY, FAILED, FAILED]

    def test_a_file_with_a_part_of_a_sector(self, fake: FakeDoors, path: Path) -> None:
        os.truncate(path, PAGE * 3 + 700)
        front = FrontEnd(fake, path)
        front.connect()
        assert front.read("sectors") == "25"


class TestOtherOperations:
    def test_flush(self, fake: FakeDoors) -> None:
        image = MemoryImage()
        front = FrontEnd(fake, image=image)
        front.connect()
        assert front.do(front.entry(FLUSH, 0)) == [OKAY]
        assert image.done == ["flush"]

    def test_flush_with_data_flushes_before_and_after_it(self, fake: FakeDoors) -> None:
        image = MemoryImage()
        front = FrontEnd(fake, image=image)
        front.connect()
        assert front.do(front.entry(FLUSH, 3, pages(fake, 1))) == [OKAY]
        assert image.done == ["flush", "write 3", "flush"]

    def test_nothing_passes_a_barrier(self, fake: FakeDoors) -> None:
        image = MemoryImage()
        front = FrontEnd(fake, image=image)
        front.connect()
        segments = pages(fake, 1)
        image.gate.clear()
        ring = front.rings[0]
        for sector, operation in enumerate([WRITE, WRITE, BARRIER, WRITE, BARRIER, WRITE]):
            ring.put(front.entry(operation, sector, segments))
        ring.show()
        fake.run()
        assert image.done == []
        image.gate.set()
        answered: list[tuple[int, int, int]] = []
        fake.run(until=lambda: answered.extend(ring.take()) or len(answered) == 6)
        assert sorted(image.done[:2]) == ["write 0", "write 1"]
        barrier = ["flush", "write {}", "flush"]
        assert image.done[2:5] == [x.format(2) for x in barrier]
        assert image.done[5] == "write 3"
        assert image.done[6:9] == [x.format(4) for x in barrier]
        assert image.done[9:] == ["write 5"]
        assert all(status == OKAY for _, _, status in answered)

    def test_discard_makes_a_hole(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path)
        front.connect()
        used = os.stat(path).st_blocks
        assert front.do(front.discard_entry(8, 1024)) == [OKAY]
        assert os.stat(path).st_blocks < used
        assert os.stat(path).st_size == 1 << 20
        assert not any(path.read_bytes()[8 * 512 : 1032 * 512])
        assert front.do(front.discard_entry(2048, 1), front.discard_entry(0, 1 << 63)) == [
            *(FAILED, FAILED)
        ]

    def test_discard_that_was_not_offered(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path, discards=False)
        front.connect()
        assert front.read("feature-discard") == "0"
        assert front.do(front.discard_entry(0, 8)) == [UNSUPPORTED]

    def test_read_only(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path, readonly=True)
        front.connect()
        content = path.read_bytes()
        segments = pages(fake, 1)
        entries = [front.entry(operation, 0, segments) for operation in (WRITE, BARRIER, FLUSH)]
        assert front.do(*entries, front.indirect_entry(WRITE, 0, segments)) == [FAILED] * 4
        assert front.do(front.entry(READ, 0, segments), front.entry(FLUSH, 0)) == [OKAY] * 2
        assert path.read_bytes() == content

    @pytest.mark.parametrize(
        ("number", "status"), [(errno.EIO, FAILED), (errno.EOPNOTSUPP, UNSUPPORTED)]
    )
    def test_errors_of_the_disk_are_told(
        self,
        fake: FakeDoors,
        number: int,
        status: int,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        image = MemoryImage()
        front = FrontEnd(fake, image=image)
        front.connect()
        image.failure = number
        segments = pages(fake, 1)
        entries = [front.entry(x, 0, segments) for x in (READ, WRITE, FLUSH, BARRIER)]
        assert front.do(*entries, front.discard_entry(0, 1)) == [status] * 5
        image.failure = None
        assert front.do(front.entry(READ, 0, segments)) == [OKAY]
        assert len(caplog.records) == 1
        assert front.backend.statistics()["errors"] == 5


class TestResize:
    def test_the_front_end_is_told_of_a_larger_disk(
        self, fake: FakeDoors, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pyxen.backends.block.backend._LOOK_AT_SIZE", 0.0)
        front = FrontEnd(fake, path)
        front.connect()
        told: list[str] = []
        fake.store.watch(f"{BACKEND}/state", told.append)
        (segment,) = pages(fake, 1)
        assert front.do(front.entry(READ, 2048, [segment])) == [FAILED]
        told.clear()
        os.truncate(path, 2 << 20)
        assert front.do(front.entry(READ, 2048, [segment])) == [OKAY]
        assert front.read("sectors") == "4096"
        assert told == [f"{BACKEND}/state"]
        os.truncate(path, 1 << 20)
        assert front.do(front.entry(READ, 2048, [segment])) == [FAILED]
        assert front.read("sectors") == "2048"


class TestLimits:
    def test_allowance(self) -> None:
        now = 0.0
        allowance = Allowance(100, 0.5, clock=lambda: now)
        assert allowance.wait() == 0
        allowance.spend(300)
        assert allowance.wait() == pytest.approx(1.0, abs=0.01)
        now = 0.9
        assert 0.09 < allowance.wait() < 0.12
        now = 100.0
        assert allowance.wait() == 0
        allowance.spend(100)  # no more than one interval's worth is saved
        assert allowance.wait() > 0

    @pytest.mark.parametrize("what", ["operations", "transferred"])
    def test_requests_are_held_back(self, fake: FakeDoors, path: Path, what: str) -> None:
        amount = 5 if what == "operations" else 5 * PAGE
        limits = Limits(**{what: Allowance(amount, 0.05)})
        front = FrontEnd(fake, path, limits=limits)
        front.connect()
        segments = pages(fake, 1)
        start = time.monotonic()
        entries = [front.entry(READ, n, segments) for n in range(25)]
        assert front.do(*entries) == [OKAY] * 25
        assert time.monotonic() - start > 0.15

    def test_the_end_does_not_wait_for_them(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path, limits=Limits(Allowance(1, 1000.0)))
        front.connect()
        segments = pages(fake, 1)
        for n in range(5):
            front.rings[0].put(front.entry(READ, n, segments))
        front.rings[0].show()
        fake.run()
        front.end()
        assert fake.leaks() == []


class TestHostile:
    def test_an_index_that_runs_away(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path)
        front.connect()
        ring = front.rings[0]
        ring.words[0] = 33
        fake.notify(ring.port)
        fake.run()
        assert front.state == 5
        assert b"more than 32 slots ahead" in fake.store.read(ERROR)
        assert fake.leaks() == [f"{FRONTEND}/state is watched"]
        # It may begin anew.
        front.write(state=6)
        fake.run()
        front.write(state=1)
        fake.run()
        front.connect()
        assert front.do(front.entry(READ, 0, pages(fake, 1))) == [OKAY]

    def test_an_index_that_goes_back(self, fake: FakeDoors) -> None:
        image = MemoryImage()
        front = FrontEnd(fake, image=image)
        front.connect()
        image.gate.clear()
        ring = front.rings[0]
        segments = pages(fake, 1)
        for _ in range(3):
            ring.put(front.entry(READ, 0, segments))
        ring.show()
        fake.run()
        ring.words[0] = 1
        threading.Timer(0.05, image.gate.set).start()  # for which the end waits
        fake.notify(ring.port)
        fake.run()
        assert front.state == 5
        assert b"went back" in fake.store.read(ERROR)

    def test_a_ring_that_is_broken_from_the_start(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path)
        fake.page(200)[:16] = struct.pack("4I", 100, 0, 0, 0)
        front.write(**{"ring-ref": fake.grant(200), "event-channel": fake.alloc_port()})
        front.write(state=4)
        fake.run()
        assert front.state == 5
        front.end()
        assert fake.leaks() == []

    def test_bad_segments(self, fake: FakeDoors, path: Path) -> None:
        front = FrontEnd(fake, path)
        front.connect()
        content = path.read_bytes()
        ref, readonly = fake.grant(DATA), fake.grant(DATA, readonly=True)
        foreign = fake.grant(DATA, domid=7)
        whole = (ref, 0, 7)
        bad = [
            front.entry(READ, 0, []),
            front.entry(READ, 0, [(ref, 1, 0)]),
            front.entry(READ, 0, [(ref, 0, 8)]),
            front.entry(READ, 0, [(readonly, 0, 7)]),
            front.entry(WRITE, 0, [(foreign, 0, 7)]),
            front.entry(WRITE, 0, [whole, (0xFFFF_FFFF, 0, 7)]),
            front.indirect_entry(READ, 0, []),
            front.indirect_entry(READ, 0, [whole] * 257),
            front.indirect_entry(FLUSH, 0, [whole]),
            front.indirect_entry(6, 0, [whole]),
        ]
        too_many = bytearray(front.entry(READ, 0, [whole] * 11))
        too_many[1] = 12
        lost_page = bytearray(front.indirect_entry(READ, 0, [whole]))
        lost_page[28:32] = struct.pack("<I", 0xFFFF)
        assert front.do(*bad, bytes(too_many), bytes(lost_page)) == [FAILED] * 12
        assert front.do(front.entry(WRITE, 0, [(readonly, 0, 7)])) == [OKAY]
        assert path.read_bytes()[PAGE:] == content[PAGE:]
        front.end()
        assert fake.leaks() == []

    @pytest.mark.parametrize("operation", [4, 7, 255])
    def test_unknown_operations(self, fake: FakeDoors, path: Path, operation: int) -> None:
        front = FrontEnd(fake, path)
        front.connect()
        assert front.do(front.entry(operation, 0, pages(fake, 1))) == [UNSUPPORTED]

    def test_the_end_waits_for_what_is_in_progress(self, fake: FakeDoors) -> None:
        image = MemoryImage()
        front = FrontEnd(fake, image=image)
        front.connect()
        image.gate.clear()
        segments = pages(fake, 2)
        for operation in (READ, WRITE, BARRIER, READ):
            front.rings[0].put(front.entry(operation, 0, segments))
        front.rings[0].show()
        fake.run()
        threading.Timer(0.05, image.gate.set).start()
        front.end()
        assert image.done[-1] == "close"
        assert fake.leaks() == []
        assert front.rings[0].take() == []

    def test_persistent_grants_beyond_the_limit(
        self, fake: FakeDoors, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("pyxen.backends.block.queue._MAX_PERSISTENT", 3)
        front = FrontEnd(fake, path)
        front.connect(persistent=True)
        segments = pages(fake, 8)
        for _ in range(3):
            assert front.do(front.entry(READ, 0, segments)) == [OKAY]
        in_use = [ref for ref, _, _ in segments if fake.domain.grants.pins[ref]]
        assert len(in_use) == 3
        front.end()
        assert fake.leaks() == []

    def test_a_grant_that_changes_its_page_is_the_guests_affair(
        self, fake: FakeDoors, path: Path
    ) -> None:
        """The mapping holds the page that was granted."""
        front = FrontEnd(fake, path)
        front.connect(persistent=True)
        (segment,) = pages(fake, 1)
        assert front.do(front.entry(READ, 0, [segment])) == [OKAY]
        with pytest.raises(ValueError, match="in use"):
            fake.revoke(segment[0])
