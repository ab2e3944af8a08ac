# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest must not be able to change in the machine, whatever it does."""

from __future__ import annotations

from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.memory import (
    DOMAIN,
    END_XEN_SLOT,
    FIRST_RESERVED_GDT_PAGE,
    FIRST_XEN_SLOT,
    VCPU_PAGES,
    XEN,
)
from pyxen.hypervisor.page_flags import ENTRIES, FRAME, PAGE_SIZE, PRESENT, RW
from pyxen.hypervisor.page_types import L4

_LOW_FRAMES = 512
"""Below the machine-to-phys table: all frames that Xen takes for so small a machine."""
_NOT_MAPPED = 0xFFFFFFFFFFFFFFFF


class Machine:
    """A picture of what is Xen's before a run, to compare with after it."""

    def __init__(self, domain: Domain) -> None:
        memory = domain.memory
        self._domain = domain
        self._frames = {
            mfn: bytes(memory.bytes[mfn * PAGE_SIZE : (mfn + 1) * PAGE_SIZE])
            for mfn in range(_LOW_FRAMES)
            if memory.owner[mfn] == XEN
        }
        first = self._per_domain_entries(0)
        self._descriptors = memory.words[first + FIRST_RESERVED_GDT_PAGE]
        self._zero = memory.words[first]
        base = domain.vcpus[0].kernel_table_mfn * ENTRIES
        self._slots = list(memory.words[base + FIRST_XEN_SLOT : base + END_XEN_SLOT])

    def changes(self) -> list[str]:
        """What has changed, in words; empty if nothing has."""
        return [
            *self._changed_frames(),
            *self._changed_descriptor_tables(),
            *self._changed_slots(),
            *self._changed_m2p(),
        ]

    def _per_domain_entries(self, vcpu: int) -> int:
        return self._domain.memory.gdt_entries + vcpu * VCPU_PAGES

    def _changed_frames(self) -> list[str]:
        """Frames that held something; one that was empty may have got a use."""
        memory = self._domain.memory
        first = self._per_domain_entries(0) // ENTRIES
        end = self._per_domain_entries(len(self._domain.vcpus)) // ENTRIES
        allowed = {memory.bounce_mfn, *range(first, end + 1)}
        zero = (self._zero & FRAME) // PAGE_SIZE
        return [
            f"Xen's frame {mfn:#x} has changed"
            for mfn, content in self._frames.items()
            if mfn not in allowed
            and memory.bytes[mfn * PAGE_SIZE : (mfn + 1) * PAGE_SIZE] != content
            and (any(content) or mfn == zero)
        ]

    def _changed_descriptor_tables(self) -> list[str]:
        """Each entry of the per-domain area maps Xen's page, or one of the domain's read-only."""
        memory, wrong = self._domain.memory, []
        for vcpu in self._domain.vcpus:
            first = self._per_domain_entries(vcpu.index)
            for page in range(VCPU_PAGES):
                entry = memory.words[first + page]
                if page == FIRST_RESERVED_GDT_PAGE:
                    good = entry == self._descriptors
                else:
                    mfn = (entry & FRAME) // PAGE_SIZE
                    good = not entry & PRESENT or entry == self._zero
                    good = good or (not entry & RW and memory.is_domains(mfn))
                if not good:
                    wrong.append(f"descriptor page {page} of vCPU {vcpu.index} is {entry:#x}")
        return wrong

    def _changed_slots(self) -> list[str]:
        domain, wrong = self._domain, []
        for mfn in range(domain.memory.ram_mfn, domain.memory.frames):
            if domain.pagetables.types[mfn] == L4:
                first = mfn * ENTRIES
                slots = domain.memory.words[first + FIRST_XEN_SLOT : first + END_XEN_SLOT]
                if list(slots) != self._slots:
                    wrong.append(f"Xen's slots in the L4 table {mfn:#x} have changed")
        return wrong

    def _changed_m2p(self) -> list[str]:
        """Entries of frames that are not the domain's tell nothing."""
        memory = self._domain.memory
        return [
            f"the M2P entry of frame {mfn:#x} is {memory.m2p[mfn]:#x}"
            for mfn in (*range(0, memory.ram_mfn, 97), *range(memory.ram_mfn, memory.frames))
            if memory.owner[mfn] != DOMAIN and memory.m2p[mfn] != _NOT_MAPPED
        ]
