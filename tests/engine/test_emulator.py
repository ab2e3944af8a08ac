# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulator engine against small programs on a bare machine."""

from __future__ import annotations

import threading
import time

import pytest
from bare_machine import CODE, DATA, STACK, USER_CODE, load, make_machine

from pyxen.engine import create
from pyxen.engine.emulator import library
from pyxen.engine.protocol import NEVER, EngineError
from pyxen.errors import PyxenError

STOP = "xor %eax, %eax\n syscall\n"


def test_self_check_passes_with_the_pinned_library() -> None:
    assert "2.1.4" in library.self_check()


def test_another_version_is_refused_with_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unicorn.__version__", "2.1.3")
    library.load.cache_clear()
    with pytest.raises(PyxenError, match=r"unicorn 2\.1\.3 found, expected 2\.1\.4"):
        library.load()


def test_another_layout_is_refused_with_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    library.self_check.cache_clear()
    monkeypatch.setattr(library, "_CPU_ENV", library._CPU_ENV + 8)
    with pytest.raises(PyxenError, match="not where expected"):
        library.self_check()


def test_no_engine_is_made_with_another_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    library.self_check.cache_clear()
    monkeypatch.setattr(library, "_CPU_ENV", library._CPU_ENV + 8)
    with pytest.raises(PyxenError, match="not where expected"):
        create("emulator", 64, 1)
    monkeypatch.undo()
    create("auto", 64, 1).close()


def test_a_missing_state_is_refused_without_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    library.self_check.cache_clear()
    monkeypatch.setattr(library, "_UC_CPU", 0)
    with pytest.raises(PyxenError, match="not where expected"):
        library.self_check()


def test_syscall_in_kernel_mode_is_a_hypercall_with_rip_behind_it() -> None:
    engine, handler = make_machine()
    load(engine, "mov $5, %eax\n syscall\n" + STOP)
    engine.run(engine.cpus[0])
    assert handler.traps == [("hypercall", 5), ("hypercall", 0)]
    assert engine.cpus[0].registers.rip == CODE + 5 + 2 + 2 + 2


def test_syscall_in_user_mode_is_a_system_call() -> None:
    engine, handler = make_machine()
    load(engine, "mov $7, %eax\n syscall\n", USER_CODE)
    cpu = engine.cpus[0]
    cpu.enter_user(0x33, 0x2B, long_mode=True)
    cpu.registers.rip = USER_CODE
    engine.run(cpu)
    assert handler.traps == [("system_call", 7)]
    assert (cpu.registers.cs, cpu.registers.ss) == (0x33, 0x2B)


@pytest.mark.parametrize(
    "instruction",
    ["cli", "sti", "hlt", "mov %cr3, %rax", "wbinvd", "rdmsr", "lgdt (%rsp)", "clts"],
)
def test_privileged_instruction_faults_in_kernel_mode(instruction: str) -> None:
    engine, handler = make_machine()
    load(engine, f"nop\n {instruction}\n")
    engine.run(engine.cpus[0])
    assert handler.traps == [("exception", 13, 0, False)]
    assert engine.cpus[0].registers.rip == CODE + 1


def test_page_fault_tells_address_and_mode() -> None:
    engine, handler = make_machine()
    load(engine, "movb $1, 0x7000\n")
    load(engine, f"movb $1, {CODE}\n", USER_CODE)
    cpu = engine.cpus[0]
    engine.run(cpu)
    assert handler.traps.pop() == ("exception", 14, 2, False)
    assert cpu.registers.cr2 == 0x7000
    cpu.enter_user(0x33, 0x2B, long_mode=True)
    cpu.registers.rip = USER_CODE
    engine.run(cpu)
    assert handler.traps == [("exception", 14, 7, False)]
    assert cpu.registers.cr2 == CODE


def test_second_fault_in_a_row_is_not_a_double_fault() -> None:
    engine, handler = make_machine()
    load(engine, "movb $1, 0x7000\n")
    for _ in range(3):
        engine.run(engine.cpus[0])
    assert handler.traps == [("exception", 14, 2, False)] * 3


@pytest.mark.parametrize(
    ("instruction", "vector", "software", "length"),
    [("ud2", 6, False, 0), ("int3", 3, True, 1), ("int $0x80", 0x80, True, 2)],
)
def test_exception_says_whether_software_raised_it(
    instruction: str, vector: int, software: bool, length: int
) -> None:
    engine, handler = make_machine()
    load(engine, instruction)
    engine.run(engine.cpus[0])
    assert handler.traps == [("exception", vector, 0, software)]
    assert engine.cpus[0].registers.rip == CODE + length


def test_cpuid_reaches_the_handler() -> None:
    engine, handler = make_machine()
    load(engine, "mov $1, %eax\n cpuid\n mov %eax, %esi\n" + STOP)
    engine.run(engine.cpus[0])
    registers = engine.cpus[0].registers
    assert (registers.rsi, registers.rbx) == (0x11, 0x22)
    assert handler.traps == [("cpuid", 1), ("hypercall", 0)]


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize(
    "instruction",
    [
        "in $0x64, %al",
        "in $0x64, %ax",
        "in (%dx), %eax",
        "out %al, $0x80",
        "out %ax, (%dx)",
        "out %eax, (%dx)",
        "insb",
        "insw",
        "insl",
        "outsb",
        "outsw",
        "outsl",
        "rep insb",
        "rep outsl",
    ],
)
def test_ports_fault_with_all_registers_as_they_were(instruction: str, user: bool) -> None:
    engine, handler = make_machine()
    cpu = engine.cpus[0]
    place = USER_CODE if user else CODE
    load(engine, f"add $1, %rbx\n {instruction}\n", place)
    if user:
        cpu.enter_user(0x33, 0x2B, long_mode=True)
    registers = cpu.registers
    registers.rip = place
    registers.rdi = registers.rsi = USER_CODE + 0x1000
    registers.rax, registers.rbx, registers.rcx, registers.rdx = 5, (1 << 64) - 1, 3, 0x60
    engine.run(cpu)
    assert handler.traps == [("exception", 13, 0, False)]
    assert registers.rip == place + 4
    assert (registers.rax, registers.rbx, registers.rcx, registers.rdx) == (5, 0, 3, 0x60)
    assert registers.rdi == registers.rsi == USER_CODE + 0x1000
    assert registers.rflags & 0x41 == 0x41  # zero and carry, of the addition


@pytest.mark.parametrize("user", [False, True])
def test_empty_ports_read_ones_and_ignore_writes(user: bool) -> None:
    engine, handler = make_machine(vcpus=2)
    source = f"""
        in $0x64, %al
        in (%dx), %ax
        mov %eax, %ebx
        in (%dx), %eax
        mov $0x60, %dx
        out %eax, (%dx)
        mov $3, %ecx
        mov ${USER_CODE + 0x1000}, %edi
        mov %edi, %esi
        rep insl
        outsb
        mov %rax, %rbp
        xor %eax, %eax
        syscall
    """
    for cpu in engine.cpus:
        place = USER_CODE if user else CODE
        load(engine, source, place)
        if user:
            cpu.enter_user(0x33, 0x2B, long_mode=True)
        cpu.registers.rip = place
        cpu.registers.rax = 1 << 63
    first, second = engine.cpus
    first.set_empty_ports(not user, user)
    second.set_empty_ports(user, not user)
    engine.run(first)
    assert handler.traps == [("system_call" if user else "hypercall", 0)]
    assert (first.registers.rbx, first.registers.rbp) == (0xFFFF, 0xFFFFFFFF)
    words = engine.memory.words
    start = USER_CODE + 0x1000 >> 3
    assert [words[start], words[start + 1]] == [(1 << 64) - 1, 0xFFFFFFFF]
    engine.run(second)
    assert handler.traps[1:] == [("exception", 13, 0, False)]


@pytest.mark.parametrize("user", [False, True])
def test_rdtscp_shows_the_counter_and_what_belongs_to_the_cpu(user: bool) -> None:
    engine, handler = make_machine(vcpus=2)
    place = USER_CODE if user else CODE
    load(engine, "rdtscp\n mov %eax, %esi\n mov %ecx, %ebx\n" + STOP, place)
    for number, cpu in enumerate(engine.cpus):
        if user:
            cpu.enter_user(0x33, 0x2B, long_mode=True)
        cpu.registers.rip = place
        cpu.set_tsc_aux(0x80001000 + number)
    for number, cpu in enumerate(engine.cpus):
        before = engine.read_tsc()
        engine.run(cpu)
        registers = cpu.registers
        assert before < registers.rdx << 32 | registers.rsi < engine.read_tsc()
        assert registers.rbx == 0x80001000 + number
    assert {kind for kind, _ in handler.traps} == {"system_call" if user else "hypercall"}


def test_cpuid_faults_in_user_mode_where_the_kernel_wants_it() -> None:
    engine, handler = make_machine(vcpus=2)
    first, second = engine.cpus
    load(engine, "mov $1, %ebx\n cpuid\n syscall\n", USER_CODE)
    for cpu in engine.cpus:
        cpu.enter_user(0x33, 0x2B, long_mode=True)
        cpu.registers.rip = USER_CODE
        cpu.set_empty_ports(True, True)
    first.set_cpuid_faulting(True)
    first.set_empty_ports(False, False)
    engine.run(first)
    assert handler.traps == [("exception", 13, 0, False)]
    assert (first.registers.rip, first.registers.rbx) == (USER_CODE + 5, 1)
    engine.run(second)
    assert handler.traps[1:] == [("cpuid", 0), ("system_call", 0x11)]
    first.set_cpuid_faulting(False)
    engine.run(first)
    assert handler.traps[3:] == [("cpuid", 0), ("system_call", 0x11)]


def test_cpuid_of_the_kernel_never_faults() -> None:
    engine, handler = make_machine()
    load(engine, "cpuid\n" + STOP)
    engine.cpus[0].set_cpuid_faulting(True)
    engine.run(engine.cpus[0])
    assert handler.traps == [("cpuid", 0), ("hypercall", 0)]


def test_kernel_and_user_have_page_tables_and_gs_bases_of_their_own() -> None:
    engine, _ = make_machine()
    cpu = engine.cpus[0]
    words = engine.memory.words
    words[0x4000 >> 3] = words[0x1000 >> 3]
    cpu.load_user_page_table(0x4000)
    cpu.registers.gs_base = DATA
    cpu.inactive_gs_base = USER_CODE + 0x1000
    words[DATA >> 3] = 0x1111
    words[(USER_CODE + 0x1000) >> 3] = 0x2222
    load(engine, "mov %gs:0, %rbx\n" + STOP)
    load(engine, "mov %gs:0, %rcx\n syscall\n", USER_CODE)
    engine.run(cpu)
    assert cpu.registers.rbx == 0x1111
    assert cpu.registers.cr3 == 0x1000
    cpu.enter_user(0x33, 0x2B, long_mode=True)
    cpu.registers.rip = USER_CODE
    engine.run(cpu)
    assert cpu.registers.rcx == 0x2222
    assert cpu.registers.cr3 == 0x4000
    cpu.enter_kernel(0xE033, 0xE02B)
    assert (cpu.registers.gs_base, cpu.registers.cr3) == (DATA, 0x1000)


def test_thirty_two_bit_user_code_runs() -> None:
    engine, handler = make_machine()
    # 0x48 is "dec eax" in 32-bit code and a REX prefix in 64-bit code.
    engine.memory.bytes[USER_CODE : USER_CODE + 3] = b"\x48\xcd\x80"
    cpu = engine.cpus[0]
    cpu.enter_user(0x23, 0x2B, long_mode=False)
    cpu.registers.rip = USER_CODE
    cpu.registers.rax = 5
    engine.run(cpu)
    assert handler.traps == [("exception", 0x80, 0, True)]
    assert cpu.registers.rax == 4


def test_native_iretq_of_the_kernel_does_not_cost_it_its_privilege() -> None:
    engine, handler = make_machine()
    load(
        engine,
        """
        mov %rsp, %rbx
        pushq $0xe02b
        pushq %rbx
        pushq $0x2
        pushq $0xe033
        lea next(%rip), %rcx
        pushq %rcx
        iretq
next:   mov """
        + str(DATA)
        + """, %rdx
        xor %eax, %eax
        syscall
        """,
    )
    cpu = engine.cpus[0]
    engine.memory.words[DATA >> 3] = 0x77
    gdt = 0x5000
    engine.memory.words[(gdt + 0xE030) >> 3] = 0x00AFFB000000FFFF
    engine.memory.words[(gdt + 0xE028) >> 3] = 0x00CFF3000000FFFF
    words = engine.memory.words
    # The table needs a linear address: the page of 0x5000 + 0xe000 at 512 MiB.
    words[(0x3000 >> 3) + 256] = 0x0 | 0x83
    cpu.set_descriptor_table((256 << 21) + gdt, 0xFFFF)
    engine.run(cpu)
    assert handler.traps == [("hypercall", 0)]
    assert cpu.registers.rdx == 0x77


@pytest.mark.parametrize(
    ("limit", "selector", "loaded"), [(15, 0xF, True), (7, 0xF, False), (0, 0x7, False)]
)
def test_segments_are_loaded_from_the_local_descriptor_table(
    limit: int, selector: int, loaded: bool
) -> None:
    engine, handler = make_machine(vcpus=2)
    load(engine, f"mov ${selector}, %eax\n mov %eax, %fs\n mov %fs:8, %rbx\n" + STOP)
    words = engine.memory.words
    for place in (DATA, DATA + 8):
        words[place >> 3] = 0x1000F320_1000FFFF  # data, DPL 3, base 0x10201000
    words[0x10201008 >> 3] = 0x1234
    for cpu in engine.cpus:
        cpu.set_local_descriptor_table(DATA if cpu.index else 0, limit if cpu.index else 0)
    engine.run(engine.cpus[1])
    assert (engine.cpus[1].registers.rbx == 0x1234) is loaded
    engine.run(engine.cpus[0])
    refusal = ("exception", 13, selector & ~3, False)
    assert handler.traps == [("hypercall", 0) if loaded else refusal, refusal]


def test_flags_are_read_and_written_whatever_the_last_operation() -> None:
    engine, _ = make_machine()
    cpu = engine.cpus[0]
    load(
        engine,
        "std\n mov $0xff, %al\n add $1, %al\n mov $0, %eax\n syscall\n pushf\n pop %rbx\n" + STOP,
    )
    engine.run(cpu)
    assert cpu.registers.rflags & 0xCD5 == 0x400 | 0x40 | 0x10 | 0x4 | 0x1
    cpu.registers.rflags = 0x882
    engine.run(cpu)
    # The result of the later xor has other flags; rbx holds what pushf saw.
    assert cpu.registers.rbx & 0xCD5 == 0x880


def test_exception_of_a_handler_comes_out_of_run_and_the_engine_goes_on() -> None:
    engine, handler = make_machine()
    load(engine, "mov $1, %eax\n syscall\n" + STOP)

    class Broken(Exception):
        pass

    def fail(_cpu: object) -> None:
        raise Broken

    original, handler.hypercall = handler.hypercall, fail  # type: ignore[method-assign]
    with pytest.raises(Broken):
        engine.run(engine.cpus[0])
    handler.hypercall = original  # type: ignore[method-assign]
    assert engine.cpus[0].registers.rip == CODE + 7
    engine.run(engine.cpus[0])
    assert handler.traps == [("hypercall", 0)]


def test_memory_outside_the_machine_ends_the_run_with_an_error() -> None:
    engine, _ = make_machine()
    engine.memory.words[(0x3000 >> 3) + 300] = (CODE + (8 << 20)) | 0x83
    load(engine, f"mov {300 << 21}, %rax\n")
    with pytest.raises(EngineError, match="cannot go on at"):
        engine.run(engine.cpus[0])


def test_state_saved_and_loaded_is_the_same_state() -> None:
    engine, _ = make_machine(vcpus=2)
    load(
        engine,
        "mov $0x1234, %r12\n movq %r12, %xmm7\n fldpi\n xor %eax, %eax\n"
        "stc\n mov $0, %eax\n syscall\n"
        "movq %xmm7, %r13\n fistpl -8(%rsp)\n setc %bl\n" + STOP,
    )
    first, second = engine.cpus
    engine.run(first)
    second.load(first.save())
    engine.run(second)
    assert second.registers.r13 == 0x1234
    assert second.registers.rbx & 0xFF == 1
    assert engine.memory.words[(STACK - 8) >> 3] & 0xFFFFFFFF == 3
    with pytest.raises(ValueError, match="not a state"):
        second.load(b"x" * 8)


def test_cpus_keep_their_registers_apart() -> None:
    engine, _ = make_machine(vcpus=2)
    load(engine, "inc %rbx\n xor %eax, %eax\n syscall\n jmp . - 7\n")
    for _ in range(3):
        for cpu in engine.cpus:
            engine.run(cpu)
    engine.run(engine.cpus[0])
    assert [cpu.registers.rbx for cpu in engine.cpus] == [4, 3]


def test_cpus_with_other_page_tables_see_other_memory() -> None:
    """Translations are kept from one CPU to the next only if both use the same tables."""
    engine, _ = make_machine(vcpus=3)
    words = engine.memory.words
    l4, l3, l2 = 0x1000, 0x2000, 0x3000
    for place in (l4, l3, l2):  # the same tables once more
        words[place + 0x10000 >> 3 : place + 0x11000 >> 3] = words[place >> 3 : place + 0x1000 >> 3]
    words[l4 + 0x10000 >> 3] += 0x10000
    words[l3 + 0x10000 >> 3] += 0x10000
    elsewhere = USER_CODE + 0x200000
    words[(l2 + 0x10000 >> 3) + (USER_CODE >> 21)] += 0x200000
    engine.cpus[1].load_kernel_page_table(l4 + 0x10000)
    engine.cpus[2].load_user_page_table(l4 + 0x10000)
    words[USER_CODE + 0x1000 >> 3] = 0x1111
    words[elsewhere + 0x1000 >> 3] = 0x2222
    kernel = f"mov {USER_CODE + 0x1000:#x}, %rbx\n {STOP} jmp {CODE:#x}\n"
    user = f"mov {USER_CODE + 0x1000:#x}, %rcx\n syscall\n jmp {USER_CODE:#x}\n"
    load(engine, kernel)
    load(engine, user, USER_CODE)
    code = engine.memory.bytes[USER_CODE : USER_CODE + 64]
    engine.memory.bytes[elsewhere : elsewhere + 64] = code
    for _ in range(3):
        for cpu in engine.cpus:
            cpu.enter_kernel(0xE033, 0xE02B)
            cpu.registers.rip = CODE
            engine.run(cpu)
        for cpu in engine.cpus:
            cpu.enter_user(0x33, 0x2B, long_mode=True)
            cpu.registers.rip = USER_CODE
            engine.run(cpu)
        assert [cpu.registers.rbx for cpu in engine.cpus] == [0x1111, 0x2222, 0x1111]
        assert [cpu.registers.rcx for cpu in engine.cpus] == [0x1111, 0x1111, 0x2222]


def test_cpus_keep_their_fpu_apart() -> None:
    engine, _ = make_machine(vcpus=2)
    source = f"""
        ldmxcsr (%rsi)
        fninit
        fldcw 4(%rsi)
        fildl 8(%rsi)
        movq 8(%rsi), %xmm15
        xor %eax, %eax
        syscall
        fistl 16(%rsi)
        stmxcsr 20(%rsi)
        movq %xmm15, 24(%rsi)
        fnstcw 32(%rsi)
        fxsave {DATA + 0x400}(%rbx)
        xor %eax, %eax
        syscall
    """
    load(engine, source)
    words = engine.memory.words
    for cpu in engine.cpus:
        place = DATA + 0x100 * cpu.index
        words[place >> 3] = (0x1F80 | 0x2000 * cpu.index) | (0x37F - cpu.index) << 32
        words[(place >> 3) + 1] = 41 + cpu.index
        cpu.registers.rsi = place
        cpu.registers.rbx = 0x200 * cpu.index
        engine.run(cpu)
    for cpu in engine.cpus:
        engine.run(cpu)
    for number in range(2):
        place = (DATA + 0x100 * number) >> 3
        assert words[place + 2] == (41 + number) | (0x1F80 | 0x2000 * number) << 32
        assert words[place + 3] == 41 + number
        assert words[place + 4] & 0xFFFF == 0x37F - number
        image = (DATA + 0x400 + 0x200 * number) >> 3
        assert words[image] & 0xFFFF == 0x37F - number
        assert words[image + 3] & 0xFFFF == 0x1F80 | 0x2000 * number


@pytest.mark.parametrize("instruction", ["fninit", "movd %eax, %xmm0", "emms", "fxsave (%rsp)"])
def test_task_switched_faults_once_and_belongs_to_a_cpu(instruction: str) -> None:
    engine, handler = make_machine(vcpus=2)
    load(engine, f"sub $512, %rsp\n {instruction}\n" + STOP)
    first, second = engine.cpus
    first.set_task_switched(True)
    engine.run(second)
    assert handler.traps == [("hypercall", 0)]
    engine.run(first)
    assert handler.traps[1:] == [("exception", 7, 0, False)]
    first.set_task_switched(False)
    engine.run(first)
    assert handler.traps[2:] == [("hypercall", 0)]


def test_code_changed_from_outside_is_translated_again() -> None:
    engine, _ = make_machine()
    load(engine, "mov $1, %ebx\n" + STOP)
    engine.run(engine.cpus[0])
    load(engine, "mov $2, %ebx\n" + STOP)
    engine.cpus[0].registers.rip = CODE
    engine.run(engine.cpus[0])
    assert engine.cpus[0].registers.rbx == 2


def test_frames_that_hold_translated_code_are_known() -> None:
    engine, _ = make_machine()
    other, _ = make_machine()
    cpu = engine.cpus[0]
    frames = engine.memory.code_frames
    mfn = CODE >> 12
    assert not any(frames)
    load(engine, "mov $1, %ebx\n" + STOP)
    engine.run(cpu)
    assert [number for number, flag in enumerate(frames) if flag] == [mfn]
    assert not any(other.memory.code_frames)
    # Only a part of the frame is named, but nothing of it is left.
    engine.memory.bytes[CODE + 1] = 2
    engine.invalidate_code(CODE + 0x800, 1)
    assert not frames[mfn]
    for value in (2, 3):
        cpu.registers.rip = CODE
        engine.run(cpu)
        assert cpu.registers.rbx == value
        assert frames[mfn]
        engine.memory.bytes[CODE + 1] = 3
        engine.invalidate_code(CODE, 1)


def test_code_that_spans_two_frames_marks_both() -> None:
    engine, _ = make_machine()
    place = CODE + 0xFFD
    load(engine, "mov $1, %ebx\n" + STOP, place)
    engine.cpus[0].registers.rip = place
    engine.run(engine.cpus[0])
    frames = engine.memory.code_frames
    assert [number for number, flag in enumerate(frames) if flag] == [CODE >> 12, (CODE >> 12) + 1]
    engine.memory.bytes[place + 4] = 0x40  # in the second frame
    engine.invalidate_code(place + 4, 1)
    engine.cpus[0].registers.rip = place
    engine.run(engine.cpus[0])
    assert engine.cpus[0].registers.rbx == 0x40000001


def test_kick_before_run_is_kept() -> None:
    engine, handler = make_machine()
    load(engine, "jmp .\n")
    engine.kick()
    engine.run(engine.cpus[0])
    assert handler.traps == []


def test_kick_from_another_thread_ends_an_endless_loop() -> None:
    engine, _ = make_machine()
    load(engine, "1: inc %rbx\n jmp 1b\n")

    def kick() -> None:
        time.sleep(0.05)
        engine.kick()

    thread = threading.Thread(target=kick)
    thread.start()
    engine.run(engine.cpus[0])
    thread.join()
    assert engine.cpus[0].registers.rbx > 1000


def test_no_kick_is_lost_while_the_engine_starts() -> None:
    engine, _ = make_machine()
    load(engine, "1: inc %rbx\n jmp 1b\n")
    rounds = 2000
    started = threading.Semaphore(0)

    def kick() -> None:
        for _ in range(rounds):
            started.acquire()
            engine.kick()

    thread = threading.Thread(target=kick)
    thread.start()
    for _ in range(rounds):
        started.release()
        engine.run(engine.cpus[0])
    thread.join()


def test_deadline_ends_an_endless_loop() -> None:
    engine, _ = make_machine()
    other, _ = make_machine()
    load(engine, "1: inc %rbx\n jmp 1b\n")
    registers = engine.cpus[0].registers
    ticks = tsc_ticks(0.02)
    for _ in range(10):
        deadline = engine.read_tsc() + ticks
        engine.set_deadline(deadline)
        other.set_deadline(0)  # another engine's own affair
        engine.run(engine.cpus[0])
        assert engine.read_tsc() >= deadline
    for _ in range(10):
        registers.rbx = 0
        engine.run(engine.cpus[0])  # the deadline is over
        assert registers.rbx <= 1
    engine.set_deadline(NEVER)
    timer = threading.Timer(0.05, engine.kick)
    start = time.monotonic()
    timer.start()
    engine.run(engine.cpus[0])
    assert time.monotonic() - start >= 0.05
    assert registers.rbx > 1000
    timer.join()
    engine.close()
    other.close()


def test_alarm_of_a_run_that_has_ended_does_not_end_the_next_one() -> None:
    engine, _ = make_machine()
    load(engine, "1: inc %rbx\n jmp 1b\n")
    engine.set_deadline(engine.read_tsc() + tsc_ticks(0.2))
    engine.kick()
    engine.run(engine.cpus[0])
    time.sleep(0.3)
    assert library.kick_byte()[0] == 0
    engine.close()


def tsc_ticks(seconds: float) -> int:
    """How far the time-stamp counter goes in this time."""
    read = library.tsc_reader()
    start, first = time.monotonic(), read()
    time.sleep(0.02)
    return int((read() - first) / (time.monotonic() - start) * seconds)
