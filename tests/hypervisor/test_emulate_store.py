# SPDX-License-Identifier: GPL-2.0-or-later
"""Emulated page-table stores, each compared with a CPU that executes the same bytes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from iced_x86 import Code, Encoder, Instruction, MemoryOperand
from iced_x86 import Register as Iced
from unicorn import UC_ARCH_X86, UC_HOOK_CODE, UC_MODE_64, Uc
from unicorn import x86_const as uc_x86

from pyxen.hypervisor.emulate.flags import ADJUST, ARITHMETIC, OVERFLOW, PARITY, SIGN, ZERO
from pyxen.hypervisor.emulate.store import StoreResult, decode_store, emulate_store

CODE = 0x10000
DATA = 0x20000
PAGE = 0x1000
ENTRY = DATA + 0x800  # the page-table entry that the instructions below work on
SOURCE = DATA + 0xC00  # where MOVS reads

GENERAL = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
]  # fmt: skip
SPECIAL = ["rflags", "fs_base", "gs_base"]


@dataclass
class FakeRegisters:
    rax: int = 0
    rcx: int = 0
    rdx: int = 0
    rbx: int = 0
    rsp: int = 0
    rbp: int = 0
    rsi: int = 0
    rdi: int = 0
    r8: int = 0
    r9: int = 0
    r10: int = 0
    r11: int = 0
    r12: int = 0
    r13: int = 0
    r14: int = 0
    r15: int = 0
    rip: int = CODE
    rflags: int = 2
    cs: int = 0
    ss: int = 0
    ds: int = 0
    es: int = 0
    fs: int = 0
    gs: int = 0
    fs_base: int = 0
    gs_base: int = 0
    cr0: int = 0
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0


class ReferenceCpu:
    """One page of code, one of data, and single instructions executed by unicorn.

    It is a process of its own: in this one another test may have loaded the library for the
    engine, which changes how it stops.
    """

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=execute_for, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()

    def close(self) -> None:
        self._connection.close()
        self._process.join()

    def execute(self, code: bytes, registers: FakeRegisters, entry: int, source: int) -> int:
        """Execute one instruction on ``registers``; the new value of the entry."""
        values = {name: getattr(registers, name) for name in [*GENERAL, *SPECIAL]}
        self._connection.send((code, values, entry, source))
        values, entry = self._connection.recv()
        for name, value in values.items():
            setattr(registers, name, value)
        return entry


def execute_for(connection: Connection) -> None:
    """The other process: execute until the connection is closed."""
    uc = Uc(UC_ARCH_X86, UC_MODE_64)
    uc.mem_map(CODE, PAGE)
    uc.mem_map(DATA, PAGE)
    # Instrumented code goes one instruction at a time: a repeated one stops after a round.
    uc.hook_add(UC_HOOK_CODE, lambda *_: None)
    while True:
        try:
            code, values, entry, source = connection.recv()
        except EOFError:
            return
        uc.mem_write(CODE, code.ljust(16, b"\x90"))
        uc.mem_write(ENTRY, entry.to_bytes(8, "little"))
        uc.mem_write(SOURCE, source.to_bytes(8, "little"))
        for name, value in values.items():
            uc.reg_write(register_number(name), value)
        uc.emu_start(CODE, CODE + len(code), count=1)
        if uc.reg_read(uc_x86.UC_X86_REG_RIP) == CODE and uc.reg_read(uc_x86.UC_X86_REG_RCX) == 0:
            # unicorn sees only in a further step that the last iteration is over.
            uc.emu_start(CODE, CODE + len(code), count=1)
        values = {name: uc.reg_read(register_number(name)) for name in [*GENERAL, "rip", "rflags"]}
        connection.send((values, int.from_bytes(uc.mem_read(ENTRY, 8), "little")))


def register_number(name: str) -> int:
    return int(getattr(uc_x86, f"UC_X86_REG_{name.upper()}"))


@pytest.fixture(scope="module")
def cpu() -> Iterator[ReferenceCpu]:
    reference = ReferenceCpu()
    yield reference
    reference.close()


def assemble(instruction: Instruction) -> bytes:
    encoder = Encoder(64)
    encoder.encode(instruction, CODE)
    return encoder.take_buffer()


def never_read(address: int, size: int) -> bytes:
    raise AssertionError(f"unexpected read of {size} bytes at {address:#x}")


def compare(
    cpu: ReferenceCpu,
    code: bytes,
    registers: FakeRegisters,
    entry: int,
    address: int,
    *,
    undefined: int = 0,
) -> None:
    """The emulation of ``code`` agrees with the CPU on memory, registers and defined flags."""
    source = 0x1122334455667788
    expected = FakeRegisters(**asdict(registers))
    expected_entry = cpu.execute(code, expected, entry, source)

    def read(address: int, size: int) -> bytes:
        assert address >= SOURCE
        assert address + size <= SOURCE + 8
        offset = address - SOURCE
        return source.to_bytes(8, "little")[offset : offset + size]

    before = asdict(registers)
    result = emulate_store(registers, code, address, entry, read)
    assert result is not None
    assert asdict(registers) == before, "nothing changes before commit"
    result.commit(registers)
    assert result.new_value == expected_entry
    expected.rflags &= ~undefined
    registers.rflags &= ~undefined
    assert asdict(registers) == asdict(expected)


REGISTER_OF_SIZE = {1: Iced.R9L, 2: Iced.R9W, 4: Iced.R9D, 8: Iced.R9}
HIGH_BYTE = Iced.CH
MEMORY = MemoryOperand(base=Iced.RDI)
TWO_OPERANDS = ["MOV", "ADD", "ADC", "SUB", "SBB", "AND", "OR", "XOR", "XCHG", "XADD", "CMPXCHG"]
LOGIC = {"AND", "OR", "XOR"}
LOCKABLE = set(TWO_OPERANDS) - {"MOV"}

sizes = st.sampled_from([1, 2, 4, 8])
interesting = st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, (1 << 31), (1 << 63)])
values = st.one_of(st.integers(0, (1 << 64) - 1), interesting, st.just((1 << 64) - 1))
flag_sets = st.integers(0, ARITHMETIC).map(lambda bits: bits & ARITHMETIC | 2)


@st.composite
def slots(draw: st.DrawFn) -> tuple[int, int]:
    """A size, and the place of an aligned operand of that size in the entry."""
    size = draw(sizes)
    return size, draw(st.integers(0, 8 // size - 1)) * size


@settings(max_examples=600, deadline=None)
@given(
    name=st.sampled_from(TWO_OPERANDS),
    slot=slots(),
    entry=values,
    source=values,
    accumulator=values,
    rflags=flag_sets,
    lock=st.booleans(),
    equal=st.booleans(),
)
def test_register_to_memory(
    cpu: ReferenceCpu,
    name: str,
    slot: tuple[int, int],
    entry: int,
    source: int,
    accumulator: int,
    rflags: int,
    lock: bool,
    equal: bool,
) -> None:
    size, offset = slot
    bits = 8 * size
    instruction = Instruction.create_mem_reg(
        getattr(Code, f"{name}_RM{bits}_R{bits}"), MEMORY, REGISTER_OF_SIZE[size]
    )
    instruction.has_lock_prefix = lock and name in LOCKABLE
    registers = FakeRegisters(rax=accumulator, r9=source, rdi=ENTRY + offset, rflags=rflags)
    if name == "CMPXCHG":
        ones = (1 << bits) - 1
        if equal:
            registers.rax = accumulator & ~ones | (entry >> (8 * offset)) & ones
        if size == 4:
            # The reference clears the upper half of RAX on success too, the manual only on failure.
            registers.rax &= ones
    undefined = ADJUST if name in LOGIC else 0
    compare(cpu, assemble(instruction), registers, entry, ENTRY + offset, undefined=undefined)


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(["MOV", "ADD", "ADC", "SUB", "SBB", "AND", "OR", "XOR"]),
    slot=slots(),
    short=st.booleans(),
    entry=values,
    immediate=st.integers(-(1 << 31), (1 << 31) - 1),
    rflags=flag_sets,
)
def test_immediate_to_memory(
    cpu: ReferenceCpu,
    name: str,
    slot: tuple[int, int],
    short: bool,
    entry: int,
    immediate: int,
    rflags: int,
) -> None:
    size, offset = slot
    bits = 8 * size
    width = 8 if (short and name != "MOV") else min(bits, 32)
    immediate = (immediate + (1 << (width - 1))) % (1 << width) - (1 << (width - 1))
    instruction = Instruction.create_mem_i32(
        getattr(Code, f"{name}_RM{bits}_IMM{width}"), MEMORY, immediate
    )
    registers = FakeRegisters(rdi=ENTRY + offset, rflags=rflags)
    undefined = ADJUST if name in LOGIC else 0
    compare(cpu, assemble(instruction), registers, entry, ENTRY + offset, undefined=undefined)


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(["INC", "DEC", "NOT", "NEG"]), slot=slots(), entry=values, rflags=flag_sets
)
def test_one_operand(
    cpu: ReferenceCpu, name: str, slot: tuple[int, int], entry: int, rflags: int
) -> None:
    size, offset = slot
    instruction = Instruction.create_mem(getattr(Code, f"{name}_RM{8 * size}"), MEMORY)
    registers = FakeRegisters(rdi=ENTRY + offset, rflags=rflags)
    compare(cpu, assemble(instruction), registers, entry, ENTRY + offset)


BIT_UNDEFINED = PARITY | ADJUST | SIGN | OVERFLOW


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(["BTS", "BTR", "BTC"]),
    slot=slots().filter(lambda slot: slot[0] > 1),
    entry=values,
    bit=st.integers(0, 255),
    rflags=flag_sets,
)
def test_bit_by_immediate(
    cpu: ReferenceCpu, name: str, slot: tuple[int, int], entry: int, bit: int, rflags: int
) -> None:
    size, offset = slot
    code = getattr(Code, f"{name}_RM{8 * size}_IMM8")
    registers = FakeRegisters(rdi=ENTRY + offset, rflags=rflags)
    compare(
        cpu,
        assemble(Instruction.create_mem_u32(code, MEMORY, bit)),
        registers,
        entry,
        ENTRY + offset,
        undefined=BIT_UNDEFINED,
    )


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(["BTS", "BTR", "BTC"]),
    slot=slots().filter(lambda slot: slot[0] > 1),
    entry=values,
    steps=st.integers(-100, 100),
    bit=st.integers(0, 15),
    upper=values,
    rflags=flag_sets,
)
def test_bit_by_register_reaches_beyond_its_operand(
    cpu: ReferenceCpu,
    name: str,
    slot: tuple[int, int],
    entry: int,
    steps: int,
    bit: int,
    upper: int,
    rflags: int,
) -> None:
    size, offset = slot
    bits = 8 * size
    ones = (1 << bits) - 1
    bit_offset = (steps * bits + bit) & ones
    code = getattr(Code, f"{name}_RM{bits}_R{bits}")
    registers = FakeRegisters(
        rdi=ENTRY + offset - steps * size, r9=upper & ~ones | bit_offset, rflags=rflags
    )
    compare(
        cpu,
        assemble(Instruction.create_mem_reg(code, MEMORY, REGISTER_OF_SIZE[size])),
        registers,
        entry,
        ENTRY + offset,
        undefined=BIT_UNDEFINED,
    )


STRINGS = {
    ("stos", 1): "aa", ("stos", 2): "66ab", ("stos", 4): "ab", ("stos", 8): "48ab",
    ("movs", 1): "a4", ("movs", 2): "66a5", ("movs", 4): "a5", ("movs", 8): "48a5",
}  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(
    name=st.sampled_from(["stos", "movs"]),
    slot=slots(),
    entry=values,
    accumulator=values,
    count=st.none() | st.integers(1, 5),
    backwards=st.booleans(),
)
def test_string(
    cpu: ReferenceCpu,
    name: str,
    slot: tuple[int, int],
    entry: int,
    accumulator: int,
    count: int | None,
    backwards: bool,
) -> None:
    size, offset = slot
    code = bytes.fromhex(("f3" if count else "") + STRINGS[name, size])
    registers = FakeRegisters(
        rax=accumulator,
        rcx=count or 77,
        rdi=ENTRY + offset,
        rsi=SOURCE + offset,
        rflags=0x402 if backwards else 2,
    )
    compare(cpu, code, registers, entry, ENTRY + offset)


# Instruction bytes, and registers that make its operand the entry.
ADDRESSES = {
    "mov [rax+rcx*8-8],rdx": ("48 89 54 c8 f8", {"rax": ENTRY, "rcx": 1, "rdx": 5}),
    "mov [r12+r13*2+0x12345678],r15": (
        "4f 89 bc 6c 78 56 34 12",
        {"r12": (ENTRY - 0x12345678 - 20) % (1 << 64), "r13": 10, "r15": 5},
    ),
    "mov [rsp],rbx": ("48 89 1c 24", {"rsp": ENTRY, "rbx": 9}),
    "mov [rip+x],rcx": ("48 89 0d f9 07 01 00", {"rcx": 9}),
    "mov dword [rip+x],-1": ("c7 05 f6 07 01 00 ff ff ff ff", {}),
    "mov [abs32],rcx": ("48 89 0c 25 00 08 02 00", {"rcx": 9}),
    "mov [moffs64],rax": ("48 a3 00 08 02 00 00 00 00 00", {"rax": 1 << 63}),
    "mov [eax+ecx],rdx": (
        "67 48 89 14 08",
        {"rax": 0xAAAAAAAAFFFFFFF0, "rcx": ENTRY + 0x10, "rdx": 3},
    ),
    "mov gs:[rdi],rax": ("65 48 89 07", {"gs_base": DATA, "rdi": 0x800, "rax": 4}),
    "mov fs:[rdi],al": ("64 88 07", {"fs_base": DATA + 0x900, "rdi": -0x100 % (1 << 64)}),
    "mov [rdi],ch": ("88 2f", {"rdi": ENTRY, "rcx": 0x1234}),
    "mov [rdi],sil": ("40 88 37", {"rdi": ENTRY, "rsi": 0x1234}),
    "movnti [rdi],rax": ("48 0f c3 07", {"rdi": ENTRY, "rax": 8}),
    "xchg [rdi],ch": ("86 2f", {"rdi": ENTRY, "rcx": 0x123456}),
    "xchg [rdi],rdi": ("48 87 3f", {"rdi": ENTRY}),
}


@pytest.mark.parametrize(("code", "values"), ADDRESSES.values(), ids=ADDRESSES.keys())
def test_address_forms(cpu: ReferenceCpu, code: str, values: dict[str, int]) -> None:
    registers = FakeRegisters(**values)
    compare(cpu, bytes.fromhex(code), registers, 0xF0DEBC9A78563412, ENTRY)


def test_movs_reads_through_its_segment() -> None:
    seen: list[tuple[int, int]] = []

    def read(address: int, size: int) -> bytes:
        seen.append((address, size))
        return bytes(range(size))

    registers = FakeRegisters(gs_base=0x5000, rsi=0x20, rdi=ENTRY)
    result = emulate_store(registers, bytes.fromhex("6548a5"), ENTRY, 0, read)
    assert result is not None
    assert seen == [(0x5020, 8)]
    assert result.new_value == 0x0706050403020100


def test_failed_cmpxchg_writes_nothing() -> None:
    registers = FakeRegisters(rax=1, rcx=2, rdi=ENTRY)
    result = emulate_store(registers, bytes.fromhex("f0480fb10f"), ENTRY, 7, never_read)
    assert result == StoreResult(7, False, result.changes if result else ())
    assert result is not None
    result.commit(registers)
    assert registers.rax == 7
    assert not registers.rflags & ZERO
    assert registers.rip == CODE + 5


def test_cmpxchg_success_keeps_the_upper_half_of_rax() -> None:
    registers = FakeRegisters(rax=0xAAAAAAAA00000007, rcx=2, rdi=ENTRY)
    result = emulate_store(registers, bytes.fromhex("0fb10f"), ENTRY, 7, never_read)
    assert result is not None
    assert (result.new_value, result.writes) == (2, True)
    result.commit(registers)
    assert registers.rax == 0xAAAAAAAA00000007


REFUSED = {
    "movaps [rdi],xmm0": "0f 29 07",
    "movq [rdi],xmm0": "66 0f d6 07",
    "movsd [rdi],xmm0": "f2 0f 11 07",
    "movdir64b rdi,[rsi]": "66 0f 38 f8 3e",
    "cmpxchg16b [rdi]": "48 0f c7 0f",
    "mov [rdi],ds": "8c 1f",
    "push rax": "50",
    "push qword [rdi]": "ff 37",
    "cmp [rdi],rax": "48 39 07",
    "bt [rdi],rax": "48 0f a3 07",
    "mov rax,[rdi]": "48 8b 07",
    "insb": "6c",
    "a32 stosq": "67 48 ab",
    "rep stosq with no iterations": "f3 48 ab",
    "lock mov [rdi],rax": "f0 48 89 07",
    "cut off": "48 89",
    "nothing": "",
}


@pytest.mark.parametrize("code", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_what_it_does_not_know(code: str) -> None:
    registers = FakeRegisters(rdi=ENTRY, rsp=ENTRY + 8)
    assert emulate_store(registers, bytes.fromhex(code), ENTRY, 0, never_read) is None


def test_refuses_another_address_and_unaligned_stores() -> None:
    store = bytes.fromhex("8907")  # mov [rdi],eax
    assert emulate_store(FakeRegisters(rdi=ENTRY), store, ENTRY + 4, 0, never_read) is None
    assert emulate_store(FakeRegisters(rdi=ENTRY), store, ENTRY - 1, 0, never_read) is None
    assert emulate_store(FakeRegisters(rdi=ENTRY + 2), store, ENTRY + 2, 0, never_read) is None
    assert emulate_store(FakeRegisters(rdi=ENTRY), store, ENTRY + 3, 0, never_read) is not None


@given(code=st.binary(max_size=15))
def test_any_bytes_decode_without_an_error(code: bytes) -> None:
    store = decode_store(code)
    assert store is None or store.size in (1, 2, 4, 8)
