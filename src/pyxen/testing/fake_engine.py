# SPDX-License-Identifier: GPL-2.0-or-later
"""An engine that executes no instructions: what the guest does is a script in Python.

``FakeEngine`` satisfies ``pyxen.engine.protocol.Engine``. Its machine memory is real, its CPUs
have registers. Instead of guest code each CPU has *steps*, callables
which do what an instruction would cause: change registers, call a method of the trap handler::

    engine = FakeEngine(ram_pages=64)
    domain = Domain(engine, 64)
    engine.cpus[0].script([make_hypercall(HYPERVISOR_sched_op, SCHEDOP_yield)])
    domain.scheduler.run()

A step runs between two looks at ``kick`` and ``stop``, as an instruction does.
"""

from __future__ import annotations

import json
import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Final

from pyxen.engine.cpu import Cpu
from pyxen.engine.memory import MachineMemory
from pyxen.engine.protocol import NEVER, EngineError
from pyxen.engine.registers import CS, WORDS, Registers

if TYPE_CHECKING:
    from pyxen.engine.protocol import TrapHandler

_TICKS_PER_NANOSECOND: Final = 2
_CR0_TS: Final = 8
_KERNEL: Final = 1
_USER: Final = 2


class FakeCpu(Cpu):
    """See ``Cpu``. ``descriptor_table`` and ``local_descriptor_table`` are what was set last,
    ``long_mode`` tells whether the code segment is one of 64-bit code, ``segments`` which
    descriptors were loaded (by the register's position), ``debug_status`` is the next answer of
    ``take_debug_status``, ``fpu`` the image that was loaded last."""

    def __init__(self, engine: FakeEngine, index: int) -> None:
        Cpu.__init__(self, index, Registers(memoryview(array("Q", bytes(8 * WORDS)))))
        self.registers.rflags = 0x202
        self.registers.cr0 = 0x80050033
        self.registers.cr4 = 0x6B0
        self.long_mode = True
        self.descriptor_table = (0, 0)
        self.local_descriptor_table = (0, 0)
        self.segments: dict[int, int] = {}
        self.breakpoints: tuple[tuple[int, ...], int] = ((0, 0, 0, 0), 0)
        self.debug_status = 0
        self.fpu = b""
        self.empty_ports = (False, False)
        self.tsc_aux = 0
        self.cpuid_faults = False
        self._engine = engine
        self._steps: Iterator[Step] = iter(())

    def script(self, steps: Iterable[Step]) -> None:
        """Add steps behind those that are left; ``itertools.repeat`` makes an endless loop."""
        self._steps = chain(self._steps, steps)

    def next_step(self) -> Step:
        """Raises EngineError when the script is at its end."""
        try:
            return next(self._steps)
        except StopIteration:
            raise EngineError(f"cpu {self.index}: the script is at its end") from None

    def enter_kernel(self, cs: int, ss: int) -> None:
        self.switch_mode(False)
        self.long_mode = True
        self.registers.cs = cs
        self.registers.ss = ss

    def enter_user(self, cs: int, ss: int, long_mode: bool) -> None:
        self.switch_mode(True)
        self.registers.cs = cs
        self.registers.ss = ss
        self.long_mode = long_mode

    def load_kernel_page_table(self, address: int) -> None:
        self.kernel_page_table = address
        if not self.user_mode:
            self.registers.cr3 = address
        self._engine.flush_mode(_KERNEL)

    def load_user_page_table(self, address: int) -> None:
        self.user_page_table = address
        if self.user_mode:
            self.registers.cr3 = address
        self._engine.flush_mode(_USER)

    def set_descriptor_table(self, base: int, limit: int) -> None:
        self.descriptor_table = (base, limit)

    def set_local_descriptor_table(self, base: int, limit: int) -> None:
        self.local_descriptor_table = (base, limit)

    def load_segment(self, position: int, selector: int, descriptor: int) -> None:
        self.registers.words[position] = selector
        self.segments[position] = descriptor
        if position == CS:
            self.long_mode = bool(descriptor >> 53 & 1)

    def load_fpu(self, image: bytes) -> None:
        self.fpu = image

    def save_fpu(self) -> bytes:
        return self.fpu

    def in_long_mode(self) -> bool:
        return self.long_mode

    @property
    def task_switched(self) -> bool:
        """CR0.TS."""
        return bool(self.registers.cr0 & _CR0_TS)

    def set_task_switched(self, value: bool) -> None:
        self.registers.cr0 = self.registers.cr0 & ~_CR0_TS | (_CR0_TS if value else 0)

    def set_empty_ports(self, kernel: bool, user: bool) -> None:
        self.empty_ports = (kernel, user)

    def set_tsc_aux(self, value: int) -> None:
        self.tsc_aux = value

    def set_cpuid_faulting(self, enabled: bool) -> None:
        self.cpuid_faults = enabled

    def set_breakpoints(self, addresses: tuple[int, ...], control: int) -> None:
        self.breakpoints = (addresses, control)

    def take_debug_status(self) -> int:
        status, self.debug_status = self.debug_status, 0
        return status

    def save(self) -> bytes:
        state = (
            self.user_mode,
            self.long_mode,
            self.inactive_gs_base,
            self.kernel_page_table,
            self.user_page_table,
            self.descriptor_table,
            self.local_descriptor_table,
            list(self.registers.words),
        )
        return json.dumps(state).encode()

    def load(self, state: bytes) -> None:
        try:
            (
                self.user_mode,
                self.long_mode,
                self.inactive_gs_base,
                self.kernel_page_table,
                self.user_page_table,
                (base, limit),
                (local_base, local_limit),
                registers,
            ) = json.loads(state)
        except (TypeError, ValueError) as error:
            raise ValueError(f"not a state of this engine's CPU: {error}") from None
        self.descriptor_table = (base, limit)
        self.local_descriptor_table = (local_base, local_limit)
        self.registers.words[:] = memoryview(array("Q", registers))


Step = Callable[["TrapHandler", FakeCpu], None]
"""What a guest does until the next moment at which it can be interrupted."""


class FakeEngine:
    """See the module and ``protocol.Engine``.

    ``flushes`` records what the hypervisor had forgotten: a linear address for a page, None for
    all; ``invalidated`` the (machine address, size) whose code was. ``read_tsc`` counts two ticks
    a nanosecond of the host's clock unless another source is given. ``cpuid`` maps (leaf,
    subleaf) to what the CPU answers, zeros for others.
    """

    name = "fake"

    def __init__(
        self, ram_pages: int, vcpus: int = 1, *, read_tsc: Callable[[], int] | None = None
    ) -> None:
        self.memory = MachineMemory(ram_pages)
        self.cpus = [FakeCpu(self, index) for index in range(vcpus)]
        self.flushes: list[int | None] = []
        self.flush_clock = memoryview(array("Q", (1, 1, 1)))
        self.invalidated: list[tuple[int, int]] = []
        self.cpuid: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self.read_tsc = read_tsc or _tsc_of_host
        self.running = False
        self._deadline = NEVER
        self._handler: TrapHandler
        self._kick = threading.Event()
        self._stopped = False

    def set_handler(self, handler: TrapHandler) -> None:
        self._handler = handler

    def run(self, cpu: Cpu) -> None:
        """Take steps of the CPU's script until ``kick``, ``stop`` or the deadline.

        Raises what a step raises, EngineError when there is no step left.
        """
        fake = self.cpus[cpu.index]
        self._stopped = False
        self.running = True
        try:
            while not self._stopped and not self._kick.is_set() and not self._is_late():
                fake.next_step()(self._handler, fake)
        finally:
            self.running = False
            self._kick.clear()

    def spin(self, handler: TrapHandler, cpu: FakeCpu) -> None:
        """A step: compute, without a trap, until another thread kicks or the deadline comes."""
        while not self._is_late():
            ticks = min(self._deadline - self.read_tsc(), _TICKS_PER_NANOSECOND * 10**9)
            if self._kick.wait(max(0, ticks) / _TICKS_PER_NANOSECOND / 1e9):
                return

    def _is_late(self) -> bool:
        return self._deadline != NEVER and self.read_tsc() >= self._deadline

    def stop(self) -> None:
        self._stopped = True

    def kick(self) -> None:
        self._kick.set()

    def set_deadline(self, tsc: int) -> None:
        self._deadline = tsc

    def flush_tlb(self) -> None:
        self.flush_mode(_KERNEL, _USER)

    def flush_mode(self, *modes: int) -> None:
        """Forget the translations of these modes (their places in ``flush_clock``)."""
        self.flushes.append(None)
        self.flush_clock[0] += 1
        for mode in modes:
            self.flush_clock[mode] = self.flush_clock[0]

    def flush_page(self, address: int) -> None:
        self.flushes.append(address)

    def invalidate_code(self, address: int, size: int) -> None:
        self.invalidated.append((address, size))
        first, last = address >> 12, address + size - 1 >> 12
        self.memory.code_frames[first : last + 1] = bytes(last + 1 - first)

    def processor_time(self) -> int:
        """All time: what waits in a script stands for guest code that works."""
        return self.read_tsc() // _TICKS_PER_NANOSECOND

    def native_cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        return self.cpuid.get((leaf, subleaf), (0, 0, 0, 0))

    def close(self) -> None:
        self.memory.close()


def _tsc_of_host() -> int:
    return time.monotonic_ns() * _TICKS_PER_NANOSECOND


def make_hypercall(number: int, *arguments: int) -> Step:
    """A step: make a hypercall with up to five arguments. The result is in rax behind it."""
    if len(arguments) > 5:
        raise ValueError(f"{len(arguments)} arguments, expected at most 5")
    names = ("rdi", "rsi", "rdx", "r10", "r8")

    def step(handler: TrapHandler, cpu: FakeCpu) -> None:
        cpu.registers.rax = number
        for name, value in zip(names, arguments, strict=False):
            setattr(cpu.registers, name, value)
        handler.hypercall(cpu)

    return step
