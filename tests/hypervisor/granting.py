# SPDX-License-Identifier: GPL-2.0-or-later
"""A small domain that grants pages, and a back end's access to them."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from small_domain import SmallDomain

from pyxen.abi import grant_table as abi
from pyxen.abi.xen import HYPERVISOR_grant_table_op
from pyxen.hypervisor.grant_access import GrantAccess
from pyxen.hypervisor.grants import GrantError
from pyxen.hypervisor.page_flags import PAGE_SIZE

PERMIT = abi.GTF_permit_access
READ_ONLY = PERMIT | abi.GTF_readonly
READING = abi.GTF_reading
BOTH = abi.GTF_reading | abi.GTF_writing


@contextmanager
def refused(status: int) -> Iterator[None]:
    with pytest.raises(GrantError) as error:
        yield
    assert error.value.status == status


class Granting:
    """The front end's side by ``grant`` and ``status``, the back end's by ``access``.

    The front end writes its table in place, as one that has it mapped.
    """

    def __init__(self, guest: SmallDomain, max_maptrack_frames: int = 1024) -> None:
        self.guest = guest
        self.table = guest.domain.grants
        self.access = GrantAccess(
            self.table, guest.domain.forget_code, max_maptrack_frames=max_maptrack_frames
        )

    def place(self, ref: int) -> int:
        """Machine address of an entry."""
        if self.table.version == 1:
            return self.table.mfns[ref // 512] * PAGE_SIZE + ref % 512 * 8
        return self.table.mfns[ref // 256] * PAGE_SIZE + ref % 256 * 16

    def write(self, ref: int, entry: bytes) -> None:
        self.guest.memory.bytes[self.place(ref) : self.place(ref) + len(entry)] = entry

    def grant(self, ref: int, pfn: int, flags: int = PERMIT, domid: int = 0) -> None:
        self.grant_frame(ref, self.guest.mfn(pfn), flags, domid)

    def grant_frame(self, ref: int, mfn: int, flags: int = PERMIT, domid: int = 0) -> None:
        """All of a page."""
        layout = "<HHI" if self.table.version == 1 else "<HHxxxxQ"
        self.write(ref, struct.pack(layout, flags, domid, mfn))

    def grant_part(self, ref: int, pfn: int, offset: int, length: int, flags: int = PERMIT) -> None:
        flags |= abi.GTF_sub_page
        self.write(ref, struct.pack("<HHHHQ", flags, 0, offset, length, self.guest.mfn(pfn)))

    def grant_on(self, ref: int, domid: int, other_ref: int) -> None:
        """Another domain's grant."""
        self.write(ref, struct.pack("<HHHxxII", abi.GTF_transitive, 0, domid, other_ref, 0))

    def flags(self, ref: int) -> int:
        place = self.place(ref)
        return int.from_bytes(self.guest.memory.bytes[place : place + 2], "little")

    def status(self, ref: int) -> int:
        """GTF_reading and GTF_writing."""
        if self.table.version == 1:
            return self.flags(ref) & BOTH
        place = self.table.status_mfns[ref // 2048] * PAGE_SIZE + ref % 2048 * 2
        return int.from_bytes(self.guest.memory.bytes[place : place + 2], "little")

    def execute(self, pfn: int) -> None:
        """Code on this page has been translated."""
        self.guest.memory.code_frames[self.guest.mfn(pfn)] = 1

    def page(self, pfn: int) -> memoryview:
        start = self.guest.maddr(pfn)
        return self.guest.memory.bytes[start : start + PAGE_SIZE]

    def call(self, command: int, place: int, count: int = 1) -> int:
        return self.guest.call(HYPERVISOR_grant_table_op, command, place, count)

    def set_version(self, version: int) -> int:
        place = self.guest.put_struct(abi.GNTTAB_SET_VERSION, version)
        return self.call(abi.GNTTABOP_set_version, place)

    def references(self, pfn: int) -> tuple[int, int, int]:
        """Of a page: references, type, uses of the type."""
        tables, mfn = self.guest.tables, self.guest.mfn(pfn)
        return tables.refs[mfn], tables.types[mfn], tables.type_counts[mfn]
