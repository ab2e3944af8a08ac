# SPDX-License-Identifier: GPL-2.0-or-later
"""Privileged instructions of a guest kernel, carried out by Xen.

A PV kernel runs without the privileges of ring 0 and is expected to use hypercalls. Instructions
that need ring 0 raise #GP instead; for those that kernels use all the same Xen decodes the
instruction, does what it means for a virtual CPU, and lets the guest go on behind it. All others
give the guest its #GP. User programs get here too: with a virtual I/O privilege level of 3, or by
the I/O bitmap that their kernel has set, they may use ports, CLI and STI.

Rules: Xen's ``arch/x86/pv/emul-priv-op.c``. CLI and STI pass, if the virtual I/O privilege level
permits them, and do nothing: interrupts are masked in ``vcpu_info``, by the guest itself, and a
POPF could not undo what a CLI had done there. HLT is the one instruction more than Xen has: it
blocks the vCPU, which is what a kernel that issues it wants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from iced_x86 import Mnemonic, OpKind
from iced_x86 import Register as Iced

from pyxen.errors import XenError
from pyxen.hypervisor.emulate.flags import DIRECTION
from pyxen.hypervisor.emulate.operands import (
    GENERAL_REGISTERS,
    MASK_32,
    MASK_64,
    SEGMENT_BASES,
    RegisterPart,
    decode,
)
from pyxen.hypervisor.msr import MSR_TSC, MSR_TSC_AUX

if TYPE_CHECKING:
    from iced_x86 import Instruction

    from pyxen.engine.protocol import Registers

_INTERRUPT_FLAG: Final = (b"\xfa", b"\xfb")  # CLI, STI

CR0_TS: Final = 1 << 3
CR4_TSD: Final = 1 << 2
CR4_DE: Final = 1 << 3

_CR4_GUEST_CONTROLS: Final = CR4_TSD | CR4_DE
_CR4_GUEST_SEES: Final = 1 << 5 | 1 << 9 | 1 << 10  # PAE, OSFXSR, OSXMMEXCPT

# A REP INS or OUTS does this much at a time and is then executed again, so that a huge count
# cannot hold up the other vCPUs.
_STRING_BATCH: Final = 4096


class PrivilegedHost(Protocol):
    """What the instructions act on: the virtual CPU that executes one.

    The methods that read or write registers raise XenError where the guest gets #GP. Whatever else
    a method raises passes through ``emulate_privileged``.
    """

    @property
    def registers(self) -> Registers: ...
    @property
    def kernel_mode(self) -> bool:
        """Whether the guest kernel executes the instruction, and not a user program."""

    @property
    def code_bits(self) -> int:
        """64, or 32 for a program in a 32-bit code segment."""

    def iopl_ok(self) -> bool:
        """Whether the virtual I/O privilege level permits I/O: see the function ``iopl_ok``."""

    def io_permitted(self, port: int, size: int) -> bool:
        """``iopl_ok``, or the I/O bitmap of the guest permits these ports."""

    def read_cr(self, number: int) -> int:
        """CR0, CR2, CR3 (as made from a GFN by ``xen_pfn_to_cr3``) or CR4, as the guest sees it."""

    def write_cr(self, number: int, value: int) -> None:
        """Set one of them. For CR0 only TS can differ; CR4 has gone through ``guest_cr4``."""

    def read_debug_register(self, number: int) -> int: ...
    def write_debug_register(self, number: int, value: int) -> None: ...
    def read_msr(self, index: int) -> int: ...
    def write_msr(self, index: int, value: int) -> None: ...
    @property
    def cpuid_faults(self) -> bool:
        """Whether CPUID is a fault in the mode that executes it."""

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]: ...
    def port_in(self, port: int, size: int) -> int: ...
    def port_out(self, port: int, size: int, value: int) -> None: ...
    def read_linear(self, address: int, size: int) -> bytes: ...
    def write_linear(self, address: int, data: bytes) -> None: ...

    def halt(self) -> None:
        """Block the vCPU until an event arrives. RIP is already behind the instruction."""


def iopl_ok(*, kernel_mode: bool, architectural_iopl: bool, iopl: int) -> bool:
    """Whether the virtual I/O privilege level ``iopl`` (0 to 3) permits I/O, CLI and STI.

    The guest kernel counts as ring 1, and as ring 0 with the VM assist ``architectural_iopl``.
    """
    if not kernel_mode:
        return iopl >= 3
    return architectural_iopl or iopl >= 1


def guest_cr4(value: int) -> int:
    """The CR4 that a guest finds after it wrote ``value``: its choice of what it controls, and
    what Xen has set of the rest that it may see."""
    return value & _CR4_GUEST_CONTROLS | _CR4_GUEST_SEES


def emulate_privileged(vcpu: PrivilegedHost, code: bytes) -> bool:
    """Carry out the instruction at RIP, whose bytes are ``code`` (15, or fewer at the end of the
    mapped code). True: done, RIP has moved on. False: the guest gets its #GP."""
    if code[:1] in _INTERRUPT_FLAG:  # by far the most frequent, so without decoding
        if not vcpu.iopl_ok():
            return False
        vcpu.registers.rip = (vcpu.registers.rip + 1) & MASK_64
        return True

    instruction = decode(code, vcpu.code_bits)
    handler = _HANDLERS.get(instruction.mnemonic)
    if handler is None:
        return False
    try:
        return handler(vcpu, instruction)
    except XenError:
        return False


def _done(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    registers = vcpu.registers
    registers.rip = (registers.rip + instruction.len) & MASK_64
    return True


# --- control, debug and model-specific registers --------------------------------------------------

_CONTROL_REGISTERS = {Iced.CR0: 0, Iced.CR2: 2, Iced.CR3: 3, Iced.CR4: 4}
_DEBUG_REGISTERS = {getattr(Iced, f"DR{number}"): number for number in range(8)}


def _move(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    """MOV to or from a control or debug register; any other MOV is not privileged."""
    if not vcpu.kernel_mode or instruction.op_count != 2:
        return False
    if instruction.op0_kind != OpKind.REGISTER or instruction.op1_kind != OpKind.REGISTER:
        return False
    to, source = instruction.op0_register, instruction.op1_register
    registers = vcpu.registers
    if to in _CONTROL_REGISTERS:
        written = _write_cr(vcpu, _CONTROL_REGISTERS[to], GENERAL_REGISTERS[source].read(registers))
        return written and _done(vcpu, instruction)
    if to in _DEBUG_REGISTERS:
        vcpu.write_debug_register(_DEBUG_REGISTERS[to], GENERAL_REGISTERS[source].read(registers))
    elif source in _CONTROL_REGISTERS:
        value = vcpu.read_cr(_CONTROL_REGISTERS[source])
        setattr(registers, GENERAL_REGISTERS[to].name, value)
    elif source in _DEBUG_REGISTERS:
        value = vcpu.read_debug_register(_DEBUG_REGISTERS[source])
        setattr(registers, GENERAL_REGISTERS[to].name, value)
    else:
        return False
    return _done(vcpu, instruction)


def _write_cr(vcpu: PrivilegedHost, number: int, value: int) -> bool:
    if number == 0 and (value ^ vcpu.read_cr(0)) & ~CR0_TS:
        return False
    vcpu.write_cr(number, guest_cr4(value) if number == 4 else value)
    return True


def _clts(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    if not vcpu.kernel_mode:
        return False
    vcpu.write_cr(0, vcpu.read_cr(0) & ~CR0_TS)
    return _done(vcpu, instruction)


def _rdmsr(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    if not vcpu.kernel_mode:
        return False
    _set_edx_eax(vcpu.registers, vcpu.read_msr(vcpu.registers.rcx & MASK_32))
    return _done(vcpu, instruction)


def _wrmsr(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    if not vcpu.kernel_mode:
        return False
    registers = vcpu.registers
    value = (registers.rdx & MASK_32) << 32 | registers.rax & MASK_32
    vcpu.write_msr(registers.rcx & MASK_32, value)
    return _done(vcpu, instruction)


def _rdtsc(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    if not vcpu.kernel_mode and vcpu.read_cr(4) & CR4_TSD:
        return False
    _set_edx_eax(vcpu.registers, vcpu.read_msr(MSR_TSC))
    return _done(vcpu, instruction)


def _rdtscp(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    auxiliary = vcpu.read_msr(MSR_TSC_AUX)
    if not _rdtsc(vcpu, instruction):
        return False
    vcpu.registers.rcx = auxiliary
    return True


def _set_edx_eax(registers: Registers, value: int) -> None:
    registers.rax = value & MASK_32
    registers.rdx = value >> 32


# --- the others -----------------------------------------------------------------------------------


def _cpuid(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    if vcpu.cpuid_faults:
        return False
    registers = vcpu.registers
    registers.rax, registers.rbx, registers.rcx, registers.rdx = vcpu.cpuid(
        registers.rax & MASK_32, registers.rcx & MASK_32
    )
    return _done(vcpu, instruction)


def _flush_caches(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    """WBINVD, WBNOINVD: nothing to do for a domain without devices of its own."""
    return vcpu.kernel_mode and _done(vcpu, instruction)


def _halt(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    if not vcpu.kernel_mode:
        return False
    _done(vcpu, instruction)
    vcpu.halt()
    return True


def _prefixed_interrupt_flag(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    """CLI or STI behind a prefix that means nothing to it."""
    return vcpu.iopl_ok() and _done(vcpu, instruction)


# --- ports ----------------------------------------------------------------------------------------


def _port(registers: Registers, instruction: Instruction, operand: int) -> int:
    """The port that operand ``operand`` of IN or OUT names."""
    if instruction.op_kind(operand) == OpKind.IMMEDIATE8:
        return instruction.immediate8
    return registers.rdx & 0xFFFF


def _in(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    registers = vcpu.registers
    part = GENERAL_REGISTERS[instruction.op0_register]
    port = _port(registers, instruction, 1)
    if not vcpu.io_permitted(port, part.size):
        return False
    value = vcpu.port_in(port, part.size) & ((1 << (8 * part.size)) - 1)
    registers.rax = part.merge(registers, value)
    return _done(vcpu, instruction)


def _out(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    registers = vcpu.registers
    part = GENERAL_REGISTERS[instruction.op1_register]
    port = _port(registers, instruction, 0)
    if not vcpu.io_permitted(port, part.size):
        return False
    vcpu.port_out(port, part.size, part.read(registers))
    return _done(vcpu, instruction)


def _ins(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    """INS: from the port in DX to ES:RDI (ES:EDI with 32-bit addresses)."""
    width = _STRING_WIDTHS.get(instruction.op0_kind)
    if width is None:
        return False
    pointer = RegisterPart("rdi", width)

    def transfer(port: int, size: int) -> None:
        value = vcpu.port_in(port, size) & ((1 << (8 * size)) - 1)
        vcpu.write_linear(pointer.read(vcpu.registers), value.to_bytes(size, "little"))

    return _string_io(vcpu, instruction, pointer, transfer)


def _outs(vcpu: PrivilegedHost, instruction: Instruction) -> bool:
    """OUTS: from RSI, in DS or the segment of a prefix, to the port in DX."""
    width = _STRING_WIDTHS.get(instruction.op1_kind)
    if width is None:
        return False
    pointer = RegisterPart("rsi", width)
    segment_base = SEGMENT_BASES.get(instruction.memory_segment)

    def transfer(port: int, size: int) -> None:
        base: int = getattr(vcpu.registers, segment_base) if segment_base else 0
        data = vcpu.read_linear((base + pointer.read(vcpu.registers)) & MASK_64, size)
        vcpu.port_out(port, size, int.from_bytes(data, "little"))

    return _string_io(vcpu, instruction, pointer, transfer)


def _string_io(
    vcpu: PrivilegedHost,
    instruction: Instruction,
    pointer: RegisterPart,
    transfer: Callable[[int, int], None],
) -> bool:
    """The iterations of a string instruction, and the registers after each, so that one that
    faults half way can be resumed."""
    registers = vcpu.registers
    size = _STRING_SIZES[instruction.mnemonic]
    port = registers.rdx & 0xFFFF
    if not vcpu.io_permitted(port, size):
        return False
    repeated = instruction.has_rep_prefix or instruction.has_repne_prefix
    counter = RegisterPart("rcx", pointer.size)
    iterations = min(counter.read(registers), _STRING_BATCH // size) if repeated else 1
    step = -size if registers.rflags & DIRECTION else size
    mask = (1 << 8 * pointer.size) - 1
    for _ in range(iterations):
        transfer(port, size)
        setattr(registers, pointer.name, (pointer.read(registers) + step) & mask)
        if repeated:
            registers.rcx = counter.read(registers) - 1
    if repeated and counter.read(registers):
        return True  # RIP stays: the instruction is executed again
    return _done(vcpu, instruction)


# The width of the pointer and of the counter. 16-bit addresses are nobody's.
_STRING_WIDTHS = {
    OpKind.MEMORY_ESRDI: 8,
    OpKind.MEMORY_ESEDI: 4,
    OpKind.MEMORY_SEG_RSI: 8,
    OpKind.MEMORY_SEG_ESI: 4,
}

_STRING_SIZES = {
    Mnemonic.INSB: 1,
    Mnemonic.INSW: 2,
    Mnemonic.INSD: 4,
    Mnemonic.OUTSB: 1,
    Mnemonic.OUTSW: 2,
    Mnemonic.OUTSD: 4,
}

_HANDLERS: dict[int, Callable[[PrivilegedHost, Instruction], bool]] = {
    Mnemonic.MOV: _move,
    Mnemonic.CLTS: _clts,
    Mnemonic.RDMSR: _rdmsr,
    Mnemonic.WRMSR: _wrmsr,
    Mnemonic.RDTSC: _rdtsc,
    Mnemonic.RDTSCP: _rdtscp,
    Mnemonic.CPUID: _cpuid,
    Mnemonic.WBINVD: _flush_caches,
    Mnemonic.WBNOINVD: _flush_caches,
    Mnemonic.HLT: _halt,
    Mnemonic.CLI: _prefixed_interrupt_flag,
    Mnemonic.STI: _prefixed_interrupt_flag,
    Mnemonic.IN: _in,
    Mnemonic.OUT: _out,
    Mnemonic.INSB: _ins,
    Mnemonic.INSW: _ins,
    Mnemonic.INSD: _ins,
    Mnemonic.OUTSB: _outs,
    Mnemonic.OUTSW: _outs,
    Mnemonic.OUTSD: _outs,
}
