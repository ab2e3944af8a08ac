# SPDX-License-Identifier: GPL-2.0-or-later
"""The fake engine keeps the promises of the engine protocol."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import repeat

import pytest

from pyxen.abi.xen import HYPERVISOR_sched_op
from pyxen.engine.memory import PAGE_SIZE
from pyxen.engine.protocol import Cpu, Engine, EngineError, Registers, TrapHandler
from pyxen.testing import FakeCpu, FakeEngine, make_hypercall


class Recorder:
    """A trap handler that notes the hypercalls."""

    def __init__(self) -> None:
        self.hypercalls: list[tuple[int, ...]] = []

    def hypercall(self, cpu: Cpu) -> None:
        r = cpu.registers
        self.hypercalls.append((cpu.index, r.rax, r.rdi, r.rsi, r.rdx, r.r10, r.r8))


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine(8, 2)
    yield engine
    engine.close()


def test_satisfies_the_protocols(engine: FakeEngine) -> None:
    as_engine: Engine = engine
    as_cpu: Cpu = engine.cpus[0]
    as_registers: Registers = engine.cpus[0].registers
    assert (as_engine.name, as_cpu.index, as_registers.rax) == ("fake", 0, 0)


def test_memory_views_agree(engine: FakeEngine) -> None:
    memory = engine.memory
    assert memory.frames - memory.ram_mfn == 8
    memory.words[memory.ram_mfn * PAGE_SIZE >> 3] = 0x0102
    assert bytes(memory.bytes[memory.ram_mfn * PAGE_SIZE :][:2]) == b"\x02\x01"


def test_steps_run_in_order_until_stop(engine: FakeEngine) -> None:
    recorder = Recorder()
    engine.set_handler(recorder)  # type: ignore[arg-type]
    cpu = engine.cpus[1]
    cpu.script([make_hypercall(29, 1, 2, 3, 4, 5), lambda handler, cpu: engine.stop()])
    cpu.script([make_hypercall(HYPERVISOR_sched_op)])
    engine.run(cpu)
    assert recorder.hypercalls == [(1, 29, 1, 2, 3, 4, 5)]


def test_hypercall_with_six_arguments_is_refused() -> None:
    with pytest.raises(ValueError, match="6 arguments"):
        make_hypercall(0, 1, 2, 3, 4, 5, 6)


def test_end_of_script_raises(engine: FakeEngine) -> None:
    engine.set_handler(Recorder())  # type: ignore[arg-type]
    with pytest.raises(EngineError, match="cpu 0: the script is at its end"):
        engine.run(engine.cpus[0])


def test_exception_of_a_step_comes_out_and_the_next_run_goes_on(engine: FakeEngine) -> None:
    seen: list[str] = []

    def fail(handler: TrapHandler, cpu: FakeCpu) -> None:
        raise KeyError("broken")

    def end(handler: TrapHandler, cpu: FakeCpu) -> None:
        seen.append("end")
        engine.stop()

    engine.set_handler(Recorder())  # type: ignore[arg-type]
    engine.cpus[0].script([fail, end])
    with pytest.raises(KeyError):
        engine.run(engine.cpus[0])
    assert not engine.running
    engine.run(engine.cpus[0])
    assert seen == ["end"]


def test_kick_before_run_is_kept_and_used_up(engine: FakeEngine) -> None:
    engine.set_handler(Recorder())  # type: ignore[arg-type]
    engine.kick()
    engine.run(engine.cpus[0])
    with pytest.raises(EngineError):
        engine.run(engine.cpus[0])


def test_stop_before_run_has_no_effect(engine: FakeEngine) -> None:
    engine.set_handler(Recorder())  # type: ignore[arg-type]
    engine.stop()
    with pytest.raises(EngineError):
        engine.run(engine.cpus[0])


def test_kick_from_another_thread_ends_spinning(engine: FakeEngine) -> None:
    engine.set_handler(Recorder())  # type: ignore[arg-type]
    engine.cpus[0].script(repeat(engine.spin))
    timer = threading.Timer(0.02, engine.kick)
    timer.start()
    engine.run(engine.cpus[0])
    timer.join()


def test_modes_swap_gs_bases_and_page_tables(engine: FakeEngine) -> None:
    cpu = engine.cpus[0]
    cpu.load_kernel_page_table(0x1000)
    cpu.load_user_page_table(0x2000)
    cpu.registers.gs_base, cpu.inactive_gs_base = 1, 2
    assert cpu.registers.cr3 == 0x1000
    cpu.enter_user(0x23, 0x2B, long_mode=False)
    cpu.enter_user(0x33, 0x2B, long_mode=True)
    assert (cpu.user_mode, cpu.long_mode, cpu.registers.cs) == (True, True, 0x33)
    assert (cpu.registers.gs_base, cpu.inactive_gs_base, cpu.registers.cr3) == (2, 1, 0x2000)
    cpu.enter_kernel(0xE033, 0xE02B)
    cpu.enter_kernel(0xE033, 0xE02B)
    assert (cpu.user_mode, cpu.registers.ss) == (False, 0xE02B)
    assert (cpu.registers.gs_base, cpu.inactive_gs_base, cpu.registers.cr3) == (1, 2, 0x1000)


def test_saved_state_can_be_loaded_into_another_cpu(engine: FakeEngine) -> None:
    cpu, other = engine.cpus
    cpu.load_kernel_page_table(0x3000)
    cpu.registers.r15 = (1 << 64) - 1
    cpu.set_task_switched(True)
    cpu.set_descriptor_table(0x1234, 0xFFFF)
    cpu.set_local_descriptor_table(0x5678, 0xF)
    cpu.enter_user(0x33, 0x2B, long_mode=True)
    other.load(cpu.save())
    assert list(other.registers.words) == list(cpu.registers.words)
    assert (other.user_mode, other.task_switched) == (True, True)
    assert (other.kernel_page_table, other.descriptor_table) == (0x3000, (0x1234, 0xFFFF))
    assert other.local_descriptor_table == (0x5678, 0xF)


@pytest.mark.parametrize("state", [b"", b"[]", b"\xff", b"[1, 2, 3]", b"7"])
def test_bad_state_is_refused(engine: FakeEngine, state: bytes) -> None:
    before = list(engine.cpus[0].registers.words)
    with pytest.raises(ValueError, match="not a state"):
        engine.cpus[0].load(state)
    assert list(engine.cpus[0].registers.words) == before


def test_flushes_are_recorded(engine: FakeEngine) -> None:
    engine.flush_tlb()
    engine.flush_page(0x5000)
    engine.invalidate_code(0x1000, 16)
    assert engine.flushes == [None, 0x5000]
    assert engine.invalidated == [(0x1000, 16)]


def test_time_and_cpuid(engine: FakeEngine) -> None:
    assert engine.read_tsc() < engine.read_tsc()
    engine.cpuid[1, 0] = (1, 2, 3, 4)
    assert engine.native_cpuid(1, 0) == (1, 2, 3, 4)
    assert engine.native_cpuid(7, 0) == (0, 0, 0, 0)
