# SPDX-License-Identifier: GPL-2.0-or-later
"""The proof that the CPU state lies as ``state`` says: written by unicorn's public
interface, read in place, and the reverse."""

from __future__ import annotations

from typing import Any

from pyxen.engine.emulator import library
from pyxen.engine.emulator.state import (
    CC_SRC,
    DR0,
    GDT_BASE,
    GDT_LIMIT,
    LDT_BASE,
    LDT_LIMIT,
    MXCSR,
    TSC_AUX,
    XMM0,
    EmulatedRegisters,
)
from pyxen.engine.registers import RFLAGS
from pyxen.errors import PyxenError

_REGISTERS = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
    "rip", "fs_base", "gs_base", "cr2", "cr3",
)  # fmt: skip
_MSR_TSC_AUX = 0xC0000103


def check_state_layout() -> None:
    """Raises PyxenError naming the first register that is not where it should be."""
    import unicorn
    from unicorn import x86_const

    uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
    uc.reg_read(x86_const.UC_X86_REG_RAX)  # any call that makes it create its CPU
    _, address = library.state_address(uc._uch.value)
    state = EmulatedRegisters(address)
    for number, name in enumerate(_REGISTERS):
        value = 0x1234_5000 + (number << 12)
        register = getattr(x86_const, f"UC_X86_REG_{name.upper()}")
        uc.reg_write(register, value)
        if getattr(state, name) != value:
            raise PyxenError(f"emulator: unicorn's {name} is not where expected")
        setattr(state, name, value + 0x10)
        if uc.reg_read(register) == value:
            raise PyxenError(f"emulator: unicorn's {name} cannot be written in place")
    for number in range(4):
        uc.reg_write(getattr(x86_const, f"UC_X86_REG_DR{number}"), 0x5678_0000 + number)
        if state.words[DR0 + number] != 0x5678_0000 + number:
            raise PyxenError(f"emulator: unicorn's dr{number} is not where expected")
    uc.reg_write(x86_const.UC_X86_REG_XMM0, 0x1122_3344_5566_7788)
    if state.words[XMM0] != 0x1122_3344_5566_7788:
        raise PyxenError("emulator: unicorn's xmm0 is not where expected")
    uc.msr_write(_MSR_TSC_AUX, 0x1357_9BDF)
    if state.words[TSC_AUX] != 0x1357_9BDF:
        raise PyxenError("emulator: unicorn's tsc_aux is not where expected")
    uc.reg_write(x86_const.UC_X86_REG_MXCSR, 0x1FA0)
    if state.halves[MXCSR] != 0x1FA0:
        raise PyxenError("emulator: unicorn's mxcsr is not where expected")
    uc.reg_write(x86_const.UC_X86_REG_GDTR, (0, 0x1234_5000, 0x9876, 0))
    if (state.words[GDT_BASE], state.halves[GDT_LIMIT]) != (0x1234_5000, 0x9876):
        raise PyxenError("emulator: unicorn's gdtr is not where expected")
    uc.reg_write(x86_const.UC_X86_REG_LDTR, (0, 0x2345_6000, 0x8765, 0))
    if (state.words[LDT_BASE], state.halves[LDT_LIMIT]) != (0x2345_6000, 0x8765):
        raise PyxenError("emulator: unicorn's ldtr is not where expected")
    uc.reg_write(x86_const.UC_X86_REG_EFLAGS, 0x8D7)
    if state.words[RFLAGS] & 0x8D5 != 0x8D5 and state.words[CC_SRC] & 0x8D5 != 0x8D5:
        raise PyxenError("emulator: unicorn's eflags is not where expected")
