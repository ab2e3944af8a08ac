# SPDX-License-Identifier: GPL-2.0-or-later
"""Random streams of block requests, good and bad, against a naive model of a disk."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from block_front_end import PAGE, SECTOR, FrontEnd, image_file
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxen.abi.io_blkif import (
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_OP_WRITE_BARRIER,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
)
from pyxen.testing import FakeDoors

DATA = 10
DATA_PAGES = 6
DISK_SECTORS = 128
READ, WRITE = BLKIF_OP_READ, BLKIF_OP_WRITE
FLUSH, BARRIER = BLKIF_OP_FLUSH_DISKCACHE, BLKIF_OP_WRITE_BARRIER


@dataclass(frozen=True)
class Step:
    """One request. ``segments`` are (page, first sector, last sector); ``fill`` is what the pages
    have before."""

    operation: int
    indirect: bool
    sector: int
    segments: list[tuple[int, int, int]]
    fill: int


def steps() -> st.SearchStrategy[Step]:
    sectors = st.integers(0, 7)
    ranges = st.tuples(sectors, sectors).map(lambda pair: (min(pair), max(pair)))
    any_range = st.one_of(ranges, ranges, ranges, st.tuples(sectors, st.integers(0, 9)))
    segment = st.tuples(st.integers(0, DATA_PAGES - 1), any_range).map(lambda x: (x[0], *x[1]))
    return st.builds(
        Step,
        operation=st.sampled_from((READ, READ, WRITE, WRITE, WRITE, FLUSH, BARRIER)),
        indirect=st.booleans(),
        sector=st.one_of(st.integers(0, DISK_SECTORS + 2), st.just((1 << 64) - 1)),
        segments=st.lists(segment, max_size=14),
        fill=st.integers(0, 255),
    )


class Model:
    """A disk and the guest's pages, as bytes."""

    def __init__(self, content: bytes, readonly: bool) -> None:
        self.disk = bytearray(content)
        self.pages = [bytearray(PAGE) for _ in range(DATA_PAGES)]
        self.readonly = readonly

    def do(self, step: Step) -> int:
        for page, _, _ in step.segments:
            self.pages[page][:] = bytes([step.fill]) * PAGE
        if self._is_bad(step):
            return BLKIF_RSP_ERROR
        place = step.sector * SECTOR
        for page, first, last in step.segments:
            start, end = first * SECTOR, (last + 1) * SECTOR
            size = end - start
            if step.operation == READ:
                self.pages[page][start:end] = self.disk[place : place + size]
            else:
                self.disk[place : place + size] = self.pages[page][start:end]
            place += size
        return BLKIF_RSP_OKAY

    def _is_bad(self, step: Step) -> bool:
        if step.indirect and step.operation not in (READ, WRITE):
            return True
        if not step.segments and (step.indirect or step.operation in (READ, WRITE)):
            return True
        if len(step.segments) > 11 and not step.indirect:
            return True
        if any(first > last or last > 7 for _, first, last in step.segments):
            return True
        count = sum(last - first + 1 for _, first, last in step.segments)
        if self.readonly and (
            step.operation in (WRITE, BARRIER) or (count and step.operation != READ)
        ):
            return True
        return bool(count) and step.sector + count > DISK_SECTORS


@pytest.mark.parametrize("readonly", [False, True])
@settings(max_examples=60, deadline=None)
@given(requests=st.lists(steps(), max_size=25), persistent=st.booleans())
def test_a_disk_is_what_was_written_to_it(
    readonly: bool, requests: list[Step], persistent: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, FakeDoors() as fake:
        path = image_file(Path(folder), DISK_SECTORS * SECTOR)
        front = FrontEnd(fake, path, readonly=readonly)
        front.connect(persistent=persistent)
        model = Model(path.read_bytes(), readonly)
        refs = [fake.grant(DATA + n) for n in range(DATA_PAGES)]
        for step in requests:
            for page, _, _ in step.segments:
                fake.page(DATA + page)[:] = bytes([step.fill]) * PAGE
            segments = [(refs[page], first, last) for page, first, last in step.segments]
            if step.indirect:
                entry = front.indirect_entry(step.operation, step.sector, segments)
            else:
                entry = bytearray(front.entry(step.operation, step.sector, segments[:11]))
                entry[1] = len(segments)
            assert front.do(bytes(entry)) == [model.do(step)], step
            for n in range(DATA_PAGES):
                assert fake.page(DATA + n) == model.pages[n]
            assert front.state == 4
        assert path.read_bytes() == model.disk
        front.end()
        assert fake.leaks() == []


@settings(max_examples=60, deadline=None)
@given(
    entries=st.lists(st.binary(min_size=112, max_size=112), max_size=40),
    words=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 0xFFFF_FFFF)), max_size=4),
)
def test_noise_in_a_ring_ends_in_an_answer_or_in_the_end_of_the_device(
    entries: list[bytes], words: list[tuple[int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder, FakeDoors() as fake:
        path = image_file(Path(folder), DISK_SECTORS * SECTOR)
        front = FrontEnd(fake, path)
        front.connect()
        ring = front.rings[0]
        for entry in entries:
            fake.run(until=lambda: ring.take() or ring.req_prod == ring.rsp_cons)
            ring.put(bytes([entry[0] % 8]) + entry[1:])
            ring.show()
        fake.run(until=lambda: ring.take() or ring.req_prod == ring.rsp_cons)
        for index, value in words:
            ring.words[index] = value
            fake.notify(ring.port)
            fake.run()
        assert front.state in (4, 5)
        front.end()
        assert fake.leaks() == []
