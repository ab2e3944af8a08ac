# SPDX-License-Identifier: GPL-2.0-or-later
"""set_gdt: the frames of the guest's descriptor table; see ``descriptor_tables``.

Descriptors from FIRST_RESERVED_GDT_ENTRY on are Xen's.
"""

from __future__ import annotations

from pyxen.abi.arch_x86_64 import FIRST_RESERVED_GDT_ENTRY
from pyxen.abi.errno import EINVAL
from pyxen.abi.xen import HYPERVISOR_set_gdt
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.descriptor_tables import load_gdt
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_flags import ENTRIES
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_set_gdt)
def set_gdt(vcpu: Vcpu, frames: int, entries: int) -> int:
    """The pages are checked to their ends: what is mapped can be loaded."""
    entries &= UINT32
    if entries > FIRST_RESERVED_GDT_ENTRY:
        raise XenError(EINVAL)
    load_gdt(vcpu, guest_access.read_words(vcpu, frames, -(-entries // ENTRIES)))
    vcpu.domain.engine.flush_tlb()
    return 0
