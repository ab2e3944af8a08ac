# SPDX-License-Identifier: GPL-2.0-or-later
"""set_debugreg, get_debugreg: the debug registers. They are kept; breakpoints do not fire yet."""

from __future__ import annotations

from typing import Final

from pyxen.abi.arch_x86_64 import HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START
from pyxen.abi.errno import EINVAL, EPERM
from pyxen.abi.xen import HYPERVISOR_get_debugreg, HYPERVISOR_set_debugreg
from pyxen.errors import XenError
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.msr import is_canonical
from pyxen.hypervisor.vcpu import Vcpu

_DR6_ONES: Final = 0xFFFF0FF0
_DR6_SETTABLE: Final = 0xE00F
_DR7_ONE: Final = 0x400
_DR7_ZEROS: Final = 0xD800


@hypercall(HYPERVISOR_set_debugreg)
def set_debugreg(vcpu: Vcpu, number: int, value: int) -> int:
    """Raises EPERM for an address in Xen's range, EINVAL for registers that do not exist."""
    if number < 4:
        if HYPERVISOR_VIRT_START <= value < HYPERVISOR_VIRT_END or not is_canonical(value):
            raise XenError(EPERM)
    elif number == 6:
        value = value & _DR6_SETTABLE | _DR6_ONES
    elif number == 7:
        if value >> 32:
            raise XenError(EPERM)
        value = value & ~_DR7_ZEROS | _DR7_ONE
    else:
        raise XenError(EINVAL)
    vcpu.debug_registers[number] = value
    return 0


@hypercall(HYPERVISOR_get_debugreg)
def get_debugreg(vcpu: Vcpu, number: int) -> int:
    if number in (4, 5) or number > 7:
        raise XenError(EINVAL)
    if number == 6:
        return vcpu.debug_registers[6] | _DR6_ONES
    if number == 7:
        return vcpu.debug_registers[7] | _DR7_ONE
    return vcpu.debug_registers[number]
