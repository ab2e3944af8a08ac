# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest gives pages back, gets others and exchanges them at random: its P2M and the M2P agree."""

from __future__ import annotations

import struct

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from small_domain import FREE, MAX_PAGES, PAGES, small_domain
from test_memory_exchange import exchange

from pyxen.abi import memory as abi
from pyxen.abi import xen
from pyxen.hypervisor.memory import INVALID_M2P_ENTRY

SELF = xen.DOMID_SELF
PFNS = st.integers(FREE, MAX_PAGES - 1)
BATCH = st.lists(PFNS, min_size=1, max_size=6, unique=True)


class Memory(RuleBasedStateMachine):
    """``p2m`` is the guest's own table; ``nameless`` are frames that it has for no pfn."""

    def __init__(self) -> None:
        super().__init__()
        self.scope = small_domain()
        self.guest = self.scope.__enter__()
        self.p2m = {pfn: self.guest.mfn(pfn) for pfn in range(PAGES)}
        self.nameless: list[int] = []

    def teardown(self) -> None:
        self.scope.__exit__(None, None, None)

    def room(self) -> int:
        return MAX_PAGES - len(self.p2m) - len(self.nameless)

    def ask(self, command: int, extents: list[int], done: int) -> list[int]:
        """The list as Xen leaves it, after ``done`` extents."""
        guest = self.guest
        place = guest.put(struct.pack(f"<{len(extents)}Q", *extents), 0x100)
        pointer = guest.put_struct(abi.XEN_MEMORY_RESERVATION, place, len(extents), 0, 0, SELF)
        assert guest.call(xen.HYPERVISOR_memory_op, command, pointer) == done
        size = 8 * len(extents)
        return list(struct.unpack(f"<{len(extents)}Q", guest.read(place, size)))

    @rule(pfns=BATCH)
    def balloon_down(self, pfns: list[int]) -> None:
        mfns = [self.p2m.pop(pfn) for pfn in pfns if pfn in self.p2m]
        self.ask(abi.XENMEM_decrease_reservation, mfns, len(mfns))

    @rule(pfns=BATCH)
    def balloon_up(self, pfns: list[int]) -> None:
        pfns = [pfn for pfn in pfns if pfn not in self.p2m]
        done = min(len(pfns), self.room())
        new = self.ask(abi.XENMEM_populate_physmap, pfns, done)
        assert new[done:] == pfns[done:]
        self.p2m.update(zip(pfns, new[:done], strict=False))

    @rule(count=st.integers(1, 3))
    def increase(self, count: int) -> None:
        done = min(count, self.room())
        self.nameless += self.ask(abi.XENMEM_increase_reservation, [0] * count, done)[:done]

    @rule()
    def give_back_what_has_no_pfn(self) -> None:
        self.ask(abi.XENMEM_decrease_reservation, self.nameless, len(self.nameless))
        self.nameless.clear()

    @rule(pfn=PFNS)
    def tell_the_pfn(self, pfn: int) -> None:
        """Linux does this by MMU_MACHPHYS_UPDATE for a frame that it was given."""
        if pfn in self.p2m or not self.nameless:
            return
        mfn = self.nameless.pop()
        request = self.guest.put(struct.pack("<2Q", mfn << 12 | xen.MMU_MACHPHYS_UPDATE, pfn))
        assert self.guest.call(xen.HYPERVISOR_mmu_update, request, 1, 0, SELF) == 0
        self.p2m[pfn] = mfn

    @rule(pfns=BATCH)
    def exchange(self, pfns: list[int]) -> None:
        if not self.room():  # the machine is no larger: no frame to take instead
            return
        pfns = [pfn for pfn in pfns if pfn in self.p2m]
        old = [self.p2m[pfn] for pfn in pfns]
        result, done, new = exchange(self.guest, old, pfns)
        assert (result, done) == (0, len(pfns))
        self.p2m.update(zip(pfns, new, strict=True))

    @invariant()
    def tables_agree(self) -> None:
        memory = self.guest.memory
        named = {mfn: pfn for pfn, mfn in self.p2m.items()}
        assert len(named) == len(self.p2m)
        assert memory.nr_pages == len(named) + len(self.nameless)
        for mfn in range(memory.ram_mfn, memory.ram_mfn + MAX_PAGES):
            assert memory.is_domains(mfn) == (mfn in named or mfn in self.nameless)
            assert memory.m2p[mfn] == named.get(mfn, INVALID_M2P_ENTRY)


TestMemory = Memory.TestCase
TestMemory.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
