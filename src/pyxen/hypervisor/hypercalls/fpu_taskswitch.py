# SPDX-License-Identifier: GPL-2.0-or-later
"""fpu_taskswitch: set or clear CR0.TS, with which a kernel learns of the next use of the FPU."""

from __future__ import annotations

from pyxen.abi.xen import HYPERVISOR_fpu_taskswitch
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_fpu_taskswitch)
def fpu_taskswitch(vcpu: Vcpu, value: int) -> int:
    vcpu.cpu.set_task_switched(bool(value & UINT32))
    return 0
