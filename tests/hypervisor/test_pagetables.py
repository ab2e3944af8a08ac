# SPDX-License-Identifier: GPL-2.0-or-later
"""The types and counts of page tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from pyxen.abi.errno import EINVAL, EPERM
from pyxen.errors import XenError
from pyxen.hypervisor.memory import Memory
from pyxen.hypervisor.page_flags import ACCESSED, ENTRIES, FRAME, PAGE_SIZE, PRESENT, PSE, RW, USER
from pyxen.hypervisor.page_types import WRITABLE
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


class Tables(RuleBasedStateMachine):
    """Random work on tables. After each step all types and counts are computed anew, from the
    pins, the bases and the entries alone; and what was refused must have changed nothing."""

    frames = st.integers(0, POOL - 1)
    levels = st.integers(1, 4)
    slots = st.sampled_from([0, 1, 255, 256, 271, 272, 511])
    flags = st.sampled_from([TABLE, TABLE, TABLE, PRESENT, 0, TABLE | PSE])

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine()
        self.pins: dict[int, int] = {}
        self.bases: list[int] = []

    def teardown(self) -> None:
        for frame in list(self.pins):
            self.machine.tables.unpin(self.machine.mfn(frame))
        for frame in self.bases:
            self.machine.tables.put_page_and_type(self.machine.mfn(frame))
        first = self.machine.memory.ram_mfn
        assert not any(self.machine.tables.type_counts[first:])
        assert not any(self.machine.tables.types[first:])
        self.machine.close()

    @contextmanager
    def trying(self) -> Iterator[None]:
        before = self.machine.snapshot()
        try:
            yield
        except XenError:
            assert self.machine.snapshot() == before

    @rule(frame=frames, level=levels)
    def pin(self, frame: int, level: int) -> None:
        with self.trying():
            self.machine.tables.pin(self.machine.mfn(frame), level)
            assert frame not in self.pins
            self.pins[frame] = level

    @rule(frame=frames)
    def unpin(self, frame: int) -> None:
        with self.trying():
            self.machine.tables.unpin(self.machine.mfn(frame))
            del self.pins[frame]

    @rule(frame=frames, slot=slots, child=frames, flags=flags)
    def update(self, frame: int, slot: int, child: int, flags: int) -> None:
        with self.trying():
            self.machine.update(frame, slot, self.machine.entry(child, flags))
            written = self.machine.words(frame)[slot]
            assert (written ^ self.machine.entry(child, flags)) & ~(USER | ACCESSED) == 0

    @rule(frame=frames, slot=slots, mfn=st.sampled_from([0, 1, 2, 1 << 30]))
    def update_with_foreign_frame(self, frame: int, slot: int, mfn: int) -> None:
        with self.trying():
            self.machine.update(frame, slot, mfn << 12 | TABLE)

    @rule(frame=frames)
    def use_as_base(self, frame: int) -> None:
        with self.trying():
            self.machine.tables.get_page_and_type(self.machine.mfn(frame), 4)
            self.bases.append(frame)

    @rule(data=st.data())
    def leave_base(self, data: st.DataObject) -> None:
        if self.bases:
            frame = self.bases.pop(data.draw(st.integers(0, len(self.bases) - 1)))
            self.machine.tables.put_page_and_type(self.machine.mfn(frame))

    @invariant()
    def counts_are_those_of_the_tables(self) -> None:
        """A naive count of all uses, from the pins, the bases and the entries."""
        machine = self.machine
        refs: Counter[int] = Counter(range(POOL))
        types: Counter[tuple[int, int]] = Counter()
        uses = [*self.pins.items(), *((frame, 4) for frame in self.bases)]
        while uses:
            frame, level = uses.pop()
            refs[frame] += 1
            types[frame, level] += 1
            if types[frame, level] > 1:
                continue
            for index, entry in enumerate(machine.words(frame)):
                if not entry & PRESENT or (level == 4 and index in XEN_SLOTS):
                    continue
                child = ((entry & FRAME) >> 12) - machine.memory.ram_mfn
                if level > 1 and child != frame:
                    linear = machine.state(child)[0] == level
                    uses.append((child, level if linear else level - 1))
                elif level == 1 and child >= 0:
                    refs[child] += 1
                    if entry & RW:
                        types[child, WRITABLE] += 1
        for frame in range(POOL):
            mfn = machine.mfn(frame)
            assert machine.tables.refs[mfn] == refs[frame]
            kind, count = machine.state(frame)
            expected = {of: n for (which, of), n in types.items() if which == frame}
            assert expected == ({kind: count} if count else {})


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
