# SPDX-License-Identifier: GPL-2.0-or-later
"""set_trap_table: the guest's handlers for exceptions, a list that ends with address 0."""

from __future__ import annotations

from pyxen.abi.arch_x86_64 import TRAP_INFO
from pyxen.abi.errno import EINVAL
from pyxen.abi.xen import HYPERVISOR_set_trap_table
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.continuation import Continuation
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.msr import is_canonical
from pyxen.hypervisor.vcpu import TRAPS, Vcpu


@hypercall(HYPERVISOR_set_trap_table)
def set_trap_table(vcpu: Vcpu, traps: int) -> int:
    """A null pointer forgets all handlers. Entries before a bad one stay."""
    if not traps:
        for vector in range(TRAPS):
            vcpu.trap_address[vector] = vcpu.trap_flags[vector] = vcpu.trap_cs[vector] = 0
        return 0
    while True:
        entry = guest_access.copy_from(vcpu, traps, TRAP_INFO.size)
        vector, flags, cs, address = TRAP_INFO.unpack(entry)
        if not address:
            return 0
        if not is_canonical(address):
            raise XenError(EINVAL)
        vcpu.trap_address[vector] = address
        vcpu.trap_flags[vector] = flags
        vcpu.trap_cs[vector] = cs | 3
        traps += TRAP_INFO.size
        if vcpu.domain.preempt_check(vcpu):  # a guest may give us a table without an end
            raise Continuation(traps)
