# SPDX-License-Identifier: GPL-2.0-or-later
"""stack_switch: the stack on which the kernel is entered from user mode, at each task switch."""

from __future__ import annotations

from pyxen.abi.xen import HYPERVISOR_stack_switch
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_stack_switch)
def stack_switch(vcpu: Vcpu, ss: int, esp: int) -> int:
    vcpu.kernel_ss = ss & 0xFFFF | 3
    vcpu.kernel_sp = esp
    return 0
