# SPDX-License-Identifier: GPL-2.0-or-later
"""set_debugreg, get_debugreg: the debug registers. They are kept; breakpoints do not fire yet."""

from __future__ import annotations

from typing import Final

from pyxen.abi.errno import EINVAL, ENODEV, EPERM
from pyxen.abi.xen import HYPERVISOR_get_debugreg, HYPERVISOR_set_debugreg
from pyxen.errors import XenError
from pyxen.hypervisor.addresses import UINT32, is_guest_address
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu

_DR6_ONES: Final = 0xFFFF0FF0
_DR6_SETTABLE: Final = 0xE00F
_DR7_ONE: Final = 0x400
_DR7_ZEROS: Final = 0xD800
_DR7_GENERAL_DETECT: Final = 0x2000
_DR7_ENABLED: Final = 0xFF
_IO: Final = 2
_CR4_DE: Final = 8


@hypercall(HYPERVISOR_set_debugreg)
def set_debugreg(vcpu: Vcpu, number: int, value: int) -> int:
    """Raises ENODEV for a register that does not exist, EINVAL for bits that do not, EPERM for
    what a guest may not have: an address of Xen's, general detect, I/O breakpoints without CR4.DE.
    """
    number = _find(vcpu, number)
    if number < 4:
        if not is_guest_address(value):
            raise XenError(EPERM)
    elif value > UINT32:
        raise XenError(EINVAL)
    elif number == 6:
        value = value & _DR6_SETTABLE | _DR6_ONES
    else:
        value = _check_dr7(vcpu, value & ~_DR7_ZEROS | _DR7_ONE)
    vcpu.debug_registers[number] = value
    return 0


@hypercall(HYPERVISOR_get_debugreg)
def get_debugreg(vcpu: Vcpu, number: int) -> int:
    number = _find(vcpu, number)
    value = vcpu.debug_registers[number]
    if number == 6:
        return value | _DR6_ONES
    if number == 7:
        return value | _DR7_ONE
    return value


def _find(vcpu: Vcpu, number: int) -> int:
    """4 and 5 are other names of 6 and 7 unless CR4.DE is set."""
    number &= UINT32
    if number > 7 or (number in (4, 5) and vcpu.cr4 & _CR4_DE):
        raise XenError(ENODEV)
    return number + 2 if number in (4, 5) else number


def _check_dr7(vcpu: Vcpu, value: int) -> int:
    if value & _DR7_GENERAL_DETECT:
        raise XenError(EPERM)
    if value & _DR7_ENABLED and not vcpu.cr4 & _CR4_DE:
        for shift in range(16, 32, 4):
            if value >> shift & 3 == _IO:
                raise XenError(EPERM)
    return value
