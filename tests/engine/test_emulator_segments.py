# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulator engine's CPU: segments, privilege, single step, SYSCALL and SYSENTER."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from bare_machine import CODE, DATA, STACK, USER_CODE, RecordingHandler, load, make_machine

from pyxen.engine.emulator.engine import EmulatorEngine
from pyxen.engine.emulator.machine_code import NULL_STACK_SEGMENT
from pyxen.engine.protocol import Cpu
from pyxen.engine.registers import CS, DS, FS, SS

STOP = "xor %eax, %eax\n syscall\n"
TF = 0x100
STEP = 0x4000
GDT = 256 << 21
"""Linear address of the descriptor table, in a 2 MiB page of frames of Xen's."""
CODE32 = 0x00CFFA000000FFFF
DATA32 = 0x00CFF2000000FFFF


def at(descriptor: int, base: int) -> int:
    """The descriptor with another base."""
    return descriptor | (base & 0xFFFFFF) << 16 | (base >> 24) << 56


class Machine:
    def __init__(self) -> None:
        self.engine: EmulatorEngine
        self.handler: RecordingHandler
        self.engine, self.handler = make_machine()
        self.cpu: Cpu = self.engine.cpus[0]
        words = self.engine.memory.words
        words[(0x3000 >> 3) + 256] = 0x83
        for selector, descriptor in (
            (0xE020, 0x00CFFB000000FFFF),
            (0xE028, 0x00CFF3000000FFFF),
            (0xE030, 0x00AFFB000000FFFF),
        ):
            words[(0x5000 + selector) >> 3] = descriptor
        self.cpu.set_descriptor_table(GDT + 0x5000, 0xEFFF)

    def run_user(self, source: str | bytes, *, long_mode: bool = True, flags: int = 0) -> None:
        """Run code at USER_CODE; 32-bit code as bytes."""
        if isinstance(source, bytes):
            self.engine.memory.bytes[USER_CODE : USER_CODE + len(source)] = source
        else:
            load(self.engine, source, USER_CODE)
        self.cpu.enter_user(0xE033 if long_mode else 0xE023, 0xE02B, long_mode)
        registers = self.cpu.registers
        registers.rip, registers.rsp = USER_CODE, USER_CODE + 0x8000
        registers.rflags |= flags
        self.engine.run(self.cpu)

    def run_kernel(self, source: str) -> None:
        load(self.engine, source)
        self.engine.run(self.cpu)


@pytest.fixture
def machine() -> Iterator[Machine]:
    machine = Machine()
    yield machine
    machine.engine.close()


class TestSystemCalls:
    @pytest.mark.parametrize("prefixes", ["", "\x48", "\x66\x48"])
    def test_syscall_with_prefixes(self, machine: Machine, prefixes: str) -> None:
        """A program must not be able to shift the place at which its kernel is entered."""
        entries: list[int] = []

        def enter(cpu: Cpu) -> None:
            entries.append(cpu.registers.rip)
            cpu.enter_kernel(0xE033, 0xE02B)
            cpu.registers.rip, cpu.registers.rsp = CODE, STACK

        machine.handler.system_call = enter  # type: ignore[method-assign]
        load(machine.engine, STOP)
        code = prefixes.encode("latin-1") + b"\x0f\x05"
        machine.run_user(code)
        assert entries == [USER_CODE + len(code)]
        assert machine.handler.traps == [("hypercall", 0)]
        assert machine.cpu.registers.rip == CODE + 4

    @pytest.mark.parametrize("long_mode", [False, True])
    def test_sysenter(self, machine: Machine, long_mode: bool) -> None:
        machine.run_user(b"\x90\x0f\x34", long_mode=long_mode)
        assert machine.handler.traps == [("sysenter", USER_CODE + 1)]
        assert machine.cpu.registers.rip == USER_CODE + 1
        assert machine.cpu.in_long_mode() == long_mode

    def test_sysenter_goes_where_the_handler_says(self, machine: Machine) -> None:
        def enter(cpu: Cpu) -> None:
            cpu.enter_kernel(0xE033, 0xE02B)
            cpu.registers.rip, cpu.registers.rsp = CODE, STACK

        machine.handler.sysenter = enter  # type: ignore[method-assign]
        load(machine.engine, STOP)
        machine.run_user(b"\x2e\x0f\x34", long_mode=False)
        assert machine.handler.traps == [("hypercall", 0)]


class TestSingleStep:
    def test_user_code(self, machine: Machine) -> None:
        machine.run_user("nop\n nop\n", flags=TF)
        assert machine.handler.traps == [("exception", 1, 0, False)]
        assert machine.cpu.registers.rip == USER_CODE + 1
        assert machine.cpu.take_debug_status() == STEP
        assert machine.cpu.take_debug_status() == 0

    def test_kernel_code_by_popf(self, machine: Machine) -> None:
        machine.run_kernel("pushf\n orl $0x100, (%rsp)\n popf\n nop\n nop\n")
        assert machine.handler.traps == [("exception", 1, 0, False)]
        assert machine.cpu.registers.rip == CODE + 10

    def test_the_step_begins_behind_a_hypercall_that_sets_it(self, machine: Machine) -> None:
        """So does the iret hypercall; a trap before the instruction would step for ever."""

        def step(cpu: Cpu) -> None:
            cpu.enter_user(0xE033, 0xE02B, True)
            cpu.registers.rip = USER_CODE
            cpu.registers.rflags |= TF

        machine.handler.hypercall = step  # type: ignore[method-assign]
        load(machine.engine, "inc %rbx\n inc %rbx\n", USER_CODE)
        machine.run_kernel("syscall\n")
        assert machine.handler.traps == [("exception", 1, 0, False)]
        assert machine.cpu.registers.rip == USER_CODE + 3
        assert machine.cpu.registers.rbx == 1


class TestPrivilege:
    def test_null_in_ss_does_not_give_the_kernel_level_0(self, machine: Machine) -> None:
        machine.run_kernel("xor %eax, %eax\n mov %eax, %ss\n mov %cr3, %rax\n" + STOP)
        assert machine.handler.traps == [("exception", 13, NULL_STACK_SEGMENT, False)]
        assert machine.cpu.registers.rip == CODE + 2

    @pytest.mark.parametrize("selector", [0, 3])
    def test_null_in_ss_of_user_code(self, machine: Machine, selector: int) -> None:
        machine.run_user(f"mov ${selector}, %eax\n mov %eax, %ss\n")
        assert machine.handler.traps == [("exception", 13, 0, False)]

    def test_segments_of_level_3_are_refused_in_ss_and_cs_of_the_kernel(
        self, machine: Machine
    ) -> None:
        """What the hypervisor's ``emulate.far`` is for."""
        machine.run_kernel("mov $0xe02b, %eax\n mov %eax, %ss\n")
        assert machine.handler.traps == [("exception", 13, 0xE028, False)]
        machine.handler.traps.clear()
        machine.run_user("mov $0xe02b, %eax\n mov %eax, %ss\n mov %eax, %fs\n syscall\n")
        assert machine.handler.traps == [("system_call", 0xE02B)]

    def test_rights_of_level_3_segments_are_seen_by_the_kernel(self, machine: Machine) -> None:
        machine.run_kernel(
            "mov $0xe02b, %eax\n lar %eax, %ebx\n setz %cl\n verr %ax\n setz %dl\n"
            "lsl %eax, %esi\n" + STOP
        )
        registers = machine.cpu.registers
        assert (registers.rbx & 0xF0FF00, registers.rsi) == (0xC0F300, 0xFFFFFFFF)
        assert (registers.rcx & 1, registers.rdx & 1) == (1, 1)


class TestLoadSegment:
    def test_32_bit_code_and_stack_with_bases(self, machine: Machine) -> None:
        # mov $5, %eax; push %eax; int $0x80
        code = b"\xb8\x05\x00\x00\x00\x50\xcd\x80"
        machine.engine.memory.bytes[USER_CODE : USER_CODE + len(code)] = code
        cpu = machine.cpu
        cpu.enter_user(0xF, 0x17, False)
        cpu.load_segment(CS, 0xF, at(CODE32, USER_CODE))
        cpu.load_segment(SS, 0x17, at(DATA32, USER_CODE + 0x1000))
        cpu.registers.rip, cpu.registers.rsp = 0, 0x100
        machine.engine.run(cpu)
        assert machine.handler.traps == [("exception", 0x80, 0, True)]
        assert (cpu.registers.rip, cpu.registers.rsp) == (8, 0xFC)
        assert machine.engine.memory.words[(USER_CODE + 0x10F8) >> 3] >> 32 == 5
        # Back in the kernel the bases are gone.
        cpu.enter_kernel(0xE033, 0xE02B)
        cpu.registers.rip, cpu.registers.rsp = CODE, STACK
        machine.handler.traps.clear()
        machine.run_kernel(STOP)
        assert machine.handler.traps == [("hypercall", 0)]
        # … and in flat user code, too.
        machine.handler.traps.clear()
        machine.run_user(code, long_mode=False)
        assert machine.engine.memory.words[(USER_CODE + 0x7FF8) >> 3] >> 32 == 5

    def test_16_bit_code(self, machine: Machine) -> None:
        # mov $0x1234, %ax; int $0x80: three bytes in 16-bit code, in 32-bit code five
        code = b"\xb8\x34\x12\xcd\x80"
        machine.engine.memory.bytes[USER_CODE : USER_CODE + len(code)] = code
        cpu = machine.cpu
        cpu.enter_user(0xF, 0x17, False)
        cpu.load_segment(CS, 0xF, at(0x0000FA000000FFFF, USER_CODE))
        cpu.registers.rip = cpu.registers.rax = 0
        machine.engine.run(cpu)
        assert machine.handler.traps == [("exception", 0x80, 0, True)]
        assert cpu.registers.rax == 0x1234

    def test_data(self, machine: Machine) -> None:
        # mov (0x10), %eax; mov %fs:(0x10), %ecx; int $0x80
        code = b"\xa1\x10\x00\x00\x00\x64\x8b\x0d\x10\x00\x00\x00\xcd\x80"
        machine.engine.memory.words[(USER_CODE + 0x1010) >> 3] = 0x11
        machine.engine.memory.words[(USER_CODE + 0x2010) >> 3] = 0x22
        cpu = machine.cpu
        cpu.load_segment(DS, 7, at(DATA32, USER_CODE + 0x1000))
        cpu.load_segment(FS, 7, at(DATA32, USER_CODE + 0x2000))
        assert cpu.registers.fs_base == USER_CODE + 0x2000
        machine.run_user(code, long_mode=False)
        assert (cpu.registers.rax, cpu.registers.rcx) == (0x11, 0x22)

    def test_long_mode_ignores_the_base_of_ds(self, machine: Machine) -> None:
        machine.engine.memory.words[DATA >> 3] = 0x33
        machine.cpu.load_segment(DS, 7, at(DATA32, 0x1000))
        machine.run_kernel(f"mov {DATA}, %rbx\n" + STOP)
        assert machine.cpu.registers.rbx == 0x33


def test_descriptor_is_read_with_the_privilege_of_xen(machine: Machine) -> None:
    """So the error code of the fault tells it from an access by the program."""
    machine.cpu.set_local_descriptor_table(300 << 21, 0xFFF)
    machine.run_user("mov $0x17, %eax\n mov %eax, %fs\n")
    assert machine.handler.traps == [("exception", 14, 0, False)]
    assert machine.cpu.registers.cr2 == (300 << 21) + 0x10
    machine.handler.traps.clear()
    machine.run_user(f"mov {300 << 21}, %eax\n")
    assert machine.handler.traps == [("exception", 14, 4, False)]


@pytest.mark.parametrize("current", [True, False])
def test_fpu_image(current: bool) -> None:
    """1.5 and 2.5 on the stack, rounding towards zero in both units, a value in xmm3."""
    engine, _ = make_machine(vcpus=2)
    cpu = engine.cpus[0 if current else 1]
    image = bytearray(512)
    top = 6
    image[0:5] = struct.pack("<HHB", 0xC00 | 0x37F, top << 11, 0xC0)
    image[24:28] = struct.pack("<I", 0x1F80 | 0x6000)
    image[32:42] = struct.pack("<QH", 0xC000000000000000, 0x3FFF)
    image[48:58] = struct.pack("<QH", 0xA000000000000000, 0x4000)
    image[208:216] = struct.pack("<d", 2.75)
    load(
        engine,
        "cvtsd2si %xmm3, %eax\n mov %eax, %ebx\n fistpl -8(%rsp)\n fistpl -16(%rsp)\n"
        "fnstsw %ax\n mov %eax, %ecx\n" + STOP,
    )
    cpu.load_fpu(bytes(image))
    image[28:32] = struct.pack("<I", 0xFFFF)  # the bits of MXCSR that exist
    assert cpu.save_fpu() == bytes(image)
    engine.run(engine.cpus[0 if not current else 1])
    assert engine.cpus[0 if not current else 1].registers.rbx == 0
    engine.run(cpu)
    assert cpu.registers.rbx == 2
    words = engine.memory.words
    assert [words[(STACK - place) >> 3] & 0xFFFFFFFF for place in (8, 16)] == [1, 2]
    assert cpu.registers.rcx >> 11 & 7 == 0
    engine.close()
