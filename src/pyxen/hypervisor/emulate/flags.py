# SPDX-License-Identifier: GPL-2.0-or-later
"""The arithmetic flags that x86 integer instructions leave in RFLAGS.

Every function takes unsigned operands of ``size`` bytes and returns the unsigned result with the
six flags CF, PF, AF, ZF, SF and OF at their places in RFLAGS, all other bits clear. Rules: Intel
SDM volume 1, section 3.4.3.1, and volume 2, "Flags Affected" of each instruction.
"""

from __future__ import annotations

CARRY = 1 << 0
PARITY = 1 << 2
ADJUST = 1 << 4
ZERO = 1 << 6
SIGN = 1 << 7
DIRECTION = 1 << 10
OVERFLOW = 1 << 11
ARITHMETIC = CARRY | PARITY | ADJUST | ZERO | SIGN | OVERFLOW

# PF looks at the low byte alone and is set when the number of ones in it is even.
_PARITY_OF_BYTE = tuple(0 if byte.bit_count() & 1 else PARITY for byte in range(256))


def _of_result(result: int, size: int) -> int:
    """PF, ZF and SF, which depend on the result alone."""
    flags = _PARITY_OF_BYTE[result & 0xFF]
    if result == 0:
        flags |= ZERO
    if result >> (8 * size - 1):
        flags |= SIGN
    return flags


def add(left: int, right: int, carry: int, size: int) -> tuple[int, int]:
    """``left + right + carry`` (ADD, ADC, XADD, INC)."""
    bits = 8 * size
    total = left + right + carry
    result = total & ((1 << bits) - 1)
    flags = _of_result(result, size) | ((left ^ right ^ result) & ADJUST)
    if total >> bits:
        flags |= CARRY
    if ((left ^ result) & (right ^ result)) >> (bits - 1):
        flags |= OVERFLOW
    return result, flags


def subtract(left: int, right: int, borrow: int, size: int) -> tuple[int, int]:
    """``left - right - borrow`` (SUB, SBB, CMP, CMPXCHG, DEC, NEG)."""
    bits = 8 * size
    difference = left - right - borrow
    result = difference & ((1 << bits) - 1)
    flags = _of_result(result, size) | ((left ^ right ^ result) & ADJUST)
    if difference < 0:
        flags |= CARRY
    if ((left ^ right) & (left ^ result)) >> (bits - 1):
        flags |= OVERFLOW
    return result, flags


def logic(result: int, size: int) -> tuple[int, int]:
    """The result of AND, OR or XOR: CF and OF are clear, and AF, which is undefined, too."""
    return result, _of_result(result, size)
