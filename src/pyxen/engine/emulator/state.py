# SPDX-License-Identifier: GPL-2.0-or-later
"""unicorn's CPU state (QEMU 5.0's CPUX86State) as a ctypes structure.

Names that ``protocol.Registers`` has are used as they are. Condition codes are lazy: the last
operation and its operands are kept, and the flags are computed when somebody asks; ``rflags``
does that. ``hflags`` are the bits of CPU state that translated code depends on.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Final

from pyxen.engine.emulator import library

_CONDITION_CODES: Final = 0x8D5  # OF SF ZF AF PF CF
_DIRECTION: Final = 0x400
_CC_OP_EFLAGS: Final = 1  # "the flags are in cc_src"

_u64, _u32, _i32 = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int32

_GENERAL: Final = (
    ("rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
    + ("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15")
)  # fmt: skip
_SEGMENTS: Final = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr", "gdt", "idt")


def _segment_fields(name: str) -> list[tuple[str, type]]:
    return [
        (name, _u32),
        (f"_{name}_pad", _u32),
        (f"{name}_base", _u64),
        (f"{name}_limit", _u32),
        (f"{name}_flags", _u32),
    ]


class CpuState(ctypes.Structure):
    """The part of CPUX86State that we name; ``SIZE`` bytes, of which ``SAVED`` are a CPU's own."""

    _fields_ = [
        *((name, _u64) for name in _GENERAL),
        ("rip", _u64),
        ("eflags", _u64),
        ("cc_dst", _u64),
        ("cc_src", _u64),
        ("cc_src2", _u64),
        ("cc_op", _u32),
        ("df", _i32),
        ("hflags", _u32),
        ("hflags2", _u32),
        *(field for name in _SEGMENTS for field in _segment_fields(name)),
        ("cr0", _u64),
        ("_cr1", _u64),
        ("cr2", _u64),
        ("cr3", _u64),
        ("cr4", _u64),
        ("_cr5_8", _u64 * 4),
        ("_to_mxcsr", ctypes.c_uint8 * (0x330 - 496)),
        ("mxcsr", _u32),
        ("_mxcsr_pad", _u32),
        ("xmm0", _u64),
        ("_to_error_code", ctypes.c_uint8 * (0x1508 - 0x340)),
        ("error_code", _u32),
        ("exception_is_int", _u32),
        ("exception_next_eip", _u64),
        ("dr", _u64 * 8),
        ("_breakpoints", _u64 * 4),
        ("old_exception", _u32),
        ("_end_pad", _u32),
    ]

    if TYPE_CHECKING:  # the fields above, for those who check types
        rax: int
        rcx: int
        rdx: int
        rbx: int
        rsp: int
        rbp: int
        rsi: int
        rdi: int
        r8: int
        r9: int
        r10: int
        r11: int
        r12: int
        r13: int
        r14: int
        r15: int
        rip: int
        eflags: int
        cc_dst: int
        cc_src: int
        cc_src2: int
        cc_op: int
        df: int
        hflags: int
        hflags2: int
        es: int
        cs: int
        ss: int
        ds: int
        fs: int
        gs: int
        cs_flags: int
        ss_flags: int
        fs_base: int
        gs_base: int
        gdt_base: int
        gdt_limit: int
        cr0: int
        cr2: int
        cr3: int
        cr4: int
        mxcsr: int
        xmm0: int
        error_code: int
        exception_is_int: int
        old_exception: int
        dr: ctypes.Array[ctypes.c_uint64]

    @property
    def rflags(self) -> int:
        """The flags register, with the condition codes computed."""
        codes = self.cc_src
        if self.cc_op != _CC_OP_EFLAGS:
            codes = library.load().cpu_cc_compute_all_x86_64(ctypes.addressof(self), self.cc_op)
        flags = self.eflags & ~(_CONDITION_CODES | _DIRECTION) | codes & _CONDITION_CODES
        return int(flags | self.df & _DIRECTION | 2)

    @rflags.setter
    def rflags(self, value: int) -> None:
        self.cc_src = value & _CONDITION_CODES
        self.cc_op = _CC_OP_EFLAGS
        self.df = -1 if value & _DIRECTION else 1
        self.eflags = value & ~(_CONDITION_CODES | _DIRECTION) | 2

    def pack_flags(self) -> None:
        """Put the whole flags register into ``eflags``, as unicorn expects it at its entry."""
        self.eflags = self.rflags

    def unpack_flags(self) -> None:
        """The reverse, after unicorn has returned."""
        self.rflags = self.eflags


SIZE: Final = ctypes.sizeof(CpuState)
SAVED: Final = 0x1508
"""What lies behind are the details of the last exception and the debug registers."""
