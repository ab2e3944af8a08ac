# SPDX-License-Identifier: GPL-2.0-or-later
"""What the CPUs of all engines have in common: the base class of an engine's CPU."""

from __future__ import annotations

from pyxen.engine.registers import CR3, GS_BASE, Registers


class Cpu:
    """One virtual CPU of an engine. Belongs to the thread that calls ``engine.run``.

    ``registers`` is another object after the CPU has been exchanged for another one: not to be
    kept. ``inactive_gs_base`` is the GS base of the mode that the CPU is not in; the page tables
    are machine addresses of top-level tables.
    """

    def __init__(self, index: int, registers: Registers) -> None:
        self.index = index
        self.registers = registers
        self.user_mode = False
        self.inactive_gs_base = 0
        self.kernel_page_table = 0
        self.user_page_table = 0

    def enter_kernel(self, cs: int, ss: int) -> None:
        """Go to kernel mode (from either mode) with these flat 64-bit selectors."""
        raise NotImplementedError

    def enter_user(self, cs: int, ss: int, long_mode: bool) -> None:
        """Go to user mode, to a 64-bit code segment or, else, a flat 32-bit one."""
        raise NotImplementedError

    def load_kernel_page_table(self, address: int) -> None:
        """Use this top-level table in kernel mode; forgets the translations of the mode."""
        raise NotImplementedError

    def load_user_page_table(self, address: int) -> None:
        """The same for user mode."""
        raise NotImplementedError

    def set_descriptor_table(self, base: int, limit: int) -> None:
        """The linear address of the global descriptor table, and its last byte's offset."""
        raise NotImplementedError

    def set_local_descriptor_table(self, base: int, limit: int) -> None:
        """The same for the local descriptor table. A limit of 0 is that of an empty one."""
        raise NotImplementedError

    def load_segment(self, position: int, selector: int, descriptor: int) -> None:
        """Load a segment register (``registers.ES`` …) with what a descriptor says.

        Code and stack segments are loaded behind ``enter_kernel`` or ``enter_user``, which set flat
        ones, and keep the privilege of the mode. A descriptor of 0 makes the register unusable.
        """
        raise NotImplementedError

    def load_fpu(self, image: bytes) -> None:
        """Load x87 and SSE registers with an image as FXSAVE writes it."""
        raise NotImplementedError

    def save_fpu(self) -> bytes:
        """These registers as such an image."""
        raise NotImplementedError

    def in_long_mode(self) -> bool:
        """Whether the code segment is one of 64-bit code. Guest code may have changed it itself."""
        raise NotImplementedError

    def set_task_switched(self, value: bool) -> None:
        """CR0.TS: the next FPU instruction faults."""
        raise NotImplementedError

    def set_empty_ports(self, kernel: bool, user: bool) -> None:
        """Whether in a mode all ports exist and are empty: IN reads ones, OUT is nothing. Where
        not, which is so at first, a port instruction is a general protection fault."""
        raise NotImplementedError

    def set_tsc_aux(self, value: int) -> None:
        """What RDTSCP shows beside the counter: 32 bits."""
        raise NotImplementedError

    def set_cpuid_faulting(self, enabled: bool) -> None:
        """Whether CPUID in user mode is a general protection fault, and no trap of its own."""
        raise NotImplementedError

    def set_breakpoints(self, addresses: tuple[int, ...], control: int) -> None:
        """Debug registers 0 to 3 and 7. I/O breakpoints are the caller's; a breakpoint that is met
        is an exception 1, behind the instruction for data, before it for execution."""
        raise NotImplementedError

    def take_debug_status(self) -> int:
        """After an exception 1: why, in the bits of DR6 (0 to 3: breakpoints, 14: single step)."""
        raise NotImplementedError

    def save(self) -> bytes:
        """The whole state (registers, FPU, modes, page tables), for ``load``."""
        raise NotImplementedError

    def load(self, state: bytes) -> None:
        """Take a state that ``save`` made. Raises ValueError when it is none."""
        raise NotImplementedError

    def switch_mode(self, user_mode: bool) -> None:
        """For the engines: exchange the GS bases and the page table, if the mode is another one."""
        if self.user_mode == user_mode:
            return
        self.user_mode = user_mode
        words = self.registers.words
        gs_base = words[GS_BASE]
        words[GS_BASE] = self.inactive_gs_base
        self.inactive_gs_base = gs_base
        words[CR3] = self.user_page_table if user_mode else self.kernel_page_table
