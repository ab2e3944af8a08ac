# SPDX-License-Identifier: GPL-2.0-or-later
"""The debug registers of a vCPU.

DR0 to DR3 hold addresses, DR7 says what is a breakpoint there (execution, write, any access, or a
port), DR6 why the last debug exception came. A PV kernel sets them by hypercall or by MOV, which
traps; the engine lets execution and data breakpoints fire. Breakpoints on ports are Xen's to
check, as it carries out all port instructions.

Rules: Xen's ``set_debugreg`` (``arch/x86/pv/misc-hypercalls.c``) and ``do_debug``
(``arch/x86/traps.c``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyxen.abi.errno import EINVAL, ENODEV, EPERM
from pyxen.errors import XenError
from pyxen.hypervisor.addresses import UINT32, is_guest_address
from pyxen.hypervisor.emulate.privileged import CR4_DE

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

DR6_DEFAULT: Final = 0xFFFF0FF0
DR7_DEFAULT: Final = 0x400
SINGLE_STEP: Final = 1 << 14

_DR6_ZEROS: Final = 0x1000
_DR7_ZEROS: Final = 0xD800
_DR7_GENERAL_DETECT: Final = 0x2000
_DR7_ENABLED: Final = 0xFF
_IO: Final = 2
_LENGTHS: Final = (1, 2, 8, 4)


def read_register(vcpu: Vcpu, number: int) -> int:
    """Raises ENODEV for a register that does not exist."""
    return vcpu.debug_registers[_find(vcpu, number)]


def write_register(vcpu: Vcpu, number: int, value: int) -> None:
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
        value = value & ~_DR6_ZEROS | DR6_DEFAULT
    else:
        value = value & ~_DR7_ZEROS | DR7_DEFAULT
        if value & _DR7_GENERAL_DETECT:
            raise XenError(EPERM)
        if value & _DR7_ENABLED and not vcpu.cr4 & CR4_DE and _io_breakpoints(value):
            raise XenError(EPERM)
    vcpu.debug_registers[number] = value
    if number != 6:
        load_breakpoints(vcpu)


def load_breakpoints(vcpu: Vcpu) -> None:
    """Give the engine what it is to look after."""
    control = vcpu.debug_registers[7]
    vcpu.port_breakpoints = False
    for number in _io_breakpoints(control):
        vcpu.port_breakpoints |= control >> 2 * number & 3 != 0
        control &= ~(3 << 2 * number)
    vcpu.update_ports()
    vcpu.cpu.set_breakpoints(tuple(vcpu.debug_registers[:4]), control)


def note(vcpu: Vcpu, status: int) -> None:
    """A debug exception is about to be delivered: why, in bits of DR6."""
    vcpu.debug_registers[6] |= status | DR6_DEFAULT


def port_status(vcpu: Vcpu, port: int, size: int) -> int:
    """The bits of DR6 for the I/O breakpoints that an access of ``size`` bytes hits."""
    control = vcpu.debug_registers[7]
    if not control & _DR7_ENABLED or not vcpu.cr4 & CR4_DE:
        return 0
    status = 0
    for number in _io_breakpoints(control):
        if not control >> 2 * number & 3:
            continue
        start = vcpu.debug_registers[number]
        length = _LENGTHS[control >> 18 + 4 * number & 3]
        if start < port + size and start + length > port:
            status |= 1 << number
    return status


def _io_breakpoints(control: int) -> list[int]:
    """Which of the four are for ports."""
    return [number for number in range(4) if control >> 16 + 4 * number & 3 == _IO]


def _find(vcpu: Vcpu, number: int) -> int:
    """4 and 5 are other names of 6 and 7 unless CR4.DE is set."""
    if number > 7 or (number in (4, 5) and vcpu.cr4 & CR4_DE):
        raise XenError(ENODEV)
    return number + 2 if number in (4, 5) else number
