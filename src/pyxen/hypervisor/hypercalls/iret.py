# SPDX-License-Identifier: GPL-2.0-or-later
"""iret: return from a trap, to user mode or within the kernel; the only way to user mode.

The frame on the kernel's stack is ``struct iret_context``. The upcall mask of ``vcpu_info`` becomes the reverse of the
frame's interrupt flag.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.arch_x86_64 import IRET_CONTEXT, VGCF_in_syscall
from pyxen.abi.xen import HYPERVISOR_iret
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import MASK, Vcpu

_WORDS: Final = IRET_CONTEXT.size // 8
_IF: Final = 1 << 9
_IOPL: Final = 3 << 12
_VM: Final = 1 << 17
_ALWAYS: Final = 0x202
_LONG_MODE: Final = 1 << 53
_FLAGS: Final = 0x3F7FD5
"""Those that exist."""


@hypercall(HYPERVISOR_iret)
def iret(vcpu: Vcpu) -> None:
    """A frame that cannot be read crashes the domain, as under Xen."""
    cpu = vcpu.cpu
    registers = cpu.registers
    try:
        frame = guest_access.read_words(vcpu, registers.rsp, _WORDS)
    except XenError:
        raise DomainCrash(f"iret: no frame at {registers.rsp:#x}") from None
    rax, r11, rcx, flags, rip, cs, rflags, rsp, ss = frame
    if cs & 3 == 3:
        if not vcpu.user_table_mfn:
            raise DomainCrash("iret to user mode without a user page table")
        cs &= 0xFFFF
        cpu.enter_user(cs, ss & 0xFFFF | 3, _is_long(vcpu, cs))
    else:
        cpu.enter_kernel(cs & 0xFFFF | 3, ss & 0xFFFF | 3)
    if vcpu.domain.architectural_iopl:
        vcpu.iopl = (rflags & _IOPL) >> 12
    registers.rip = rip
    registers.rsp = rsp
    registers.rflags = rflags & _FLAGS & ~(_IOPL | _VM) | _ALWAYS
    if not flags & VGCF_in_syscall:
        registers.r11 = r11
        registers.rcx = rcx
    registers.rax = rax
    vcpu.domain.memory.bytes[vcpu.info + MASK] = 0 if rflags & _IF else 1


def _is_long(vcpu: Vcpu, cs: int) -> bool:
    """Whether a code selector is one of 64-bit code."""
    return bool(vcpu.domain.memory.descriptor(vcpu.index, cs) & _LONG_MODE)
