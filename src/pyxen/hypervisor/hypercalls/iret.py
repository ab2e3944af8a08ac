# SPDX-License-Identifier: GPL-2.0-or-later
"""iret: return from a trap, to user mode or within the kernel; the only way to user mode."""

from __future__ import annotations

from pyxen.abi.xen import HYPERVISOR_iret
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_iret)
def iret(vcpu: Vcpu) -> None:
    """The frame is on the kernel's stack: see ``traps``."""
    vcpu.domain.traps.return_from_trap(vcpu)
