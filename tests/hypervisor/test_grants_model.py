# SPDX-License-Identifier: GPL-2.0-or-later
"""Random work of a front end and two users of its grants, against a naive model.

The guest grants, changes, revokes and swaps entries, changes the version of its table, and pins
pages as page tables. Domain 0 maps and copies by a back end's access, the guest itself by
hypercalls. The model keeps entries and a list of mappings; counters, status bits and references
must be what can be counted there.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
from granting import Granting, refused
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from small_domain import BASE, FREE, small_domain

from pyxen.abi import grant_table as abi
from pyxen.abi import xen
from pyxen.abi.errno import EBUSY
from pyxen.hypervisor.grant_access import Mapping
from pyxen.hypervisor.grants import DEVICE_READ, DEVICE_WRITE, HOST_READ, HOST_WRITE, GrantError
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.page_types import NONE, WRITABLE

OKAY, GENERAL, BAD_REF = abi.GNTST_okay, abi.GNTST_general_error, abi.GNTST_bad_gntref
ME = 1
PLACE = BASE + 40 * PAGE_SIZE
REFS = st.sampled_from([3, 3, 8, 8, 9, 300])
PFNS = st.integers(FREE, FREE + 3)
HOST, DEVICE, RO = abi.GNTMAP_host_map, abi.GNTMAP_device_map, abi.GNTMAP_readonly
OWN_FLAGS = st.sampled_from([HOST, HOST | RO, DEVICE, HOST | DEVICE, HOST | DEVICE | RO])
BITS = abi.GTF_reading | abi.GTF_writing


@dataclass(frozen=True)
class Entry:
    """As the guest has written it; ``part`` is of a sub-page grant."""

    flags: int = 0
    domid: int = 0
    pfn: int = 0
    part: tuple[int, int] = (0, 0)

    @property
    def kind(self) -> int:
        return self.flags & abi.GTF_type_mask


@dataclass
class Use:
    """A mapping: of domain 0, with its ``mapping``, or of the guest with ``flags`` and an address.

    ``pfn`` is what the entry granted when its first mapping was made.
    """

    ref: int
    domid: int
    pfn: int
    flags: int
    mapping: Mapping | None = None
    handle: int = 0
    address: int = 0

    @property
    def readonly(self) -> bool:
        return bool(self.flags & RO)


class Grants(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.guest = self.stack.enter_context(small_domain())
        self.granting = Granting(self.guest)
        self.table = self.guest.domain.grants
        self.entries: dict[int, Entry] = {}
        self.uses: list[Use] = []
        self.pinned: set[int] = set()
        self.version = 1

    @initialize(version=st.sampled_from([1, 2]))
    def choose_version(self, version: int) -> None:
        assert self.granting.set_version(version) == 0
        self.version = version
        self.grant(3, FREE, 0, abi.GTF_permit_access)
        self.grant(8, FREE + 1, 0, abi.GTF_permit_access)
        self.grant(9, FREE + 2, ME, abi.GTF_permit_access)

    def teardown(self) -> None:
        self.stack.close()
        assert not any(self.table.pins)
        assert not list(self.table.held_frames())

    # The model's questions

    @property
    def nr_entries(self) -> int:
        return 512 if self.version == 1 else 256

    def entry(self, ref: int) -> Entry:
        return self.entries.get(ref, Entry())

    def uses_of(self, ref: int) -> list[Use]:
        return [use for use in self.uses if use.ref == ref]

    def expect(self, ref: int, domid: int, *, writing: bool, mapping: bool) -> tuple[int, int]:
        """(status, the page that is used)."""
        if ref >= self.nr_entries:
            return BAD_REF, 0
        entry, uses = self.entry(ref), self.uses_of(ref)
        if uses:
            pfn = uses[0].pfn
            if uses[0].domid != domid:
                return GENERAL, 0
            may_write = any(not use.readonly for use in uses)
        else:
            pfn = entry.pfn
            may_write = False
            whole = not entry.flags & abi.GTF_sub_page
            if entry.kind != abi.GTF_permit_access or entry.domid != domid:
                return GENERAL, 0
            if mapping and not whole:
                return GENERAL, 0
        if writing and not may_write and entry.flags & abi.GTF_readonly:
            return GENERAL, 0
        if writing and pfn in self.pinned:
            return GENERAL, 0
        return OKAY, pfn

    # The guest

    def write(self, ref: int, entry: Entry) -> None:
        """Xen's bits stay, as guests change entries by compare-and-exchange."""
        bits = self.granting.status(ref) if self.version == 1 else 0
        if entry.part != (0, 0):
            self.granting.grant_part(ref, entry.pfn, *entry.part, entry.flags)
            place = self.granting.place(ref) + 2
            self.guest.memory.bytes[place] = entry.domid
        else:
            self.granting.grant(ref, entry.pfn, entry.flags | bits, entry.domid)
        self.entries[ref] = entry

    @rule(
        ref=REFS,
        pfn=PFNS,
        domid=st.sampled_from([0, 0, ME]),
        flags=st.sampled_from(
            [
                abi.GTF_permit_access,
                abi.GTF_permit_access | abi.GTF_readonly,
                abi.GTF_accept_transfer,
            ]
        ),
    )
    def grant(self, ref: int, pfn: int, domid: int, flags: int) -> None:
        # A change of the version takes Xen's bits from an entry that grants no access any more.
        if flags == abi.GTF_accept_transfer and self.uses_of(ref):
            return
        if ref < self.nr_entries:
            self.write(ref, Entry(flags, domid, pfn))

    @precondition(lambda self: self.version == 2)
    @rule(ref=REFS, pfn=PFNS, offset=st.integers(1, 5000), length=st.integers(1, 5000))
    def grant_part(self, ref: int, pfn: int, offset: int, length: int) -> None:
        if ref < self.nr_entries:
            flags = abi.GTF_permit_access | abi.GTF_sub_page
            self.write(ref, Entry(flags, 0, pfn, (offset, length)))

    @rule(ref=REFS)
    def revoke(self, ref: int) -> None:
        if ref < self.nr_entries and not self.uses_of(ref):
            self.write(ref, Entry())

    @rule(first=REFS, second=REFS)
    def swap(self, first: int, second: int) -> None:
        layout = abi.GNTTAB_SWAP_GRANT_REF
        place = self.guest.put_struct(layout, first, second, 99)
        assert self.granting.call(abi.GNTTABOP_swap_grant_ref, place) == 0
        status = self.guest.read_struct(layout, place)[2]
        if max(first, second) >= self.nr_entries:
            assert status == BAD_REF
        elif first != second and (self.uses_of(first) or self.uses_of(second)):
            assert status == abi.GNTST_eagain
        else:
            assert status == OKAY
            self.entries[first], self.entries[second] = self.entry(second), self.entry(first)

    @rule(version=st.sampled_from([1, 2]))
    def set_version(self, version: int) -> None:
        busy = version != self.version and any(use.ref >= 8 for use in self.uses)
        assert self.granting.set_version(version) == (-EBUSY if busy else 0)
        if busy or version == self.version:
            return
        kept = {ref: entry for ref, entry in self.entries.items() if ref < 8}
        if version == 1:
            kept = {
                ref: replace(entry, part=(0, 0))
                for ref, entry in kept.items()
                if entry.kind == abi.GTF_permit_access
            }
        self.entries = kept
        self.version = version

    @rule(pfn=PFNS)
    def pin(self, pfn: int) -> None:
        command = xen.MMUEXT_UNPIN_TABLE if pfn in self.pinned else xen.MMUEXT_PIN_L1_TABLE
        place = self.guest.put_struct(xen.MMUEXT_OP, command, self.guest.mfn(pfn), 0)
        result = self.guest.call(xen.HYPERVISOR_mmuext_op, place, 1, 0, xen.DOMID_SELF)
        if any(use.pfn == pfn and not use.readonly for use in self.uses):
            assert result < 0
        else:
            assert result == 0
            self.pinned ^= {pfn}

    @rule(
        wanted=st.lists(st.tuples(REFS, OWN_FLAGS, st.integers(0, 20)), min_size=1, max_size=5),
    )
    def map_own(self, wanted: list[tuple[int, int, int]]) -> None:
        for ref, flags, page in wanted:
            self.map_own_one(ref, flags, page)

    def map_own_one(self, ref: int, flags: int, page: int) -> None:
        address = PLACE + page * PAGE_SIZE
        if any(use.address == address for use in self.uses):
            return
        layout = abi.GNTTAB_MAP_GRANT_REF
        place = self.guest.put_struct(layout, address, flags, ref, ME, 99, 0, 0)
        assert self.granting.call(abi.GNTTABOP_map_grant_ref, place) == 0
        status, handle, _ = self.guest.read_struct(layout, place)[4:]
        expected, pfn = self.expect(ref, ME, writing=not flags & RO, mapping=True)
        assert status == expected
        if status == OKAY:
            used = address if flags & HOST else 0
            self.uses.append(Use(ref, ME, pfn, flags, handle=handle, address=used))

    # Domain 0

    @rule(wanted=st.lists(st.tuples(REFS, st.booleans()), min_size=1, max_size=5))
    def map(self, wanted: list[tuple[int, bool]]) -> None:
        for ref, readonly in wanted:
            self.map_one(ref, readonly)

    def map_one(self, ref: int, readonly: bool) -> None:
        expected, pfn = self.expect(ref, 0, writing=not readonly, mapping=True)
        if expected != OKAY:
            with refused(expected):
                self.granting.access.map(ref, readonly=readonly)
            return
        mapping = self.granting.access.map(ref, readonly=readonly)
        flags = HOST | RO if readonly else HOST
        self.uses.append(Use(ref, 0, pfn, flags, mapping))
        assert mapping.page == self.granting.page(pfn)

    @precondition(lambda self: self.uses)
    @rule(data=st.data())
    def unmap(self, data: Any) -> None:
        use = self.uses.pop(data.draw(st.integers(0, len(self.uses) - 1)))
        if use.mapping is not None:
            self.granting.access.unmap(use.mapping)
            return
        bus_address = self.guest.maddr(use.pfn) if use.flags & DEVICE else 0
        layout = abi.GNTTAB_UNMAP_GRANT_REF
        place = self.guest.put_struct(layout, use.address, bus_address, use.handle, 99)
        assert self.granting.call(abi.GNTTABOP_unmap_grant_ref, place) == 0
        assert self.guest.read_struct(layout, place)[3] == OKAY

    @rule(ref=REFS, offset=st.integers(0, 5000), size=st.integers(1, 4096), writing=st.booleans())
    def copy(self, ref: int, offset: int, size: int, writing: bool) -> None:
        expected, pfn = self.expect(ref, 0, writing=writing, mapping=False)
        if expected == OKAY and offset + size > PAGE_SIZE:
            expected = abi.GNTST_bad_copy_arg
        entry = self.entry(ref)
        in_part = self.version == 2 and entry.flags & abi.GTF_sub_page and not self.uses_of(ref)
        if expected == OKAY and in_part:
            first, length = entry.part
            if offset < first or offset + size > first + length:
                expected = GENERAL
        data = b"\x02\x04" * (size // 2 + 1)  # valid as a page table: nothing is present
        try:
            if writing:
                self.granting.access.copy_to(ref, offset, data[:size])
                assert self.granting.page(pfn)[offset : offset + size] == data[:size]
            else:
                seen = self.granting.access.copy_from(ref, offset, size)
                assert self.granting.page(pfn)[offset : offset + size] == seen
            status = OKAY
        except GrantError as error:
            status = error.status
        assert status == expected

    # What must always hold

    @invariant()
    def counters(self) -> None:
        expected: dict[int, int] = {}
        for use in self.uses:
            for flag, read, write in (
                (HOST, HOST_READ, HOST_WRITE),
                (DEVICE, DEVICE_READ, DEVICE_WRITE),
            ):
                if use.flags & flag:
                    increment = read if use.readonly else write
                    expected[use.ref] = expected.get(use.ref, 0) + increment
        assert {ref: pin for ref, pin in enumerate(self.table.pins) if pin} == expected

    @invariant()
    def status(self) -> None:
        for ref in self.entries.keys() | {use.ref for use in self.uses}:
            uses = self.uses_of(ref)
            bits = abi.GTF_reading if uses else 0
            if any(not use.readonly for use in uses):
                bits = BITS
            assert self.granting.status(ref) == bits
            assert self.granting.flags(ref) & ~BITS == self.entry(ref).flags

    @invariant()
    def references(self) -> None:
        for pfn in range(FREE, FREE + 4):
            uses = [use for use in self.uses if use.pfn == pfn]
            single = [use for use in uses for flag in (HOST, DEVICE) if use.flags & flag]
            writers = sum(not use.readonly for use in single)
            refs, kind, count = self.granting.references(pfn)
            assert refs == 1 + len(single) + (pfn in self.pinned)
            assert count == writers + (pfn in self.pinned)
            if writers:
                assert kind == WRITABLE

    @invariant()
    def held(self) -> None:
        expected = [
            (self.guest.mfn(use.pfn), NONE if use.readonly else WRITABLE)
            for use in self.uses
            if use.mapping is not None or use.flags & DEVICE
        ]
        assert sorted(self.table.held_frames()) == sorted(expected)
        assert self.guest.domain.audit() == []


TestGrants = Grants.TestCase
TestGrants.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
