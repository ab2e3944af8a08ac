# SPDX-License-Identifier: GPL-2.0-or-later
"""Decoded instructions and their operands: register parts, and the address of a memory operand.

Instructions are decoded as if they stood at address 0, so that the same bytes decode to the same
thing wherever they are and can be remembered; whoever needs RIP adds it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from iced_x86 import Decoder, Instruction
from iced_x86 import Register as Iced
from msgspec import Struct

if TYPE_CHECKING:
    from pyxen.engine.protocol import Registers

MASK_32 = (1 << 32) - 1
MASK_64 = (1 << 64) - 1


class RegisterPart(Struct, frozen=True):
    """A general register or a part of one: ``size`` bytes of register ``name`` from bit ``shift``.

    ``ah`` is ``RegisterPart("rax", 1, 8)``.
    """

    name: str
    size: int
    shift: int = 0

    def read(self, registers: Registers) -> int:
        """The unsigned value of this part."""
        whole: int = getattr(registers, self.name)
        return (whole >> self.shift) & ((1 << (8 * self.size)) - 1)

    def merge(self, registers: Registers, value: int) -> int:
        """What the whole register becomes when ``value`` is written to this part.

        As on every x86-64 CPU a 32-bit write clears the upper half, and a shorter one keeps the
        rest.
        """
        if self.size >= 4:
            return value
        whole: int = getattr(registers, self.name)
        mask = ((1 << (8 * self.size)) - 1) << self.shift
        return (whole & ~mask) | (value << self.shift)


def _general_registers() -> dict[int, RegisterPart]:
    """Every general register of iced-x86 by its number there."""
    parts: dict[int, RegisterPart] = {}
    for letter in "abcd":
        parts[getattr(Iced, f"{letter}l".upper())] = RegisterPart(f"r{letter}x", 1)
        parts[getattr(Iced, f"{letter}h".upper())] = RegisterPart(f"r{letter}x", 1, 8)
    for name in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp"):
        parts[getattr(Iced, name.upper())] = RegisterPart(f"r{name}", 2)
        parts[getattr(Iced, f"E{name}".upper())] = RegisterPart(f"r{name}", 4)
        parts[getattr(Iced, f"R{name}".upper())] = RegisterPart(f"r{name}", 8)
    for name in ("si", "di", "bp", "sp"):
        parts[getattr(Iced, f"{name}l".upper())] = RegisterPart(f"r{name}", 1)
    for number in range(8, 16):
        parts[getattr(Iced, f"R{number}L")] = RegisterPart(f"r{number}", 1)
        parts[getattr(Iced, f"R{number}W")] = RegisterPart(f"r{number}", 2)
        parts[getattr(Iced, f"R{number}D")] = RegisterPart(f"r{number}", 4)
        parts[getattr(Iced, f"R{number}")] = RegisterPart(f"r{number}", 8)
    return parts


GENERAL_REGISTERS = _general_registers()

# An address that uses one of these is 32 bits wide (address-size prefix).
_NARROW_REGISTERS = {Iced.EIP} | {n for n, part in GENERAL_REGISTERS.items() if part.size == 4}

# In 64-bit mode the other segments have base 0.
SEGMENT_BASES = {Iced.FS: "fs_base", Iced.GS: "gs_base"}


class MemoryOperand(Struct, frozen=True):
    """Where an instruction's memory operand lies, as a recipe over the registers.

    ``address`` evaluates it; ``mask`` is the address size (32 or 64 ones).
    """

    base: RegisterPart | None
    index: RegisterPart | None
    scale: int
    displacement: int
    rip_relative: bool
    segment_base: str | None
    mask: int

    def address(self, registers: Registers, offset: int = 0) -> int:
        """The linear address, ``offset`` bytes further on."""
        effective = self.displacement + offset
        if self.rip_relative:
            effective += registers.rip
        if self.base is not None:
            effective += self.base.read(registers)
        if self.index is not None:
            effective += self.index.read(registers) * self.scale
        effective &= self.mask
        if self.segment_base is not None:
            base: int = getattr(registers, self.segment_base)
            effective += base
        return effective & MASK_64


def memory_operand(instruction: Instruction) -> MemoryOperand:
    """The ModRM (or direct) memory operand of a decoded instruction."""
    base, index = instruction.memory_base, instruction.memory_index
    rip_relative = base in (Iced.RIP, Iced.EIP)
    parts = [GENERAL_REGISTERS.get(register) for register in (base, index)]
    return MemoryOperand(
        base=parts[0],
        index=parts[1],
        scale=instruction.memory_index_scale,
        # Decoded at address 0, a RIP-relative displacement already includes the length.
        displacement=instruction.memory_displacement,
        rip_relative=rip_relative,
        segment_base=SEGMENT_BASES.get(instruction.memory_segment),
        mask=MASK_32 if _NARROW_REGISTERS & {base, index} else MASK_64,
    )


@lru_cache(maxsize=1024)
def decode(code: bytes, bits: int = 64) -> Instruction:
    """The instruction at the start of ``code`` (up to 15 bytes; what follows it does not matter),
    in a code segment of 64 or 32 bits.

    Bytes that are no instruction give one whose ``is_invalid`` is true.
    """
    return Decoder(bits, code).decode()
