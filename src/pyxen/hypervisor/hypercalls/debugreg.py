# SPDX-License-Identifier: GPL-2.0-or-later
"""set_debugreg, get_debugreg: the debug registers (see ``hypervisor.debug``)."""

from __future__ import annotations

from pyxen.abi.xen import HYPERVISOR_get_debugreg, HYPERVISOR_set_debugreg
from pyxen.hypervisor import debug
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_set_debugreg)
def set_debugreg(vcpu: Vcpu, number: int, value: int) -> int:
    debug.write_register(vcpu, number & UINT32, value)
    return 0


@hypercall(HYPERVISOR_get_debugreg)
def get_debugreg(vcpu: Vcpu, number: int) -> int:
    return debug.read_register(vcpu, number & UINT32)
