# SPDX-License-Identifier: GPL-2.0-or-later
"""The types and counts of page tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyxen.abi.errno import EINVAL, EPERM
from pyxen.errors import XenError
from pyxen.hypervisor.memory import Memory
from pyxen.hypervisor.page_flags import ENTRIES, FRAME, PAGE_SIZE, PRESENT, PSE, RW
from pyxen.hypervisor.pagetables import PageTables
from pyxen.testing import FakeEngine

POOL = 8
TABLE = PRESENT | RW
XEN_SLOTS = range(256, 272)


class Machine:
    """Page tables over a few frames; frame N is the Nth of the domain's."""

    def __init__(self) -> None:
        self.engine = FakeEngine(POOL + 1)
        self.memory = Memory(self.engine, POOL)
        self.tables = PageTables(self.memory)

    def close(self) -> None:
        self.engine.close()

    def mfn(self, frame: int) -> int:
        return self.memory.ram_mfn + frame

    def entry(self, frame: int, flags: int = TABLE) -> int:
        return self.mfn(frame) << 12 | flags

    def put(self, frame: int, index: int, value: int) -> None:
        self.memory.words[self.mfn(frame) * ENTRIES + index] = value

    def update(self, frame: int, index: int, value: int) -> None:
        self.tables.update(self.mfn(frame) * PAGE_SIZE + index * 8, value, False)

    def state(self, frame: int) -> tuple[int, int]:
        mfn = self.mfn(frame)
        return self.tables.types[mfn], self.tables.type_counts[mfn]

    def words(self, frame: int) -> list[int]:
        first = self.mfn(frame) * ENTRIES
        return self.memory.words[first : first + ENTRIES].tolist()

    def snapshot(self) -> bytes:
        start = self.memory.ram_mfn * PAGE_SIZE
        return (
            bytes(self.memory.bytes[start:])
            + bytes(self.tables.types)
            + bytes(self.tables.pinned)
            + bytes(self.tables.type_counts)
            + bytes(self.tables.refs)
        )

    def link(self) -> None:
        """0 -> 1 -> 2 -> 3, an L4 to an L1, and 1 once more from slot 5 of the L4."""
        for level in range(3):
            self.put(level, 7, self.entry(level + 1))
        self.put(0, 5, self.entry(1))


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.close()


@contextmanager
def refused(machine: Machine, error: int = EINVAL) -> Iterator[None]:
    """The operation inside raises this error, and changes nothing."""
    before = machine.snapshot()
    with pytest.raises(XenError) as caught:
        yield
    assert caught.value.errno == error
    assert machine.snapshot() == before


def test_pin_validates_recursively_and_unpin_undoes_it(machine: Machine) -> None:
    machine.link()
    machine.tables.pin(machine.mfn(0), 4)
    assert [machine.state(frame) for frame in range(4)] == [(4, 1), (3, 2), (2, 1), (1, 1)]
    machine.tables.unpin(machine.mfn(0))
    assert [machine.state(frame) for frame in range(4)] == [(0, 0)] * 4


def test_pin_installs_xens_slots(machine: Machine) -> None:
    machine.put(0, 256, machine.entry(1))
    machine.put(0, 271, 0xDEAD)
    machine.tables.pin(machine.mfn(0), 4)
    words = machine.words(0)
    assert (words[256] & FRAME) >> 12 < machine.memory.ram_mfn
    assert words[271] == 0
    assert machine.state(1) == (0, 0)


def test_double_pin(machine: Machine) -> None:
    machine.tables.pin(machine.mfn(0), 4)
    for level in (1, 4):
        with refused(machine):
            machine.tables.pin(machine.mfn(0), level)


def test_pin_at_another_level_than_in_use(machine: Machine) -> None:
    machine.link()
    machine.tables.pin(machine.mfn(0), 4)
    for level in (1, 2, 4):
        with refused(machine):
            machine.tables.pin(machine.mfn(1), level)
    machine.tables.pin(machine.mfn(1), 3)
    machine.tables.unpin(machine.mfn(0))
    assert machine.state(1) == (3, 1)


@pytest.mark.parametrize("mfn", [0, 1, 5, 1 << 30, 1 << 52])
def test_frames_that_are_not_the_domains(machine: Machine, mfn: int) -> None:
    for level in (1, 2, 3, 4):
        with refused(machine):
            machine.tables.pin(mfn, level)
    with refused(machine):
        machine.tables.unpin(mfn)
    with refused(machine):
        machine.tables.get_page_and_type(mfn, 4)


@pytest.mark.parametrize("level", [2, 3, 4])
@pytest.mark.parametrize(
    "bad",
    [
        PRESENT,  # frame 0, Xen's
        1 << 12 | TABLE,  # shared, but no table
        1 << 40 | TABLE,  # no memory
        "superpage",
        "itself",
    ],
)
def test_bad_entry_refuses_the_whole_table(machine: Machine, level: int, bad: int | str) -> None:
    values = {"superpage": machine.entry(2, TABLE | PSE), "itself": machine.entry(0)}
    machine.put(0, 3, machine.entry(1))
    machine.put(0, 500, values[bad] if isinstance(bad, str) else bad)
    with refused(machine):
        machine.tables.pin(machine.mfn(0), level)


def test_bad_l1_entry_far_below_refuses_the_pin(machine: Machine) -> None:
    machine.link()
    machine.put(3, 511, 2 << 12 | PRESENT)
    with refused(machine, EPERM):
        machine.tables.pin(machine.mfn(0), 4)


def test_update_moves_the_use(machine: Machine) -> None:
    machine.link()
    machine.tables.pin(machine.mfn(0), 4)
    machine.update(2, 7, machine.entry(4))
    assert (machine.state(3), machine.state(4)) == ((0, 0), (1, 1))
    machine.update(2, 7, machine.entry(4, PRESENT))
    assert machine.state(4) == (1, 1)
    machine.update(2, 7, 0)
    assert machine.state(4) == (0, 0)


def test_base_tables_are_uses(machine: Machine) -> None:
    machine.link()
    machine.tables.get_page_and_type(machine.mfn(0), 4)
    machine.tables.pin(machine.mfn(0), 4)
    machine.tables.unpin(machine.mfn(0))
    assert machine.state(1) == (3, 2)
    machine.tables.put_page_and_type(machine.mfn(0))
    assert machine.state(1) == (0, 0)


def test_find_l1_entry(machine: Machine) -> None:
    machine.link()
    address = 7 << 39 | 7 << 30 | 7 << 21 | 9 << 12 | 0x123
    table = machine.mfn(0) * PAGE_SIZE
    found = machine.tables.find_l1_entry(table, address)
    assert found == machine.mfn(3) * PAGE_SIZE + 9 * 8
    assert machine.tables.find_l1_entry(table, 0) == 0
    assert machine.tables.find_l1_entry(1 << 50, address) == 0
    machine.put(2, 7, machine.entry(3, TABLE | PSE))
    assert machine.tables.find_l1_entry(table, address) == 0
