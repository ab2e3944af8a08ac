# SPDX-License-Identifier: GPL-2.0-or-later
"""References to frames, their types, and entries of page tables."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pyxen.abi.errno import EBUSY, EINVAL, EPERM
from pyxen.errors import XenError
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.memory import Memory
from pyxen.hypervisor.page_flags import (
    ACCESSED,
    DIRTY,
    ENTRIES,
    FRAME,
    GLOBAL,
    NX,
    PAGE_SIZE,
    PCD,
    PRESENT,
    PSE,
    PWT,
    RW,
    USER,
)
from pyxen.hypervisor.page_types import L1, NONE, SEGMENT_DESCRIPTORS, WRITABLE
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


XEN_FRAME, DEVICE, NO_MEMORY, INVALID_MFN = 0x180, 0x42, 1 << 30, (1 << 40) - 1


class TestL1Entries:
    """In a table that is pinned now, and in one that changes."""

    @pytest.fixture
    def table(self, machine: Machine) -> Machine:
        """Frame 0 is an L1 table, frame 1 an L2 table."""
        machine.tables.pin(machine.mfn(0), L1)
        machine.tables.pin(machine.mfn(1), 2)
        return machine

    def test_references(self, table: Machine) -> None:
        mfn = table.mfn(5)
        table.update(0, 3, table.entry(5, PRESENT))
        assert (table.tables.refs[mfn], *table.state(5)) == (2, NONE, 0)
        table.update(0, 4, table.entry(5))
        assert (table.tables.refs[mfn], *table.state(5)) == (3, WRITABLE, 1)
        table.update(0, 3, table.entry(5))
        assert (table.tables.refs[mfn], *table.state(5)) == (3, WRITABLE, 2)
        table.update(0, 3, table.entry(5, TABLE | ACCESSED | DIRTY | USER | NX | GLOBAL))
        assert (table.tables.refs[mfn], *table.state(5)) == (3, WRITABLE, 2)
        table.tables.unpin(table.mfn(0))
        assert (table.tables.refs[mfn], *table.state(5)) == (1, NONE, 0)

    @pytest.mark.parametrize(
        ("mfn", "flags", "error"),
        [
            (XEN_FRAME, PRESENT, EBUSY),
            (XEN_FRAME, TABLE, EBUSY),
            (DEVICE, PRESENT, EPERM),
            (NO_MEMORY, TABLE, EPERM),
            (INVALID_MFN, PRESENT, EINVAL),
            ("table", TABLE, EBUSY),
            ("itself", TABLE, EBUSY),
            ("free", PRESENT, EBUSY),
            ("data", PRESENT | PSE, EINVAL),
            ("data", PRESENT | PWT, EINVAL),
            ("data", PRESENT | PCD, EINVAL),
        ],
    )
    def test_refused(self, table: Machine, mfn: int | str, flags: int, error: int) -> None:
        named = {"itself": 0, "table": 1, "free": POOL, "data": 5}
        entry = (table.mfn(named[mfn]) if isinstance(mfn, str) else mfn) << 12 | flags
        table.update(0, 3, table.entry(5))
        with refused(table, error):
            table.update(0, 3, entry)
        table.put(2, 1, table.entry(5))
        table.put(2, 9, table.entry(2) if mfn == "itself" else entry)
        with refused(table, error):
            table.tables.pin(table.mfn(2), L1)
        table.put(3, 0, table.entry(2))
        with refused(table, error):
            table.tables.pin(table.mfn(3), 2)

    @pytest.mark.parametrize("frame", [0, 1], ids=["itself", "another table"])
    def test_tables_can_be_mapped_read_only(self, table: Machine, frame: int) -> None:
        table.update(0, 3, table.entry(frame, PRESENT))
        assert table.tables.refs[table.mfn(frame)] == 3

    def test_shared_frames_can_be_mapped_writable(self, table: Machine) -> None:
        mfn = table.memory.shared_info_mfn
        table.update(0, 3, mfn << 12 | TABLE)
        assert (table.tables.refs[mfn], table.tables.type_counts[mfn]) == (2, 2)
        with refused(table):
            table.tables.pin(mfn, L1)

    def test_flags_that_the_cpu_ignores_are_the_guests(self, table: Machine) -> None:
        entry = table.entry(5, PRESENT | 0xE00 | 0x7FF << 52)
        table.update(0, 3, entry)
        assert table.words(0)[3] == entry

    def test_frame_in_writable_use_becomes_nothing_else(self, table: Machine) -> None:
        table.update(0, 3, table.entry(5))
        for kind in (1, 2, 3, 4, SEGMENT_DESCRIPTORS):
            with refused(table):
                table.tables.get_page_and_type(table.mfn(5), kind)
        table.update(0, 3, 0)
        table.tables.pin(table.mfn(5), L1)

    def test_preserved_bits_also_of_what_is_no_longer_there(self, table: Machine) -> None:
        address = table.mfn(0) * PAGE_SIZE + 24
        table.update(0, 3, table.entry(5, TABLE | ACCESSED | DIRTY))
        table.tables.update(address, 0, True)
        assert table.words(0)[3] == ACCESSED | DIRTY
        assert table.state(5) == (NONE, 0)


class TestHigherEntries:
    @pytest.mark.parametrize("flag", [PSE, GLOBAL, PWT, PCD])
    @pytest.mark.parametrize("level", [2, 3, 4])
    def test_flags(self, machine: Machine, level: int, flag: int) -> None:
        machine.tables.pin(machine.mfn(0), level)
        with refused(machine):
            machine.update(0, 3, machine.entry(1, TABLE | flag))
        machine.put(2, 3, machine.entry(1, TABLE | flag))
        with refused(machine):
            machine.tables.pin(machine.mfn(2), level)

    def test_what_xen_adds(self, machine: Machine) -> None:
        """Only the last level decides whether user mode has access."""
        machine.link()
        machine.tables.pin(machine.mfn(0), 4)
        assert [machine.words(frame)[7] & (USER | ACCESSED) for frame in range(3)] == [
            USER | ACCESSED,
            USER,
            USER,
        ]
        machine.update(0, 9, machine.entry(4))
        assert machine.words(0)[9] == machine.entry(4, TABLE | USER | ACCESSED)

    def test_shared_and_foreign_frames_are_no_tables(self, machine: Machine) -> None:
        machine.tables.pin(machine.mfn(0), 2)
        for mfn in (machine.memory.shared_info_mfn, XEN_FRAME, DEVICE, NO_MEMORY, INVALID_MFN):
            with refused(machine):
                machine.update(0, 3, mfn << 12 | TABLE)

    def test_old_and_new_table_must_be_possible_at_once(self, machine: Machine) -> None:
        """The new one maps the old one writable."""
        machine.tables.pin(machine.mfn(0), 2)
        machine.update(0, 3, machine.entry(1))
        machine.put(2, 0, machine.entry(1))
        with refused(machine, EBUSY):
            machine.update(0, 3, machine.entry(2))


class TestLinearTables:
    @pytest.mark.parametrize("level", [2, 3, 4])
    def test_itself_read_only(self, machine: Machine, level: int) -> None:
        machine.put(0, 3, machine.entry(0, PRESENT))
        machine.tables.pin(machine.mfn(0), level)
        assert machine.state(0) == (level, 1)
        machine.update(0, 4, machine.entry(0, PRESENT))
        with refused(machine):
            machine.update(0, 5, machine.entry(0))
        machine.update(0, 3, 0)
        machine.tables.unpin(machine.mfn(0))
        assert machine.state(0) == (NONE, 0)

    @pytest.mark.parametrize("level", [2, 3, 4])
    def test_another_one(self, machine: Machine, level: int) -> None:
        tables = machine.tables
        for frame in (0, 1, 2):
            tables.pin(machine.mfn(frame), level)
        with refused(machine):
            machine.update(0, 3, machine.entry(1))
        machine.update(0, 3, machine.entry(1, PRESENT))
        assert machine.state(1) == (level, 2)
        # 0 has linear entries, so it is used by none; 1 is used, so it has none.
        with refused(machine):
            machine.update(2, 3, machine.entry(0, PRESENT))
        with refused(machine):
            machine.update(1, 3, machine.entry(2, PRESENT))
        machine.update(2, 3, machine.entry(1, PRESENT))
        tables.unpin(machine.mfn(1))
        assert machine.state(1) == (level, 2)
        tables.unpin(machine.mfn(0))
        tables.unpin(machine.mfn(2))
        assert machine.state(1) == (NONE, 0)
        assert not any(tables.linear_counts)

    def test_not_of_another_level(self, machine: Machine) -> None:
        machine.tables.pin(machine.mfn(0), 4)
        machine.tables.pin(machine.mfn(1), 2)
        with refused(machine):
            machine.update(0, 3, machine.entry(1, PRESENT))

    def test_refused_table_gives_linear_uses_up(self, machine: Machine) -> None:
        machine.tables.pin(machine.mfn(1), 3)
        machine.put(0, 3, machine.entry(1, PRESENT))
        machine.put(0, 4, XEN_FRAME << 12 | TABLE)
        with refused(machine):
            machine.tables.pin(machine.mfn(0), 3)
        assert not any(machine.tables.linear_counts)


class TestReferences:
    def test_frame_is_free_when_the_last_reference_has_gone(self, machine: Machine) -> None:
        mfn = machine.mfn(5)
        machine.tables.get_page(mfn)
        machine.memory.release(mfn)
        machine.tables.get_page(mfn)
        machine.tables.put_page(mfn)
        assert machine.memory.is_domains(mfn)
        machine.tables.put_page(mfn)
        assert not machine.memory.is_domains(mfn)
        for take in (machine.tables.get_page, machine.memory.release):
            with refused(machine):
                take(mfn)

    def test_table_that_was_given_back_goes_with_its_last_use(self, machine: Machine) -> None:
        machine.link()
        machine.tables.pin(machine.mfn(0), 4)
        for frame in range(4):
            machine.memory.release(machine.mfn(frame))
        assert machine.memory.nr_pages == POOL
        machine.tables.unpin(machine.mfn(0))
        assert machine.memory.nr_pages == POOL - 4

    def test_counting_mistake_of_ours_is_no_exception_of_python(self, machine: Machine) -> None:
        with pytest.raises(DomainCrash):
            machine.tables.put_page_and_type(machine.mfn(0))
        machine.memory.release(machine.mfn(0))
        with pytest.raises(DomainCrash):
            machine.tables.put_page(machine.mfn(0))


def test_update_of_a_frame_that_is_no_table(machine: Machine) -> None:
    """It is an ordinary write, if that is possible."""
    machine.update(5, 3, 0x1234567)
    assert machine.words(5)[3] == 0x1234567
    machine.tables.get_page_and_type(machine.mfn(5), WRITABLE)
    machine.update(5, 3, XEN_FRAME << 12 | TABLE)
    machine.tables.put_page_and_type(machine.mfn(5))
    assert machine.state(5) == (NONE, 0)
    machine.put(5, 3, 0)
    machine.tables.get_page_and_type(machine.mfn(5), SEGMENT_DESCRIPTORS)
    with refused(machine):
        machine.update(5, 3, 0)
