# SPDX-License-Identifier: GPL-2.0-or-later
"""Random work on frames of all types, against a model that counts everything anew each time.

The model knows the words of the frames, and the *roots*: pins, a CPU's base, a GDT. All uses follow
from those. An operation is allowed when the frames can serve what was there before and what it
adds, both at once; and what is refused must have changed nothing. After each step the audit must
find nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from small_domain import SmallDomain

from pyxen.errors import XenError
from pyxen.hypervisor.descriptor_tables import load_gdt
from pyxen.hypervisor.page_flags import (
    ACCESSED,
    ENTRIES,
    FRAME,
    GLOBAL,
    PAGE_SIZE,
    PCD,
    PRESENT,
    PSE,
    RW,
    USER,
)
from pyxen.hypervisor.page_types import L1, L4, NONE, SEGMENT_DESCRIPTORS, WRITABLE

FIRST, POOL = 16, 5
SLOTS = (0, 256, 511)
XEN_SLOTS = range(256, 272)
PER_DOMAIN_SLOT = 260
"""One more that is not empty, in a frame that is or was an L4 table."""
XEN_FRAME = 0x180
NO_FRAME = 1 << 30

Use = tuple[int, int]
"""A frame of the pool and what it is used as; NONE for a plain reference."""


class IllegalError(Exception):
    """A use that Xen does not allow."""


class UndecidedError(Exception):
    """Linear entries: whether they are allowed depends on what was first."""


class Model:
    """What is known of the frames of the pool.

    ``owned`` are those that are allocated, ``existing`` also those that are still in use.
    """

    def __init__(self, first_mfn: int) -> None:
        self.first_mfn = first_mfn
        self.words: dict[int, dict[int, int]] = {}
        self.owned = set(range(POOL))
        self.existing = set(range(POOL))
        self.pins: dict[int, int] = {}
        self.base: int | None = None
        self.gdt: int | None = None

    def count(self, *extra: Use) -> tuple[Counter[int], dict[int, dict[int, int]]]:
        """References and type references, with some uses added to those of now."""
        refs: Counter[int] = Counter(self.owned)
        types: dict[int, dict[int, int]] = {frame: {} for frame in range(POOL)}
        uses = [*extra, *self.pins.items()]
        if self.base is not None:
            uses.append((self.base, L4))
        if self.gdt is not None:
            uses.append((self.gdt, SEGMENT_DESCRIPTORS))
        while uses:
            frame, kind = uses.pop()
            if frame not in self.existing:
                raise IllegalError
            refs[frame] += 1
            if kind == NONE:
                continue
            types[frame][kind] = types[frame].get(kind, 0) + 1
            if kind <= L4 and types[frame][kind] == 1:
                for slot, entry in self.words[frame].items():
                    if kind != L4 or slot not in XEN_SLOTS:
                        uses += self.needs(entry, frame, kind)
        if any(len(kinds) > 1 for kinds in types.values()):
            raise IllegalError
        return refs, types

    def needs(self, entry: int, table: int, level: int) -> list[Use]:
        """What an entry of a table of this level uses."""
        if not entry & PRESENT:
            return []
        if entry & (PCD | PSE) or (entry & GLOBAL and level > L1):
            raise IllegalError
        frame = (entry & FRAME) // PAGE_SIZE - self.first_mfn
        if level > L1 and not entry & RW:
            if frame == table:
                return []
            raise UndecidedError
        if frame not in self.existing:
            raise IllegalError
        if level == L1:
            return [(frame, WRITABLE if entry & RW else NONE)]
        return [(frame, level - 1)]


class PageTypes(RuleBasedStateMachine):
    frames = st.integers(0, POOL - 1)
    slots = st.sampled_from(SLOTS)
    flags = st.sampled_from(
        [PRESENT | RW] * 4 + [PRESENT | RW | USER, PRESENT, PRESENT, 0, PRESENT | RW | GLOBAL]
        + [PRESENT | RW | PSE, PRESENT | PCD]
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        self.guest = SmallDomain(None)
        self.tables = self.guest.tables
        self.model = Model(self.guest.mfn(FIRST))
        self.settle()

    def teardown(self) -> None:
        self.guest.close()

    def mfn(self, frame: int) -> int:
        return self.guest.mfn(FIRST + frame)

    def attempt(self, extra: Callable[[], list[Use]], operation: Callable[[], object]) -> bool:
        """Do it, and compare what becomes of it with what the model says. Whether it was done."""
        expected: bool | None
        try:
            self.model.count(*extra())
            expected = True
        except IllegalError:
            expected = False
        except UndecidedError:
            expected = None
        before = self.guest.snapshot()
        try:
            operation()
            done = True
        except XenError:
            done = False
            assert self.guest.snapshot() == before
        assert expected in (None, done)
        return done

    def settle(self) -> None:
        """Look at what the frames hold now, and which of them there still are."""
        model = self.model
        for frame in range(POOL):
            first = self.mfn(frame) * ENTRIES
            slots = (*SLOTS, PER_DOMAIN_SLOT)
            model.words[frame] = {slot: self.guest.memory.words[first + slot] for slot in slots}
        model.existing = {f for f in range(POOL) if self.guest.memory.is_domains(self.mfn(f))}

    def holds(self, frame: int) -> int:
        """The type that the model gives a frame."""
        return max(self.model.count()[1][frame], default=NONE)

    @rule(frame=frames, level=st.integers(L1, L4))
    def pin(self, frame: int, level: int) -> None:
        def uses() -> list[Use]:
            if frame in self.model.pins:
                raise IllegalError
            return [(frame, level)]

        if self.attempt(uses, lambda: self.tables.pin(self.mfn(frame), level)):
            self.model.pins[frame] = level
        self.settle()

    @rule(frame=frames)
    def unpin(self, frame: int) -> None:
        def uses() -> list[Use]:
            if frame not in self.model.pins:
                raise IllegalError
            return []

        if self.attempt(uses, lambda: self.tables.unpin(self.mfn(frame))):
            del self.model.pins[frame]
        self.settle()

    def update(self, frame: int, slot: int, entry: int) -> None:
        def uses() -> list[Use]:
            if frame not in self.model.existing:
                raise IllegalError
            kind = self.holds(frame)
            if kind == SEGMENT_DESCRIPTORS or (kind == L4 and slot in XEN_SLOTS):
                raise IllegalError
            return self.model.needs(entry, frame, kind) if L1 <= kind <= L4 else []

        address = self.mfn(frame) * PAGE_SIZE + slot * 8
        if self.attempt(uses, lambda: self.tables.update(address, entry, False)):
            written = self.guest.memory.words[address // 8]
            assert (written ^ entry) & ~(USER | ACCESSED) == 0
        self.settle()

    @rule(frame=frames, slot=slots, child=frames, flags=flags)
    def link(self, frame: int, slot: int, child: int, flags: int) -> None:
        self.update(frame, slot, self.mfn(child) * PAGE_SIZE | flags)

    @rule(frame=frames, slot=slots, mfn=st.sampled_from([0, XEN_FRAME, NO_FRAME]))
    def link_foreign_frame(self, frame: int, slot: int, mfn: int) -> None:
        self.update(frame, slot, mfn * PAGE_SIZE | PRESENT | RW)

    @rule(frame=frames)
    def load_base(self, frame: int) -> None:
        domain, vcpu = self.guest.domain, self.guest.vcpu
        uses: list[Use] = [] if frame == self.model.base else [(frame, L4)]
        if self.attempt(lambda: uses, lambda: domain.load_user_base(vcpu, self.mfn(frame))):
            self.model.base = frame
        self.settle()

    @rule()
    def leave_base(self) -> None:
        self.guest.domain.load_user_base(self.guest.vcpu, 0)
        self.model.base = None
        self.settle()

    @rule(frame=frames)
    def set_gdt(self, frame: int) -> None:
        def uses() -> list[Use]:
            return [(frame, SEGMENT_DESCRIPTORS)]

        if self.attempt(uses, lambda: load_gdt(self.guest.vcpu, [self.mfn(frame)])):
            self.model.gdt = frame
        self.settle()

    @rule()
    def clear_gdt(self) -> None:
        load_gdt(self.guest.vcpu, [])
        self.model.gdt = None
        self.settle()

    @rule(frame=frames)
    def release(self, frame: int) -> None:
        def uses() -> list[Use]:
            if frame not in self.model.existing:
                raise IllegalError
            return []

        if self.attempt(uses, lambda: self.guest.memory.release(self.mfn(frame))):
            self.model.owned.discard(frame)
        self.settle()

    @rule()
    def allocate(self) -> None:
        mfn = self.guest.memory.allocate()
        frame = mfn - self.model.first_mfn
        if 0 <= frame < POOL:
            self.model.owned.add(frame)
        else:
            self.guest.memory.release(mfn)
        self.settle()

    @invariant()
    def counts_are_those_of_the_model(self) -> None:
        assert self.guest.domain.audit() == []
        try:
            refs, types = self.model.count()
        except UndecidedError:
            return
        for frame in range(POOL):
            mfn = self.mfn(frame)
            assert self.tables.refs[mfn] == refs[frame]
            count = self.tables.type_counts[mfn]
            assert types[frame] == ({self.tables.types[mfn]: count} if count else {})


TestPageTypes = PageTypes.TestCase
TestPageTypes.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
