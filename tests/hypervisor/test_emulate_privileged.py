# SPDX-License-Identifier: GPL-2.0-or-later
"""Privileged instructions: what each does to the vCPU, and what gives the guest its #GP."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxen.abi.errno import EPERM
from pyxen.errors import XenError
from pyxen.hypervisor.emulate.privileged import (
    CR0_TS,
    CR4_DE,
    CR4_TSD,
    emulate_privileged,
    guest_cr4,
    iopl_ok,
)

RIP = 0xFFFFFFFF81000000
CR0 = 0x80050033
GENERAL = ["rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi"] + [
    f"r{number}" for number in range(8, 16)
]


class FakeVcpu:
    """A vCPU that keeps what the instructions do to it."""

    def __init__(self, *, kernel_mode: bool = True, iopl: int = 1, **registers: int) -> None:
        values = dict.fromkeys([*GENERAL, "fs_base", "gs_base"], 0)
        self.registers: Any = SimpleNamespace(**values | {"rip": RIP, "rflags": 2} | registers)
        self.kernel_mode = kernel_mode
        self.code_bits = 64
        self.cpuid_faults = False
        self.iopl = iopl
        self.cr = {0: CR0, 2: 0x1234, 3: 0x5000, 4: guest_cr4(0)}
        self.dr = dict.fromkeys(range(8), 0)
        self.msr = {0x10: 0x1122334455667788, 0xC0000080: 0xD01, 0xC0000103: 0x77}
        self.ports: list[tuple[object, ...]] = []
        self.memory: dict[int, bytes] = {}
        self.halted_at: int | None = None

    def iopl_ok(self) -> bool:
        return iopl_ok(kernel_mode=self.kernel_mode, architectural_iopl=False, iopl=self.iopl)

    def io_permitted(self, port: int, size: int) -> bool:
        return self.iopl_ok() or port == 0x80

    def read_cr(self, number: int) -> int:
        return self.cr[number]

    def write_cr(self, number: int, value: int) -> None:
        if number == 3 and value == 0xBAD000:
            raise XenError(EPERM)
        self.cr[number] = value

    def read_debug_register(self, number: int) -> int:
        return self.dr[number]

    def write_debug_register(self, number: int, value: int) -> None:
        if value >> 32:
            raise XenError(EPERM)
        self.dr[number] = value

    def read_msr(self, index: int) -> int:
        if index not in self.msr:
            raise XenError(EPERM)
        return self.msr[index]

    def write_msr(self, index: int, value: int) -> None:
        if index not in self.msr:
            raise XenError(EPERM)
        self.msr[index] = value

    def cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        return leaf + 1, subleaf + 2, 3, 4

    def port_in(self, port: int, size: int) -> int:
        self.ports.append(("in", port, size))
        return 0xFFFFFFFF

    def port_out(self, port: int, size: int, value: int) -> None:
        self.ports.append((port, size, value))

    def read_linear(self, address: int, size: int) -> bytes:
        return bytes((address + i) & 0xFF for i in range(size))

    def write_linear(self, address: int, data: bytes) -> None:
        self.memory[address] = data

    def halt(self) -> None:
        self.halted_at = self.registers.rip


def emulate(vcpu: FakeVcpu, code: str) -> bool:
    """Emulate these bytes, with other code behind them as in a guest."""
    return emulate_privileged(vcpu, bytes.fromhex(code).ljust(15, b"\x90"))


def test_cli_and_sti_change_nothing() -> None:
    for code in ("fa", "fb"):
        vcpu = FakeVcpu()
        assert emulate(vcpu, code)
        assert vcpu.registers.rip == RIP + 1
        assert vcpu.registers.rflags == 2


def test_cli_behind_a_prefix_counts_its_whole_length() -> None:
    vcpu = FakeVcpu()
    assert emulate(vcpu, "2efa")
    assert vcpu.registers.rip == RIP + 2


@pytest.mark.parametrize("code", ("fa", "fb", "2efa"))
@pytest.mark.parametrize(("kernel_mode", "iopl"), ((True, 0), (False, 2)))
def test_cli_needs_the_privilege_level(code: str, kernel_mode: bool, iopl: int) -> None:
    vcpu = FakeVcpu(kernel_mode=kernel_mode, iopl=iopl)
    assert not emulate(vcpu, code)
    assert vcpu.registers.rip == RIP


def test_iopl_rules() -> None:
    assert not iopl_ok(kernel_mode=True, architectural_iopl=False, iopl=0)
    assert iopl_ok(kernel_mode=True, architectural_iopl=False, iopl=1)
    assert iopl_ok(kernel_mode=True, architectural_iopl=True, iopl=0)
    assert not iopl_ok(kernel_mode=False, architectural_iopl=True, iopl=2)
    assert iopl_ok(kernel_mode=False, architectural_iopl=False, iopl=3)


def test_halt_blocks_behind_the_instruction() -> None:
    vcpu = FakeVcpu()
    assert emulate(vcpu, "f4")
    assert vcpu.halted_at == RIP + 1


@pytest.mark.parametrize("code", ("0f09", "f30f09"))
def test_cache_flushes_pass(code: str) -> None:
    vcpu = FakeVcpu()
    assert emulate(vcpu, code)
    assert vcpu.registers.rip == RIP + len(code) // 2


CONTROL_READS = {"0f20c0": 0, "0f20d0": 2, "0f20d8": 3, "0f20e0": 4}


@pytest.mark.parametrize(("code", "number"), CONTROL_READS.items())
def test_reads_control_registers(code: str, number: int) -> None:
    vcpu = FakeVcpu(rax=(1 << 64) - 1)
    assert emulate(vcpu, code)
    assert vcpu.registers.rax == vcpu.cr[number]
    assert vcpu.registers.rip == RIP + 3


def test_reads_into_extended_registers() -> None:
    vcpu = FakeVcpu()
    assert emulate(vcpu, "410f20d9")  # mov r9, cr3
    assert vcpu.registers.r9 == 0x5000


def test_writes_control_registers() -> None:
    vcpu = FakeVcpu(rax=0x7000)
    assert emulate(vcpu, "0f22d8")
    assert vcpu.cr[3] == 0x7000
    vcpu.registers.rax = 0xBAD000
    assert not emulate(vcpu, "0f22d8")
    assert vcpu.registers.rip == RIP + 3


def test_cr0_takes_the_task_switched_flag_only() -> None:
    vcpu = FakeVcpu(rax=CR0 | CR0_TS)
    assert emulate(vcpu, "0f22c0")
    assert vcpu.cr[0] == CR0 | CR0_TS
    assert emulate(vcpu, "0f06")  # clts
    assert vcpu.cr[0] == CR0
    vcpu.registers.rax = CR0 & ~(1 << 16)
    assert not emulate(vcpu, "0f22c0")


def test_cr4_keeps_what_the_guest_does_not_control() -> None:
    vcpu = FakeVcpu(rax=(1 << 64) - 1)
    assert emulate(vcpu, "0f22e0")
    assert vcpu.cr[4] == CR4_TSD | CR4_DE | 1 << 5 | 1 << 9 | 1 << 10
    vcpu.registers.rax = 0
    assert emulate(vcpu, "0f22e0")
    assert vcpu.cr[4] == 1 << 5 | 1 << 9 | 1 << 10


def test_debug_registers() -> None:
    vcpu = FakeVcpu(rax=0x401)
    assert emulate(vcpu, "0f23f8")  # mov dr7, rax
    assert vcpu.dr[7] == 0x401
    assert emulate(vcpu, "0f21fb")  # mov rbx, dr7
    assert vcpu.registers.rbx == 0x401
    vcpu.registers.rax = 1 << 32
    assert not emulate(vcpu, "0f23f8")


def test_rdmsr_and_wrmsr() -> None:
    ones = (1 << 64) - 1
    vcpu = FakeVcpu(rcx=0xABCD00000010, rax=ones, rdx=ones)
    assert emulate(vcpu, "0f32")
    assert (vcpu.registers.rdx, vcpu.registers.rax) == (0x11223344, 0x55667788)
    vcpu.registers.rax = ones
    assert emulate(vcpu, "0f30")
    assert vcpu.msr[0x10] == 0x11223344FFFFFFFF
    vcpu.registers.rcx = 0xC0000082
    assert not emulate(vcpu, "0f32")
    assert not emulate(vcpu, "0f30")
    assert vcpu.registers.rip == RIP + 4


def test_rdtscp_of_a_kernel_that_has_forbidden_it_to_programs() -> None:
    vcpu = FakeVcpu()
    vcpu.cr[4] |= CR4_TSD
    assert emulate_privileged(vcpu, bytes.fromhex("0f01f9"))
    registers = vcpu.registers
    assert (registers.rax, registers.rdx, registers.rcx) == (0x55667788, 0x11223344, 0x77)
    assert registers.rip == RIP + 3


def test_rdtsc_of_user_programs_follows_cr4() -> None:
    vcpu = FakeVcpu(kernel_mode=False)
    assert emulate(vcpu, "0f31")
    assert (vcpu.registers.rdx, vcpu.registers.rax) == (0x11223344, 0x55667788)
    vcpu.cr[4] |= CR4_TSD
    assert not emulate(vcpu, "0f31")
    vcpu.kernel_mode = True
    assert emulate(vcpu, "0f31")


def test_cpuid_takes_and_gives_32_bits() -> None:
    vcpu = FakeVcpu(rax=0xFFFFFFFF00000001, rcx=0xFFFFFFFF00000005)
    assert emulate(vcpu, "0fa2")
    registers = vcpu.registers
    assert (registers.rax, registers.rbx, registers.rcx, registers.rdx) == (2, 7, 3, 4)


IN = {
    "e460": ("in", 0x60, 1, 0x11223344556677FF),  # in al, 0x60
    "66ed": ("in", 0x3F8, 2, 0x112233445566FFFF),  # in ax, dx
    "ed": ("in", 0x3F8, 4, 0xFFFFFFFF),  # in eax, dx
}


@pytest.mark.parametrize(("code", "expected"), IN.items())
def test_in(code: str, expected: tuple[str, int, int, int]) -> None:
    vcpu = FakeVcpu(rax=0x1122334455667788, rdx=0xFFFF03F8)
    assert emulate(vcpu, code)
    assert vcpu.ports == [expected[:3]]
    assert vcpu.registers.rax == expected[3]
    assert vcpu.registers.rip == RIP + len(code) // 2


OUT = {
    "e680": (0x80, 1, 0x88),
    "66ef": (0x3F8, 2, 0x7788),
    "e780": (0x80, 4, 0x55667788),
}


@pytest.mark.parametrize(("code", "expected"), OUT.items())
def test_out(code: str, expected: tuple[int, int, int]) -> None:
    vcpu = FakeVcpu(rax=0x1122334455667788, rdx=0x3F8)
    assert emulate(vcpu, code)
    assert vcpu.ports == [expected]


def test_ports_need_permission() -> None:
    for code in ("e460", "e660", "ec", "ee", "6c", "6e"):
        vcpu = FakeVcpu(iopl=0, rdx=0x3F8)
        assert not emulate(vcpu, code)
        assert vcpu.ports == []
    assert emulate(FakeVcpu(iopl=0), "e680")  # the bitmap lets port 0x80 pass


def test_rep_ins() -> None:
    vcpu = FakeVcpu(rdx=0x60, rdi=0x1000, rcx=3)
    assert emulate(vcpu, "f3666d")  # rep insw
    assert vcpu.memory == dict.fromkeys((0x1000, 0x1002, 0x1004), b"\xff\xff")
    assert (vcpu.registers.rdi, vcpu.registers.rcx) == (0x1006, 0)
    assert vcpu.registers.rip == RIP + 3


def test_outs_backwards_through_a_segment() -> None:
    vcpu = FakeVcpu(rdx=0x60, rsi=4, rcx=77, gs_base=0x10, rflags=0x402)
    assert emulate(vcpu, "656f")  # outs dx, dword gs:[rsi]
    assert vcpu.ports == [(0x60, 4, 0x17161514)]
    assert (vcpu.registers.rsi, vcpu.registers.rcx) == (0, 77)


def test_a_huge_count_is_done_in_parts() -> None:
    vcpu = FakeVcpu(rdx=0x60, rcx=1 << 63)
    assert emulate(vcpu, "f36c")
    assert vcpu.registers.rip == RIP
    assert vcpu.registers.rcx == (1 << 63) - 4096
    assert vcpu.registers.rdi == 4096


def test_a_repeated_instruction_without_iterations_is_done() -> None:
    vcpu = FakeVcpu(rdx=0x60)
    assert emulate(vcpu, "f36c")
    assert vcpu.ports == []
    assert vcpu.registers.rip == RIP + 2


RING_0 = ["f4", "0f06", "0f09", "0f20c0", "0f22d8", "0f21f8", "0f23f8", "0f32", "0f30"]


@pytest.mark.parametrize("code", RING_0)
def test_user_programs_get_their_fault(code: str) -> None:
    vcpu = FakeVcpu(kernel_mode=False, iopl=3, rcx=0x10)
    assert not emulate(vcpu, code)
    assert vcpu.registers.rip == RIP


REFUSED = {
    "mov rax,cr8": "440f20c0",
    "mov cr8,rax": "440f22c0",
    "invd": "0f08",
    "invlpg [rax]": "0f0138",
    "lmsw ax": "0f01f0",
    "swapgs": "0f01f8",
    "xsetbv": "0f01d1",
    "rdpmc": "0f33",
    "lgdt [rax]": "0f0110",
    "ltr ax": "0f00d8",
    "sysret": "480f07",
    "iretq": "48cf",
    "mov ds,eax": "8ed8",
    "mov rax,[rax]": "488b00",
    "ud2": "0f0b",
}


def test_string_with_32_bit_addresses() -> None:
    vcpu = FakeVcpu(rdi=0x1_0000_0FFF, rcx=0x1_0000_0002, rdx=0x60)
    assert emulate(vcpu, "67f36c")
    assert list(vcpu.memory) == [0xFFF, 0x1000]
    assert (vcpu.registers.rdi, vcpu.registers.rcx) == (0x1001, 0)


def test_32_bit_code() -> None:
    vcpu = FakeVcpu(kernel_mode=False, iopl=3, rsi=0x1_0000_0002, rdx=0x60)
    vcpu.code_bits = 32
    assert emulate(vcpu, "6e")
    assert vcpu.ports == [(0x60, 1, 2)]
    assert vcpu.registers.rsi == 3
    # In 64-bit code these bytes are one instruction, "rex in".
    assert not emulate(vcpu, "40ed")


@pytest.mark.parametrize("code", REFUSED.values(), ids=REFUSED.keys())
def test_refuses_all_other_instructions(code: str) -> None:
    vcpu = FakeVcpu()
    assert not emulate(vcpu, code)
    assert vcpu.registers.rip == RIP


@given(st.binary(max_size=15), st.booleans())
def test_any_bytes_give_an_answer(code: bytes, kernel_mode: bool) -> None:
    vcpu = FakeVcpu(kernel_mode=kernel_mode, iopl=3)
    done = emulate_privileged(vcpu, code)
    assert done or vcpu.registers.rip == RIP
