# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes of a guest kernel to its own, read-only mapped page tables.

A PV guest maps its page-table pages read-only, yet its kernel may write single entries with
ordinary instructions (Linux does so for the tables of processes). The write faults; Xen decodes the
instruction, works out which value the entry would get, and lets the page-table code validate and
store that value as if it came by ``mmu_update``. The guest then continues after the instruction and
never sees the fault. Xen calls this *ptwr*.

The work is in two steps, because the page-table code has the last word between them::

    result = emulate_store(registers, code, fault_address, old_entry, read)
    if result is None:
        ...                       # not ours: the guest gets its page fault
    elif not result.writes or entry_accepted(result.new_value):
        result.commit(registers)  # flags, registers and RIP move on

Rules (Xen's ``arch/x86/pv/ro-page-fault.c``): the store is of 1, 2, 4 or 8 bytes and naturally
aligned. A locked instruction needs nothing special, since the vCPUs of a domain take turns.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from iced_x86 import MemorySizeExt, Mnemonic, OpKind
from msgspec import Struct

from pyxen.hypervisor.emulate import flags
from pyxen.hypervisor.emulate.operands import (
    GENERAL_REGISTERS,
    MASK_64,
    SEGMENT_BASES,
    MemoryOperand,
    RegisterPart,
    decode,
    memory_operand,
)

if TYPE_CHECKING:
    from iced_x86 import Instruction

    from pyxen.engine.protocol import Registers

ReadMemory = Callable[[int, int], bytes]
"""``read(linear address, size)``: guest memory, for the source of a string move. What it raises
passes through ``emulate_store``."""

_SIZES = (1, 2, 4, 8)


class StoreResult(Struct, frozen=True):
    """What an emulated store would do; nothing has happened before ``commit``.

    ``new_value`` is the whole aligned 64-bit entry after the store. ``writes`` is false for a
    ``cmpxchg`` whose comparison fails: there is nothing to validate then, only to commit.
    """

    new_value: int
    writes: bool
    changes: tuple[tuple[str, int], ...]

    def commit(self, registers: Registers) -> None:
        """Apply the register and flag changes and move RIP on."""
        for name, value in self.changes:
            setattr(registers, name, value)


class Store(Struct, frozen=True):
    """A decoded instruction that writes memory, independent of register values and of its place.

    ``source`` is the second operand: an immediate (already cut to ``size`` bytes), a register part,
    or None for one-operand and string instructions.
    """

    operation: Operation
    size: int
    length: int
    target: MemoryOperand
    source: int | RegisterPart | None
    bit_string: bool = False
    string_source: MemoryOperand | None = None
    repeated: bool = False


class _Operands(Struct, frozen=True):
    """The values that an operation works on; ``destination`` is the memory operand's old value."""

    store: Store
    registers: Registers
    destination: int
    source: int


class _Outcome(Struct, frozen=True):
    """What an operation makes of them.

    ``value`` is the memory operand's new value (None: not written), ``flags`` the flags under
    ``flags_mask``, ``registers`` whole registers by name. ``repeats``: RIP stays for another go.
    """

    value: int | None
    flags: int = 0
    flags_mask: int = 0
    registers: tuple[tuple[str, int], ...] = ()
    repeats: bool = False


Operation = Callable[[_Operands], _Outcome]


def emulate_store(
    registers: Registers, code: bytes, address: int, old: int, read: ReadMemory
) -> StoreResult | None:
    """Work out what the store instruction at RIP does to one page-table entry.

    ``code`` holds the bytes at RIP (15, or fewer at the end of the mapped code), ``address`` is
    the linear address that faulted and ``old`` the aligned 64-bit entry around it. None means that
    this cannot be emulated: another kind of instruction, another address, an unaligned store.
    """
    store = decode_store(code)
    if store is None:
        return None
    if store.repeated and registers.rcx == 0:
        return None  # it touches no memory, so this fault is not its doing
    target = _target_address(store, registers)
    if target % store.size or not target <= address < target + store.size:
        return None

    shift = 8 * (target % 8)
    ones = (1 << (8 * store.size)) - 1
    outcome = store.operation(
        _Operands(
            store,
            registers,
            destination=(old >> shift) & ones,
            source=_source_value(store, registers, read),
        )
    )

    new_value = old
    if outcome.value is not None:
        new_value = old & ~(ones << shift) | outcome.value << shift
    changes = list(outcome.registers)
    if outcome.flags_mask:
        changes.append(("rflags", registers.rflags & ~outcome.flags_mask | outcome.flags))
    if not outcome.repeats:
        changes.append(("rip", (registers.rip + store.length) & MASK_64))
    return StoreResult(new_value, outcome.value is not None, tuple(changes))


def _target_address(store: Store, registers: Registers) -> int:
    """Where the instruction writes.

    The register operand of BTS, BTR and BTC counts bits from the memory operand on, in either
    direction, so it moves the address in steps of the operand size.
    """
    offset = 0
    if store.bit_string and isinstance(store.source, RegisterPart):
        bits = 8 * store.size
        bit = store.source.read(registers)
        if bit >> (bits - 1):
            bit -= 1 << bits
        offset = bit // bits * store.size
    return store.target.address(registers, offset)


def _source_value(store: Store, registers: Registers, read: ReadMemory) -> int:
    if store.string_source is not None:
        data = read(store.string_source.address(registers), store.size)
        return int.from_bytes(data, "little")
    if isinstance(store.source, RegisterPart):
        return store.source.read(registers)
    return store.source or 0


# --- the operations -------------------------------------------------------------------------------


def _move(operands: _Operands) -> _Outcome:
    return _Outcome(operands.source)


def _not(operands: _Operands) -> _Outcome:
    return _Outcome(operands.destination ^ ((1 << (8 * operands.store.size)) - 1))


def _arithmetic(
    compute: Callable[[int, int, int, int], tuple[int, int]], operands: _Operands
) -> _Outcome:
    value, new_flags = compute(operands.destination, operands.source, 0, operands.store.size)
    return _Outcome(value, new_flags, flags.ARITHMETIC)


def _with_carry(
    compute: Callable[[int, int, int, int], tuple[int, int]], operands: _Operands
) -> _Outcome:
    carry = operands.registers.rflags & flags.CARRY
    value, new_flags = compute(operands.destination, operands.source, carry, operands.store.size)
    return _Outcome(value, new_flags, flags.ARITHMETIC)


def _by_one(
    compute: Callable[[int, int, int, int], tuple[int, int]], operands: _Operands
) -> _Outcome:
    """INC and DEC, which leave CF alone."""
    value, new_flags = compute(operands.destination, 1, 0, operands.store.size)
    return _Outcome(value, new_flags & ~flags.CARRY, flags.ARITHMETIC & ~flags.CARRY)


def _negate(operands: _Operands) -> _Outcome:
    value, new_flags = flags.subtract(0, operands.destination, 0, operands.store.size)
    return _Outcome(value, new_flags, flags.ARITHMETIC)


def _logic(combine: Callable[[int, int], int], operands: _Operands) -> _Outcome:
    value, new_flags = flags.logic(
        combine(operands.destination, operands.source), operands.store.size
    )
    return _Outcome(value, new_flags, flags.ARITHMETIC)


def _exchange(operands: _Operands) -> _Outcome:
    return _Outcome(operands.source, registers=(_into_source(operands),))


def _exchange_and_add(operands: _Operands) -> _Outcome:
    value, new_flags = flags.add(operands.destination, operands.source, 0, operands.store.size)
    return _Outcome(value, new_flags, flags.ARITHMETIC, (_into_source(operands),))


def _into_source(operands: _Operands) -> tuple[str, int]:
    """The source register after it took the old value of the memory operand."""
    part = operands.store.source
    assert isinstance(part, RegisterPart)  # XCHG and XADD have no other form
    return part.name, part.merge(operands.registers, operands.destination)


def _compare_and_exchange(operands: _Operands) -> _Outcome:
    """CMPXCHG: the source goes to memory if the accumulator matches, memory to it otherwise."""
    size, registers = operands.store.size, operands.registers
    accumulator = RegisterPart("rax", size)
    _, new_flags = flags.subtract(accumulator.read(registers), operands.destination, 0, size)
    if new_flags & flags.ZERO:
        return _Outcome(operands.source, new_flags, flags.ARITHMETIC)
    loaded = ("rax", accumulator.merge(registers, operands.destination))
    return _Outcome(None, new_flags, flags.ARITHMETIC, (loaded,))


def _bit(change: Callable[[int, int], int], operands: _Operands) -> _Outcome:
    """BTS, BTR, BTC: CF gets the old bit, ZF stays, the rest is undefined and stays as well."""
    mask = 1 << (operands.source % (8 * operands.store.size))
    carry = flags.CARRY if operands.destination & mask else 0
    return _Outcome(change(operands.destination, mask), carry, flags.CARRY)


def _string(operands: _Operands) -> _Outcome:
    """One iteration of STOS or MOVS; RIP stays while a repeat prefix has iterations left."""
    store, registers = operands.store, operands.registers
    step = -store.size if registers.rflags & flags.DIRECTION else store.size
    changes = [("rdi", (registers.rdi + step) & MASK_64)]
    if store.string_source is not None:
        changes.append(("rsi", (registers.rsi + step) & MASK_64))
    if store.repeated:
        changes.append(("rcx", registers.rcx - 1))
    return _Outcome(
        operands.source,
        registers=tuple(changes),
        repeats=store.repeated and registers.rcx > 1,
    )


_OPERATIONS: dict[int, Operation] = {
    Mnemonic.MOV: _move,
    Mnemonic.MOVNTI: _move,
    Mnemonic.NOT: _not,
    Mnemonic.ADD: partial(_arithmetic, flags.add),
    Mnemonic.SUB: partial(_arithmetic, flags.subtract),
    Mnemonic.ADC: partial(_with_carry, flags.add),
    Mnemonic.SBB: partial(_with_carry, flags.subtract),
    Mnemonic.INC: partial(_by_one, flags.add),
    Mnemonic.DEC: partial(_by_one, flags.subtract),
    Mnemonic.NEG: _negate,
    Mnemonic.AND: partial(_logic, lambda left, right: left & right),
    Mnemonic.OR: partial(_logic, lambda left, right: left | right),
    Mnemonic.XOR: partial(_logic, lambda left, right: left ^ right),
    Mnemonic.XCHG: _exchange,
    Mnemonic.XADD: _exchange_and_add,
    Mnemonic.CMPXCHG: _compare_and_exchange,
}

_BIT_OPERATIONS: dict[int, Operation] = {
    Mnemonic.BTS: partial(_bit, lambda value, mask: value | mask),
    Mnemonic.BTR: partial(_bit, lambda value, mask: value & ~mask),
    Mnemonic.BTC: partial(_bit, lambda value, mask: value ^ mask),
}

_STORE_STRING = {Mnemonic.STOSB, Mnemonic.STOSW, Mnemonic.STOSD, Mnemonic.STOSQ}
_MOVE_STRING = {Mnemonic.MOVSB, Mnemonic.MOVSW, Mnemonic.MOVSD, Mnemonic.MOVSQ}

_IMMEDIATES = {
    OpKind.IMMEDIATE8,
    OpKind.IMMEDIATE16,
    OpKind.IMMEDIATE32,
    OpKind.IMMEDIATE8TO16,
    OpKind.IMMEDIATE8TO32,
    OpKind.IMMEDIATE8TO64,
    OpKind.IMMEDIATE32TO64,
}


# --- decoding -------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def decode_store(code: bytes) -> Store | None:
    """The store instruction at the start of ``code``, or None if it is not one of those that are
    emulated. The place of the instruction does not matter; the result is remembered."""
    instruction = decode(code)
    if instruction.is_invalid:
        return None
    if instruction.op0_kind == OpKind.MEMORY_ESRDI:
        return _decode_string(instruction)
    if instruction.op0_kind != OpKind.MEMORY:
        return None
    mnemonic = instruction.mnemonic
    bit_string = mnemonic in _BIT_OPERATIONS
    operation = _BIT_OPERATIONS[mnemonic] if bit_string else _OPERATIONS.get(mnemonic)
    size = MemorySizeExt.size(instruction.memory_size)
    if operation is None or size not in _SIZES:
        return None

    source: int | RegisterPart | None = None
    if instruction.op_count == 2:
        if instruction.op1_kind in _IMMEDIATES:
            source = instruction.immediate(1) & ((1 << (8 * size)) - 1)
        else:
            source = GENERAL_REGISTERS.get(instruction.op1_register)
            if source is None:
                return None  # a segment register
    return Store(operation, size, instruction.len, memory_operand(instruction), source, bit_string)


def _decode_string(instruction: Instruction) -> Store | None:
    """STOS or MOVS with 64-bit addresses; INS, which also writes to ES:RDI, is not a store."""
    size = MemorySizeExt.size(instruction.memory_size)
    source: RegisterPart | None = None
    string_source: MemoryOperand | None = None
    if instruction.mnemonic in _STORE_STRING:
        source = RegisterPart("rax", size)
    elif instruction.mnemonic in _MOVE_STRING:
        segment = SEGMENT_BASES.get(instruction.memory_segment)
        string_source = _through("rsi", segment)
    else:
        return None
    return Store(
        _string,
        size,
        instruction.len,
        _through("rdi", None),
        source,
        string_source=string_source,
        repeated=instruction.has_rep_prefix or instruction.has_repne_prefix,
    )


def _through(register: str, segment_base: str | None) -> MemoryOperand:
    """The operand that a string instruction reaches through RSI or RDI."""
    return MemoryOperand(
        base=RegisterPart(register, 8),
        index=None,
        scale=1,
        displacement=0,
        rip_relative=False,
        segment_base=segment_base,
        mask=MASK_64,
    )
