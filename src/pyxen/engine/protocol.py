# SPDX-License-Identifier: GPL-2.0-or-later
"""The seam between the hypervisor and what executes guest instructions.

An engine owns the machine memory and the register state of N CPUs. ``engine.run(cpu)``
executes guest code on one of them; whatever the guest cannot do by itself arrives as a *trap*, a
call of a method of the ``TrapHandler``, which reads and changes ``cpu.registers``; execution goes
on from the registers as it left them. ``run`` returns after ``kick`` (from any thread), ``stop``
(from a trap), or when the time-stamp counter has come to the engine's deadline.

A CPU is in one of two modes, *kernel* and *user*. Each has a page table and a GS base of its own,
and a user-mode access to a page without the user bit faults. The guest kernel runs without
the privileges of a real kernel: privileged instructions, and those that use ports, arrive as
general protection faults.

``Cpu`` and ``Registers`` are classes and not protocols, because they are used at every trap:
compiled, their attributes are C variables. The handler is an object with a method per kind of
trap, rather than one callback with a trap object, because a trap is the hot path: there is nothing
to allocate and nothing to dispatch on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from pyxen.engine.cpu import Cpu
from pyxen.engine.registers import Registers

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NEVER", "Cpu", "Engine", "EngineError", "MachineMemory", "Registers", "TrapHandler"]


class TrapHandler(Protocol):
    """What the hypervisor offers an engine. All calls come from the thread that runs."""

    def hypercall(self, cpu: Cpu) -> None:
        """``syscall`` in kernel mode. ``rip`` is behind the instruction."""

    def system_call(self, cpu: Cpu) -> None:
        """``syscall`` in user mode. ``rip`` is behind the instruction; rcx, r11 untouched."""

    def sysenter(self, cpu: Cpu) -> None:
        """``sysenter`` in either mode. ``rip`` is at the instruction; nothing has changed."""

    def exception(self, cpu: Cpu, vector: int, error_code: int, software: bool) -> None:
        """A fault or trap. ``software``: by ``int n`` (``rip`` behind it), not by the CPU.

        For a page fault the address is in ``cr2``; bit 2 of the error code is set for what user
        code does itself, and clear when the CPU looks for a descriptor on its behalf.
        """

    def cpuid(self, cpu: Cpu) -> None:
        """The CPUID instruction; the handler fills rax, rbx, rcx, rdx. ``rip`` stays."""


NEVER: Final = 0xFFFFFFFFFFFFFFFF
"""A deadline that does not come."""


class MachineMemory(Protocol):
    """All memory that guest code can reach, by machine address from 0.

    The frames from ``ram_mfn`` on are guest RAM and lie in one memfd; the ones below belong to
    the hypervisor. ``bytes`` and ``words`` (64-bit) are views of all of it.
    """

    ram_mfn: int
    frames: int
    """Number of frames: RAM ends there."""
    bytes: memoryview
    words: memoryview
    code_frames: memoryview
    """A byte for each frame: not 0 while code translated from it may exist. Whoever writes to such
    a frame from outside calls ``Engine.invalidate_code``."""


class Engine(Protocol):
    """See the module. Only ``kick`` may be called from another thread than ``run``'s."""

    name: str
    flush_clock: memoryview
    """Three numbers: the count of all flushes of translations, and what it was at the last flush
    of all those of kernel mode and at that of user mode."""

    @property
    def memory(self) -> MachineMemory: ...
    @property
    def cpus(self) -> Sequence[Cpu]: ...

    def set_handler(self, handler: TrapHandler) -> None:
        """Who gets the traps; to be set before the first ``run``."""

    def run(self, cpu: Cpu) -> None:
        """Execute until ``kick``, ``stop`` or the deadline.

        An exception that a trap handler raises comes out of here, between two instructions.
        Raises EngineError when the guest has come to a state that cannot be executed.
        """

    def stop(self) -> None:
        """From a trap: return from ``run`` when the trap is done."""

    def kick(self) -> None:
        """From any thread: make ``run`` return soon, or at once if it is called later."""

    def set_deadline(self, tsc: int) -> None:
        """Make ``run`` return soon after the time-stamp counter has come to this value; at once if
        it is there already. In the thread of ``run``; NEVER for no deadline."""

    def flush_tlb(self) -> None:
        """Forget all translations of the running CPU."""

    def flush_page(self, address: int) -> None:
        """Forget the translations of one linear page."""

    def invalidate_code(self, address: int, size: int) -> None:
        """Machine memory was changed from outside: forget code translated from these frames."""

    def read_tsc(self) -> int:
        """The time-stamp counter as RDTSC shows it to the guest."""

    def processor_time(self) -> int:
        """For how many ns the calling thread has had a processor of the host."""

    def native_cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """What the engine's CPU can do, as CPUID's (eax, ebx, ecx, edx)."""

    def close(self) -> None:
        """Free what the engine holds. It cannot be used afterwards."""


class EngineError(Exception):
    """The guest came to a state that the engine cannot execute; the message says which."""
