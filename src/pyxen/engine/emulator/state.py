# SPDX-License-Identifier: GPL-2.0-or-later
"""unicorn's CPU state (QEMU 5.0's CPUX86State) as two arrays, of 64-bit and of 32-bit words.

The positions of ``engine.registers`` are those of this structure. Condition codes are lazy: the
last operation and its operands are kept, and the flags are computed when somebody asks. ``hflags``
are the bits of CPU state that translated code depends on.
"""

from __future__ import annotations

import ctypes
from typing import Final

from pyxen.engine.emulator import library, machine_code
from pyxen.engine.registers import RFLAGS, Registers

# Positions among the 64-bit words …
CC_SRC: Final = 19
CS_BASE: Final = 27
SS_BASE: Final = 30
LDT_BASE: Final = 42
GDT_BASE: Final = 48
XMM0: Final = 0x338 // 8
TSC_AUX: Final = 0x1320 // 8
DR0: Final = 0x1518 // 8
DR6: Final = DR0 + 6

# … and among the 32-bit ones.
CC_OP: Final = 168 // 4
DF: Final = 172 // 4
HFLAGS: Final = 176 // 4
CS_FLAGS: Final = 228 // 4
SS_FLAGS: Final = 252 // 4
LDT_LIMIT: Final = 344 // 4
TRAP_FLAGS: Final = machine_code.TRAP_FLAGS // 4
GDT_LIMIT: Final = 392 // 4
MXCSR: Final = 0x330 // 4
ERROR_CODE: Final = 0x1508 // 4
EXCEPTION_IS_INT: Final = 0x150C // 4
INSTRUCTION_LENGTH: Final = 0x1510 // 4
"""See ``machine_code``."""
OLD_EXCEPTION: Final = 0x1578 // 4

# The segment registers: selector, base, limit, flags in 24 bytes each.
SEGMENTS: Final = 184
SEGMENT_SIZE: Final = 24
NR_SEGMENTS: Final = 6
SEGMENT_BASE: Final = 8
SEGMENT_LIMIT: Final = 16
SEGMENT_FLAGS: Final = 20

CPUID_FAULTS: Final = 1 << machine_code.CPUID_FAULTS
"""In TRAP_FLAGS: see ``machine_code``."""

SIZE: Final = 0x1580
SAVED: Final = 0x1508
"""A CPU's own part: behind it are the last exception and the debug registers."""

_OWN_WORDS: Final = SAVED // 8

_CONDITION_CODES: Final = 0x8D5  # OF SF ZF AF PF CF
_DIRECTION: Final = 0x400
_CC_OP_EFLAGS: Final = 1  # "the flags are in cc_src"
_SOURCE: Final = CC_SRC
_LAZY: Final = _CONDITION_CODES | _DIRECTION
_ONE: Final = 2
_BACKWARDS: Final = 0xFFFFFFFF  # df is -1 then


class EmulatedRegisters(Registers):
    """The state at ``address``, or in memory of its own (0)."""

    def __init__(self, address: int = 0) -> None:
        array = ctypes.c_char * SIZE
        view = memoryview(array.from_address(address) if address else array()).cast("B")
        Registers.__init__(self, view.cast("Q"))
        self.halves = view.cast("I")
        self._compute_all = library.load().cpu_cc_compute_all_x86_64
        self._address = address

    def copy_from(self, other: EmulatedRegisters) -> None:
        """Take the state of another one, whose flags are not lazy."""
        self.words[:_OWN_WORDS] = other.words[:_OWN_WORDS]

    def read_flags(self) -> int:
        """RFLAGS, with the condition codes computed."""
        operation = self.halves[CC_OP]
        codes = self.words[_SOURCE]
        if operation != _CC_OP_EFLAGS:
            codes = self._compute_all(self._address, operation)
        flags = self.words[RFLAGS] & ~_LAZY | codes & _CONDITION_CODES
        return flags | self.halves[DF] & _DIRECTION | _ONE

    def write_flags(self, value: int) -> None:
        """Set RFLAGS."""
        self.words[_SOURCE] = value & _CONDITION_CODES
        self.halves[CC_OP] = _CC_OP_EFLAGS
        self.halves[DF] = _BACKWARDS if value & _DIRECTION else 1
        self.words[RFLAGS] = value & ~_LAZY | _ONE

    def settle_flags(self) -> None:
        """Leave no lazy condition codes behind, before the state is copied."""
        self.write_flags(self.read_flags())

    def pack_flags(self) -> None:
        """Put the whole flags register into ``eflags``, as unicorn expects it at its entry."""
        self.words[RFLAGS] = self.read_flags()

    def unpack_flags(self) -> None:
        """The reverse, after unicorn has returned."""
        self.write_flags(self.words[RFLAGS])
