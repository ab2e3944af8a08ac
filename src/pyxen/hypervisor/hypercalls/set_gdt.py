# SPDX-License-Identifier: GPL-2.0-or-later
"""set_gdt: the frames of the guest's descriptor table.

Xen maps them at an address of its own; descriptors from FIRST_RESERVED_GDT_ENTRY on are Xen's.
Those of the guest are made harmless: the privilege level becomes 3, the accessed bit is set.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.arch_x86_64 import FIRST_RESERVED_GDT_ENTRY
from pyxen.abi.errno import EINVAL
from pyxen.abi.xen import HYPERVISOR_set_gdt
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_flags import ENTRIES
from pyxen.hypervisor.vcpu import Vcpu

_PRESENT: Final = 1 << 47
_DPL: Final = 3 << 45
_CODE_OR_DATA: Final = 1 << 44
_ACCESSED: Final = 1 << 40
_TYPE: Final = 15 << 40


@hypercall(HYPERVISOR_set_gdt)
def set_gdt(vcpu: Vcpu, frames: int, entries: int) -> int:
    entries &= UINT32
    if entries > FIRST_RESERVED_GDT_ENTRY:
        raise XenError(EINVAL)
    pages = -(-entries // ENTRIES)
    load_gdt(vcpu, guest_access.read_words(vcpu, frames, pages) if pages else [])
    return 0


def load_gdt(vcpu: Vcpu, mfns: list[int]) -> None:
    """Check and map a descriptor table. Raises EINVAL; nothing has changed then.

    The pages are checked to their ends: what is mapped can be loaded.
    """
    memory = vcpu.domain.memory
    words = memory.words
    checked: list[tuple[int, list[int]]] = []
    for mfn in mfns:
        if not memory.is_domains(mfn) or vcpu.domain.pagetables.types[mfn]:
            raise XenError(EINVAL)
        first = mfn * ENTRIES
        checked.append((first, [check_descriptor(d) for d in words[first : first + ENTRIES]]))
    for first, descriptors in checked:
        for number, descriptor in enumerate(descriptors):
            words[first + number] = descriptor
    memory.map_gdt(vcpu.index, mfns)
    vcpu.domain.engine.flush_tlb()


def check_descriptor(descriptor: int) -> int:
    """The descriptor as the guest may have it. Raises EINVAL for gates and system segments.

    Type 0 is harmless: it is what the second half of a long descriptor looks like.
    """
    if not descriptor & _PRESENT or not descriptor & (_CODE_OR_DATA | _TYPE):
        return descriptor
    if not descriptor & _CODE_OR_DATA:
        raise XenError(EINVAL)
    return descriptor | _DPL | _ACCESSED
