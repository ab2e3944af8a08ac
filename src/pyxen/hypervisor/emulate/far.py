# SPDX-License-Identifier: GPL-2.0-or-later
"""Loads of CS and SS by a guest kernel: MOV to SS, and far returns, jumps and calls.

A PV kernel is ring 3 to its processor and may load selectors with RPL 3. The engine runs it with
more privilege than that, and refuses such a load with a fault; here it is done as ring 3 does it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from iced_x86 import MemorySizeExt, Mnemonic, OpKind
from iced_x86 import Register as Iced

from pyxen.engine.registers import CS, SS
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.emulate.operands import (
    GENERAL_REGISTERS,
    MASK_64,
    decode,
    memory_operand,
)
from pyxen.hypervisor.msr import is_canonical
from pyxen.hypervisor.segments import (
    LONG,
    RPL,
    SegmentFault,
    check_code,
    check_stack,
    segment_limit,
)

if TYPE_CHECKING:
    from iced_x86 import Instruction

    from pyxen.hypervisor.vcpu import Vcpu

_GENERAL_PROTECTION = 13
_PAGE_FAULT = 14
_WRITE = 2
_SELECTOR = 2


def emulate_far(vcpu: Vcpu, code: bytes) -> bool:
    """Carry out the instruction at RIP, whose bytes are ``code``, if it is one of these.

    Raises SegmentFault for what ring 3 may not load, and for memory that is not there.
    """
    if not vcpu.cpu.in_long_mode():
        return False
    instruction = decode(code)
    if instruction.mnemonic == Mnemonic.MOV and instruction.op0_register == Iced.SS:
        _move(vcpu, instruction)
    elif instruction.mnemonic == Mnemonic.RETF:
        _return(vcpu, instruction)
    elif instruction.is_jmp_far_indirect or instruction.is_call_far_indirect:
        _transfer(vcpu, instruction)
    else:
        return False
    return True


def _read(vcpu: Vcpu, address: int, size: int) -> int:
    try:
        return int.from_bytes(guest_access.copy_from(vcpu, address & MASK_64, size), "little")
    except XenError:
        raise SegmentFault(_PAGE_FAULT, 0, address & MASK_64) from None


def _move(vcpu: Vcpu, instruction: Instruction) -> None:
    registers = vcpu.cpu.registers
    if instruction.op1_kind == OpKind.REGISTER:
        selector = GENERAL_REGISTERS[instruction.op1_register].read(registers) & 0xFFFF
    else:
        selector = _read(vcpu, memory_operand(instruction).address(registers), _SELECTOR)
    if selector & RPL != RPL:
        raise SegmentFault(_GENERAL_PROTECTION, selector & ~RPL)
    vcpu.cpu.load_segment(SS, selector, check_stack(vcpu, selector))
    registers.rip = registers.rip + instruction.len & MASK_64


def _return(vcpu: Vcpu, instruction: Instruction) -> None:
    registers = vcpu.cpu.registers
    extra = instruction.immediate16 if instruction.op_count else 0
    size = (instruction.stack_pointer_increment - extra) // 2
    target = _read(vcpu, registers.rsp, size)
    selector = _read(vcpu, registers.rsp + size, _SELECTOR)
    if selector & RPL != RPL:
        raise SegmentFault(_GENERAL_PROTECTION, selector & ~RPL)
    _load_code(vcpu, selector, target)
    registers.rsp = registers.rsp + 2 * size + extra & MASK_64


def _transfer(vcpu: Vcpu, instruction: Instruction) -> None:
    registers = vcpu.cpu.registers
    size = MemorySizeExt.size(instruction.memory_size) - _SELECTOR
    address = memory_operand(instruction).address(registers)
    target = _read(vcpu, address, size)
    selector = _read(vcpu, address + size, _SELECTOR) | RPL
    old_cs, back, stack = registers.cs, registers.rip + instruction.len, registers.rsp
    if instruction.is_call_far_indirect:
        stack = stack - 2 * size & MASK_64
        frame = (back & (1 << 8 * size) - 1).to_bytes(size, "little") + old_cs.to_bytes(
            size, "little"
        )
        check_code(vcpu, selector)
        try:
            guest_access.copy_to(vcpu, stack, frame)
        except XenError:
            raise SegmentFault(_PAGE_FAULT, _WRITE, stack) from None
    _load_code(vcpu, selector, target)
    registers.rsp = stack


def _load_code(vcpu: Vcpu, selector: int, target: int) -> None:
    """Go on at ``target`` in another code segment."""
    descriptor = check_code(vcpu, selector)
    if not (is_canonical(target) if descriptor & LONG else target <= segment_limit(descriptor)):
        raise SegmentFault(_GENERAL_PROTECTION, 0)
    vcpu.cpu.load_segment(CS, selector, descriptor)
    vcpu.cpu.registers.rip = target
