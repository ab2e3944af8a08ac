# SPDX-License-Identifier: GPL-2.0-or-later
"""update_descriptor: change one descriptor of a table that is in use, by machine address."""

from __future__ import annotations

from pyxen.abi.errno import EINVAL
from pyxen.abi.xen import HYPERVISOR_update_descriptor
from pyxen.errors import XenError
from pyxen.hypervisor.hypercalls.set_gdt import check_descriptor
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_flags import PAGE_SHIFT
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_update_descriptor)
def update_descriptor(vcpu: Vcpu, machine_address: int, descriptor: int) -> int:
    domain = vcpu.domain
    mfn = machine_address >> PAGE_SHIFT
    if machine_address & 7 or not domain.memory.is_domains(mfn) or domain.pagetables.types[mfn]:
        raise XenError(EINVAL)
    domain.memory.words[machine_address >> 3] = check_descriptor(descriptor)
    return 0
