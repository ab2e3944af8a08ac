# SPDX-License-Identifier: GPL-2.0-or-later
"""The seam between the hypervisor and what executes guest instructions.

An engine owns the machine memory and the register state of N CPUs. ``engine.run(cpu)``
executes guest code on one of them; whatever the guest cannot do by itself arrives as a *trap*, a
call of a method of the ``TrapHandler``, which reads and changes ``cpu.registers``; execution goes
on from the registers as it left them. ``run`` returns after ``kick`` (from any thread) or
``stop`` (from a trap).

A CPU is in one of two modes, *kernel* and *user*. Each has a page table and a GS base of its own,
and a user-mode access to a page without the user bit faults. The guest kernel runs without
the privileges of a real kernel: privileged instructions arrive as general protection faults.

The handler is an object with a method per kind of trap, rather than one callback with a trap
object, because a trap is the hot path: there is nothing to allocate and nothing to dispatch on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Registers(Protocol):
    """The registers of a CPU: unsigned integers, readable and writable by name.

    64 bits each, the segment selectors 16. ``cr2`` is the address of the last page fault.
    """

    rax: int
    rcx: int
    rdx: int
    rbx: int
    rsp: int
    rbp: int
    rsi: int
    rdi: int
    r8: int
    r9: int
    r10: int
    r11: int
    r12: int
    r13: int
    r14: int
    r15: int
    rip: int
    cs: int
    ss: int
    ds: int
    es: int
    fs: int
    gs: int
    fs_base: int
    gs_base: int
    cr0: int
    cr2: int
    cr3: int
    cr4: int

    @property
    def rflags(self) -> int: ...
    @rflags.setter
    def rflags(self, value: int) -> None: ...


class Cpu(Protocol):
    """One virtual CPU of an engine. Belongs to the thread that calls ``engine.run``."""

    index: int
    user_mode: bool
    inactive_gs_base: int
    """The GS base of the mode that the CPU is not in."""
    kernel_page_table: int
    """Machine address of the top-level table of kernel mode; set by ``load_page_tables``."""
    user_page_table: int

    @property
    def registers(self) -> Registers:
        """Another object after the CPU has been exchanged for another one: not to be kept."""

    def enter_kernel(self, cs: int, ss: int) -> None:
        """Go to kernel mode (from either mode) with these flat 64-bit selectors."""

    def enter_user(self, cs: int, ss: int, *, long_mode: bool) -> None:
        """Go to user mode, to a 64-bit code segment or, else, a flat 32-bit one."""

    def stay_in_kernel(self, cs: int, ss: int) -> None:
        """Set the selectors of kernel mode, as a return within the kernel does."""

    def load_kernel_page_table(self, address: int) -> None:
        """Use the top-level table at this machine address in kernel mode; flushes."""

    def load_user_page_table(self, address: int) -> None:
        """The same for user mode."""

    def set_descriptor_table(self, base: int, limit: int) -> None:
        """The linear address of the global descriptor table, and its last byte's offset."""

    def set_task_switched(self, value: bool) -> None:
        """CR0.TS: the next FPU instruction faults."""

    def save(self) -> bytes:
        """The whole state (registers, FPU, modes, page tables), for ``load``."""

    def load(self, state: bytes) -> None:
        """Take a state that ``save`` made. Raises ValueError when it is none."""


class TrapHandler(Protocol):
    """What the hypervisor offers an engine. All calls come from the thread that runs."""

    def hypercall(self, cpu: Cpu) -> None:
        """``syscall`` in kernel mode. ``rip`` is behind the instruction."""

    def system_call(self, cpu: Cpu) -> None:
        """``syscall`` in user mode. ``rip`` is behind the instruction; rcx, r11 untouched."""

    def exception(self, cpu: Cpu, vector: int, error_code: int, software: bool) -> None:
        """A fault or trap. ``software``: by ``int n`` (``rip`` behind it), not by the CPU.

        For a page fault the address is in ``cr2`` and bit 2 of the error code tells the mode.
        """

    def cpuid(self, cpu: Cpu) -> None:
        """The CPUID instruction; the handler fills rax, rbx, rcx, rdx. ``rip`` stays."""

    def port_in(self, cpu: Cpu, port: int, size: int) -> int:
        """The value that an IN instruction of ``size`` bytes reads."""

    def port_out(self, cpu: Cpu, port: int, size: int, value: int) -> None:
        """An OUT instruction."""


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


class Engine(Protocol):
    """See the module. Only ``kick`` may be called from another thread than ``run``'s."""

    name: str

    @property
    def memory(self) -> MachineMemory: ...
    @property
    def cpus(self) -> Sequence[Cpu]: ...

    def set_handler(self, handler: TrapHandler) -> None:
        """Who gets the traps; to be set before the first ``run``."""

    def run(self, cpu: Cpu) -> None:
        """Execute until ``kick`` or ``stop``.

        An exception that a trap handler raises comes out of here, between two instructions.
        Raises EngineError when the guest has come to a state that cannot be executed.
        """

    def stop(self) -> None:
        """From a trap: return from ``run`` when the trap is done."""

    def kick(self) -> None:
        """From any thread: make ``run`` return soon. Kicks while not running are kept.

        The kick may get lost in the moment in which ``run`` starts; repeat it until
        ``kick_pending`` is False.
        """

    @property
    def kick_pending(self) -> bool: ...

    def flush_tlb(self) -> None:
        """Forget all translations of the running CPU."""

    def flush_page(self, address: int) -> None:
        """Forget the translations of one linear page."""

    def invalidate_code(self, address: int, size: int) -> None:
        """Machine memory was changed from outside: forget code translated from it."""

    def read_tsc(self) -> int:
        """The time-stamp counter as RDTSC shows it to the guest."""

    def native_cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """What the engine's CPU can do, as CPUID's (eax, ebx, ecx, edx)."""

    def close(self) -> None:
        """Free what the engine holds. It cannot be used afterwards."""


class EngineError(Exception):
    """The guest came to a state that the engine cannot execute; the message says which."""
