# SPDX-License-Identifier: GPL-2.0-or-later
"""Single step and hardware breakpoints of the emulator."""

from __future__ import annotations

import pytest
from bare_machine import CODE, DATA, STACK, USER_CODE, RecordingHandler, load, make_machine

from pyxen.engine.emulator.engine import EmulatorEngine
from pyxen.engine.protocol import Cpu

STOP = "xor %eax, %eax\n syscall\n"
TF, RF = 1 << 8, 1 << 16
SINGLE_STEP = 1 << 14
EXECUTE, WRITE, ACCESS = 0, 1, 3
SIZES = {1: 0, 2: 1, 8: 2, 4: 3}
USER_DATA = USER_CODE + 0x10000


class DebugHandler(RecordingHandler):
    """Goes on behind debug exceptions, and keeps where each was met and why."""

    def __init__(self, engine: EmulatorEngine) -> None:
        super().__init__(engine)
        self.met: list[tuple[int, int]] = []
        self.resume = False

    def exception(self, cpu: Cpu, vector: int, error_code: int, software: bool) -> None:
        if vector != 1 or software:
            super().exception(cpu, vector, error_code, software)
            return
        self.met.append((cpu.registers.rip, cpu.take_debug_status()))
        if self.resume:
            cpu.registers.rflags |= RF


def machine(source: str, *, user: bool = False) -> tuple[EmulatorEngine, Cpu, DebugHandler]:
    engine, _ = make_machine(vcpus=2)
    handler = DebugHandler(engine)
    engine.set_handler(handler)
    place = USER_CODE if user else CODE
    load(engine, source, place)
    for cpu in engine.cpus:
        if user:
            cpu.enter_user(0x33, 0x2B, long_mode=True)
        cpu.registers.rip = place
        cpu.registers.rsp = USER_DATA + 0x8000 if user else STACK
    return engine, engine.cpus[0], handler


def control(*breakpoints: tuple[int, int]) -> int:
    """DR7 with breakpoints of these kinds and sizes, all enabled."""
    value = 0x400
    for number, (kind, size) in enumerate(breakpoints):
        value |= 1 << 2 * number | kind << 16 + 4 * number | SIZES[size] << 18 + 4 * number
    return value


@pytest.mark.parametrize("user", [False, True])
def test_single_step_traps_once_behind_each_instruction(user: bool) -> None:
    engine, cpu, handler = machine("nop\n mov $2, %ecx\n1: loop 1b\n cld\n" + STOP, user=user)
    start = cpu.registers.rip
    cpu.registers.rflags |= TF
    engine.run(cpu)
    places = [1, 6, 6, 8, 9, 11]
    assert handler.met == [(start + place, SINGLE_STEP) for place in places]
    assert cpu.registers.rcx == 0


def test_single_step_by_popf_begins_behind_the_next_instruction() -> None:
    engine, cpu, handler = machine("pushf\n orl $0x100, (%rsp)\n popf\n nop\n nop\n" + STOP)
    engine.run(cpu)
    assert [place - CODE for place, _ in handler.met] == [10, 11, 13]


@pytest.mark.parametrize("user", [False, True])
def test_execution_breakpoint_traps_before_the_instruction(user: bool) -> None:
    engine, cpu, handler = machine("inc %rbx\n inc %rbx\n inc %rbx\n" + STOP, user=user)
    start = cpu.registers.rip
    seen = []
    handler.resume = True

    def note(cpu: Cpu, vector: int, error_code: int, software: bool) -> None:
        seen.append(cpu.registers.rbx)
        DebugHandler.exception(handler, cpu, vector, error_code, software)

    handler.exception = note  # type: ignore[method-assign]
    cpu.set_breakpoints((0, start + 3, 0, start + 6), 0x400 | 1 << 2 | 2 << 6)
    engine.run(cpu)
    assert handler.met == [(start + 3, 1 << 1), (start + 6, 1 << 3)]
    assert (seen, cpu.registers.rbx) == ([1, 2], 3)


def test_instruction_that_passes_its_breakpoint_can_hit_another() -> None:
    engine, cpu, handler = machine(f"movb $1, {DATA}\n" + STOP)
    handler.resume = True
    cpu.set_breakpoints((CODE, DATA, 0, 0), control((EXECUTE, 1), (WRITE, 1)))
    engine.run(cpu)
    assert handler.met == [(CODE, 1), (CODE + 8, 2)]
    assert cpu.registers.rflags & TF == 0


def test_execution_breakpoint_in_code_that_has_run_and_its_end() -> None:
    engine, cpu, handler = machine("inc %rbx\n inc %rbx\n" + STOP)
    handler.resume = True
    for rounds, where in enumerate((0, CODE + 3, 0, CODE)):
        cpu.set_breakpoints((where, 0, 0, 0), control((EXECUTE, 1)) if where else 0x400)
        cpu.registers.rip = CODE
        engine.run(cpu)
        assert handler.met == ([(where, 1)] if where else [])
        assert cpu.registers.rbx == 2 * rounds + 2
        handler.met.clear()


DATA_CASES = [
    # kind, size, instruction, hit
    (WRITE, 1, "movb $1, {0}", True),
    (WRITE, 1, "movb $1, {0}+1", False),
    (WRITE, 4, "movb $1, {0}+3", True),
    (WRITE, 4, "movb $1, {0}-1", False),
    (WRITE, 8, "movl $1, {0}+4", True),
    (WRITE, 2, "movl $1, {0}-2", True),
    (WRITE, 4, "mov {0}, %ecx", False),
    (ACCESS, 4, "mov {0}, %ecx", True),
    (ACCESS, 1, "incl {0}-3", True),
    (ACCESS, 8, "movq $5, {0}", True),
    (WRITE, 8, "push %rax", False),
    (WRITE, 8, "lock addq $1, {0}", True),
    (WRITE, 8, "movdqu %xmm0, {0}-8", True),
    (ACCESS, 4, "ud2", False),
]


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize(("kind", "size", "instruction", "hit"), DATA_CASES)
def test_data_breakpoint_traps_behind_the_instruction(
    kind: int, size: int, instruction: str, hit: bool, user: bool
) -> None:
    data = USER_DATA if user else DATA
    source = f"nop\n {instruction.format(data)}\nnext: mov %rsp, %rdi\n" + STOP
    engine, cpu, handler = machine(source, user=user)
    for rounds in range(2):  # also with pages whose translations are loaded, and translated code
        cpu.registers.rip = start = USER_CODE if user else CODE
        cpu.set_breakpoints((0, data, 0, 0), control((EXECUTE, 1), (kind, size)) & ~1)
        engine.run(cpu)
        assert [status for _, status in handler.met] == ([2] if hit else [])
        if hit:
            length = handler.met[0][0] - start
            # The next instruction is "mov %rsp, %rdi".
            where = start + length
            assert bytes(engine.memory.bytes[where : where + 3]) == b"\x48\x89\xe7"
        handler.met.clear()
        cpu.set_breakpoints((0, 0, 0, 0), 0x400)
        cpu.registers.rip = start
        engine.run(cpu)
        assert handler.met == []
        assert rounds < 2


def test_the_store_of_a_hit_has_been_done_once() -> None:
    engine, cpu, handler = machine(f"incq {DATA}\n" + STOP)
    values = []

    def note(cpu: Cpu, vector: int, error_code: int, software: bool) -> None:
        values.append(engine.memory.words[DATA >> 3])
        DebugHandler.exception(handler, cpu, vector, error_code, software)

    handler.exception = note  # type: ignore[method-assign]
    cpu.set_breakpoints((DATA, 0, 0, 0), control((WRITE, 8)))
    engine.run(cpu)
    assert values == [1]
    assert engine.memory.words[DATA >> 3] == 1
    assert cpu.registers.rflags & TF == 0


def test_single_step_and_data_breakpoint_are_one_trap() -> None:
    engine, cpu, handler = machine(f"movb $1, {DATA}\n" + STOP)
    cpu.set_breakpoints((DATA, 0, 0, 0), control((WRITE, 1)))
    cpu.registers.rflags |= TF
    engine.run(cpu)
    assert [status for _, status in handler.met] == [1 | SINGLE_STEP, SINGLE_STEP]


def test_instruction_that_hits_and_then_faults_is_a_fault_alone() -> None:
    # MOVS reads the watched bytes and writes to a page that is not there.
    engine, cpu, handler = machine(f"mov ${DATA}, %esi\n mov $0x7000, %edi\n movsb\n")
    cpu.set_breakpoints((DATA, 0, 0, 0), control((ACCESS, 1)))
    engine.run(cpu)
    assert handler.met == []
    assert handler.traps == [("exception", 14, 2, False)]
    assert cpu.registers.rflags & TF == 0
    # The watch is on again.
    cpu.registers.rdi = DATA + 8
    load(engine, STOP, cpu.registers.rip + 1)
    engine.run(cpu)
    assert [status for _, status in handler.met] == [1]


def test_repeated_string_traps_behind_the_iteration_that_hits() -> None:
    engine, cpu, handler = machine(f"mov ${DATA}, %edi\n mov $8, %ecx\n rep stosb\n" + STOP)
    cpu.set_breakpoints((DATA + 2, 0, 0, 0), control((WRITE, 1)))
    left = []

    def note(cpu: Cpu, vector: int, error_code: int, software: bool) -> None:
        left.append(cpu.registers.rcx)
        DebugHandler.exception(handler, cpu, vector, error_code, software)

    handler.exception = note  # type: ignore[method-assign]
    engine.run(cpu)
    assert left == [5]
    assert cpu.registers.rcx == 0


def test_each_cpu_has_breakpoints_of_its_own() -> None:
    engine, first, handler = machine(f"movb $1, {DATA}\n inc %rbx\n" + STOP)
    second = engine.cpus[1]
    handler.resume = True
    first.set_breakpoints((DATA, 0, 0, 0), control((WRITE, 1)))
    second.set_breakpoints((CODE + 8, 0, 0, 0), control((EXECUTE, 1)))
    for cpu, place in ((first, CODE + 8), (second, CODE + 8), (first, CODE + 8)):
        cpu.registers.rip = CODE
        engine.run(cpu)
        assert handler.met == [(place, 1)]
        handler.met.clear()


def test_breakpoints_set_in_a_trap_count_from_there() -> None:
    engine, cpu, handler = machine(f"mov $1, %eax\n syscall\n movb $1, {DATA}\n" + STOP)

    def arm(cpu: Cpu) -> None:
        handler.traps.append(("hypercall", cpu.registers.rax))
        cpu.set_breakpoints((DATA, 0, 0, 0), control((WRITE, 1)))

    original = handler.hypercall
    handler.hypercall = arm  # type: ignore[method-assign]
    engine.run(cpu)
    handler.hypercall = original  # type: ignore[method-assign]
    engine.run(cpu)
    assert handler.met == [(CODE + 15, 1)]
