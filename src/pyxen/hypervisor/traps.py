# SPDX-License-Identifier: GPL-2.0-or-later
"""Traps: everything that takes the guest to Xen, and how it is sent back.

A PV kernel has no interrupt descriptor table. It registers a handler for each exception (``set_trap_table``) and
callbacks for events, system calls and failures. To deliver one, Xen writes a *bounce frame* to the kernel's stack and goes on at the handler.
The frame is that of a hardware interrupt with rcx and r11 below it::

    rcx, r11, [error code], rip, cs, rflags, rsp, ss

In the frame the upcall mask of the moment stands in byte 4 of the cs word, and the interrupt flag of rflags is its
reverse. A trap from user mode switches to kernel mode (its page table, its GS base) and to the stack that ``stack_switch`` has named; the handler
returns by the ``iret`` hypercall. The kernel's own cs has RPL 0 in frames, so that a kernel can tell
where a trap came from.

Reference: ``public/arch-x86/xen-x86_64.h``; Xen's ``arch/x86/x86_64/entry.S`` (create_bounce_frame).
"""

from __future__ import annotations

import struct
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from pyxen.abi.arch_x86_64 import (
    FLAT_KERNEL_CS,
    FLAT_KERNEL_SS,
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START,
    TI_DPL_MASK,
    TI_IF_MASK,
)
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.cpuid import is_forced_cpuid
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.emulate.privileged import emulate_privileged
from pyxen.hypervisor.emulate.store import emulate_store
from pyxen.hypervisor.hypercalls import Dispatcher
from pyxen.hypervisor.page_flags import ADDRESS_MASK, FRAME, PAGE_SIZE, PRESENT, RW
from pyxen.hypervisor.pagetables import L1
from pyxen.hypervisor.privileged_host import GuestFault, VcpuPrivileges
from pyxen.hypervisor.vcpu import CR2, MASK, PENDING

if TYPE_CHECKING:
    from pyxen.engine.protocol import Cpu
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

DEBUG, BREAKPOINT, OVERFLOW, INVALID_OPCODE, NO_DEVICE = 1, 3, 4, 6, 7
DOUBLE_FAULT, GENERAL_PROTECTION, PAGE_FAULT = 8, 13, 14
_HAS_ERROR_CODE: Final = frozenset((8, 10, 11, 12, 13, 14, 17))
VECTOR_NAMES: Final = {
    0: "divide_error", 1: "debug", 2: "nmi", 3: "int3", 4: "overflow", 5: "bounds",
    6: "invalid_opcode", 7: "no_device", 8: "double_fault", 10: "invalid_tss",
    11: "no_segment", 12: "stack_error", 13: "general_protection", 14: "page_fault",
    16: "fpu_error", 17: "alignment_check", 18: "machine_check", 19: "simd_error",
}  # fmt: skip

PF_PRESENT, PF_WRITE, PF_USER, PF_FETCH = 1, 2, 4, 16
_ERROR_CODE_IDT: Final = 2

TF: Final = 1 << 8
IF: Final = 1 << 9
IOPL: Final = 3 << 12
NT: Final = 1 << 14
RF: Final = 1 << 16
VM: Final = 1 << 17
AC: Final = 1 << 18
_CLEARED_ON_ENTRY: Final = TF | NT | RF | VM | AC
_MAX_CODE: Final = 15

_FRAME: Final = struct.Struct("<7Q")
_FRAME_WITH_ERROR: Final = struct.Struct("<8Q")


class Traps:
    """The trap handler of a domain's engine."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._engine = domain.engine
        self._memory = domain.memory
        self._counters = domain.counters
        self._dispatcher = Dispatcher(domain)
        self._privileges = [VcpuPrivileges(vcpu) for vcpu in domain.vcpus]

    # From the engine

    def hypercall(self, cpu: Cpu) -> None:
        vcpu = self._domain.vcpus[cpu.index]
        self._dispatcher.hypercall(vcpu)
        self.return_to_guest(vcpu)

    def system_call(self, cpu: Cpu) -> None:
        start = perf_counter_ns()
        vcpu = self._domain.vcpus[cpu.index]
        if self._domain.instruments:
            self._tell(vcpu, "system_call")
        registers = cpu.registers
        registers.rcx = registers.rip
        registers.r11 = registers.rflags
        if not vcpu.syscall_callback:
            # As on a CPU without SYSCALL: Xen injects #UD at the instruction.
            registers.rip -= 2
            self.inject(vcpu, INVALID_OPCODE, 0)
        else:
            self.bounce(vcpu, vcpu.syscall_callback, None, vcpu.syscall_masks_events)
        self.return_to_guest(vcpu)
        self._counters.add_trap("system_call", perf_counter_ns() - start)

    def exception(self, cpu: Cpu, vector: int, error_code: int, software: bool) -> None:
        start = perf_counter_ns()
        vcpu = self._domain.vcpus[cpu.index]
        if software:
            name = self._software_interrupt(vcpu, vector)
        elif vector == PAGE_FAULT:
            name = self._page_fault(vcpu, error_code)
        elif vector == GENERAL_PROTECTION:
            name = self._general_protection(vcpu, error_code)
        elif vector == INVALID_OPCODE:
            name = self._invalid_opcode(vcpu)
        else:
            name = VECTOR_NAMES.get(vector, f"exception_{vector}")
            self._exception(vcpu, vector, error_code)
        if self._domain.instruments:
            self._tell(vcpu, name)
        self.return_to_guest(vcpu)
        self._counters.add_trap(name, perf_counter_ns() - start)

    def cpuid(self, cpu: Cpu) -> None:
        start = perf_counter_ns()
        self._domain.vcpus[cpu.index].domain.cpuid_into(cpu.registers)
        self._counters.add_trap("cpuid", perf_counter_ns() - start)

    def port_in(self, cpu: Cpu, port: int, size: int) -> int:
        """There are no ports: a read gives all ones, as on an empty bus."""
        self._counters.add_trap("port_in", 0)
        return (1 << 8 * size) - 1

    def port_out(self, cpu: Cpu, port: int, size: int, value: int) -> None:
        self._counters.add_trap("port_out", 0)

    def _tell(self, vcpu: Vcpu, name: str) -> None:
        for instrument in self._domain.instruments:
            instrument.trap(vcpu, name)

    # Exceptions. Each returns the name under which the trap is counted.

    def _exception(self, vcpu: Vcpu, vector: int, error_code: int) -> None:
        if vector == NO_DEVICE:
            # Xen has cleared TS before the guest kernel gets to know.
            vcpu.cpu.set_task_switched(False)
        elif vector == DEBUG and not vcpu.cpu.user_mode and self._in_entry_stub(vcpu):
            return
        self.inject(vcpu, vector, error_code)

    @staticmethod
    def _in_entry_stub(vcpu: Vcpu) -> bool:
        """A kernel without a debug handler cannot have asked for single steps."""
        return not vcpu.trap_address[DEBUG]

    def _software_interrupt(self, vcpu: Vcpu, vector: int) -> str:
        """``int n``: permitted where the handler's privilege level lets this mode call it."""
        name = VECTOR_NAMES.get(vector, "") if vector in (BREAKPOINT, OVERFLOW) else "int_n"
        needed = 3 if vcpu.cpu.user_mode else 1
        if vcpu.trap_address[vector] and vcpu.trap_flags[vector] & TI_DPL_MASK >= needed:
            self.inject(vcpu, vector, None)
            return name
        # rip is behind the instruction, the fault is at it.
        length = 1 if vector == BREAKPOINT else 2
        vcpu.cpu.registers.rip -= length
        self.inject(vcpu, GENERAL_PROTECTION, vector << 3 | _ERROR_CODE_IDT)
        return name

    def _page_fault(self, vcpu: Vcpu, error_code: int) -> str:
        if vcpu.cpu.user_mode:
            self.inject(vcpu, PAGE_FAULT, error_code)
            return "page_fault_user"
        if error_code & (PF_PRESENT | PF_WRITE) == PF_PRESENT | PF_WRITE and self._store(vcpu):
            return "page_table_store"
        self.inject(vcpu, PAGE_FAULT, error_code)
        return "page_fault_kernel"

    def _store(self, vcpu: Vcpu) -> bool:
        """Emulate a store to a page-table page that is mapped read-only ("ptwr"). False: #PF."""
        registers = vcpu.cpu.registers
        address = registers.cr2
        if HYPERVISOR_VIRT_START <= address < HYPERVISOR_VIRT_END:
            return False
        tables = self._domain.pagetables
        entry = tables.find_l1_entry(vcpu.cpu.kernel_page_table, address)
        mapping = self._memory.words[entry >> 3] if entry else 0
        mfn = (mapping & FRAME) >> 12
        if not mapping & PRESENT or not self._memory.is_domains(mfn) or tables.types[mfn] != L1:
            return False
        target = (mfn << 12 | address & 0xFFF) & ~7
        result = emulate_store(
            registers,
            guest_access.read_code(vcpu, registers.rip, _MAX_CODE),
            address,
            self._memory.words[target >> 3],
            lambda linear, size: guest_access.copy_from(vcpu, linear, size),
        )
        if result is None:
            return False
        if result.writes:
            try:
                tables.update(target, result.new_value, preserve_ad=False)
            except XenError:
                return False
        result.commit(registers)
        return True

    def _general_protection(self, vcpu: Vcpu, error_code: int) -> str:
        registers = vcpu.cpu.registers
        if error_code == 0 and not vcpu.cpu.user_mode:
            code = guest_access.read_code(vcpu, registers.rip, _MAX_CODE)
            try:
                if emulate_privileged(self._privileges[vcpu.index], code):
                    return "privileged_instruction"
            except GuestFault as fault:
                registers.cr2 = fault.address
                self.inject(vcpu, PAGE_FAULT, fault.error_code)
                return "page_fault_kernel"
        self.inject(vcpu, GENERAL_PROTECTION, error_code)
        return "general_protection"

    def _invalid_opcode(self, vcpu: Vcpu) -> str:
        registers = vcpu.cpu.registers
        code = guest_access.read_code(vcpu, registers.rip, 7)
        if is_forced_cpuid(code):
            self._domain.cpuid_into(registers)
            registers.rip += len(code)
            return "forced_cpuid"
        self.inject(vcpu, INVALID_OPCODE, 0)
        return "invalid_opcode"

    # To the guest

    def inject(self, vcpu: Vcpu, vector: int, error_code: int | None) -> None:
        """Deliver an exception. Raises DomainCrash if the guest has no handler for it."""
        address = vcpu.trap_address[vector]
        if not address:
            name = VECTOR_NAMES.get(vector, str(vector))
            raise DomainCrash(f"exception {vector} ({name}) and no handler is registered for it")
        if vector == PAGE_FAULT:
            self._memory.words[(vcpu.info + CR2) >> 3] = vcpu.cpu.registers.cr2
            if vcpu.cpu.user_mode and error_code is not None:
                error_code |= PF_USER
        code = error_code if vector in _HAS_ERROR_CODE else None
        self.bounce(vcpu, address, code, bool(vcpu.trap_flags[vector] & TI_IF_MASK))

    def bounce(self, vcpu: Vcpu, handler: int, error_code: int | None, mask_events: bool) -> None:
        """Write a bounce frame and go on at ``handler`` in kernel mode.

        Raises DomainCrash if the stack is not there: the trap could not be told to anybody.
        """
        cpu = vcpu.cpu
        registers = cpu.registers
        memory = self._memory
        flags = registers.rflags
        cs, ss, rsp = registers.cs, registers.ss, registers.rsp
        if cpu.user_mode:
            stack = vcpu.kernel_sp
        else:
            stack = rsp
            cs &= ~3
        mask = memory.bytes[vcpu.info + MASK]
        size = _FRAME.size if error_code is None else _FRAME_WITH_ERROR.size
        stack = ((stack & ~15) - size) & ADDRESS_MASK
        cs |= (mask & 0xFF) << 32
        saved_flags = flags & ~(IF | IOPL) | (0 if mask else IF) | vcpu.iopl << 12 & IOPL
        if error_code is None:
            frame = _FRAME.pack(
                registers.rcx, registers.r11, registers.rip, cs, saved_flags, rsp, ss
            )
        else:
            frame = _FRAME_WITH_ERROR.pack(
                registers.rcx, registers.r11, error_code, registers.rip, cs, saved_flags, rsp, ss
            )
        self._write_frame(vcpu, stack, frame)
        if mask_events:
            memory.bytes[vcpu.info + MASK] = 1
        cpu.enter_kernel(FLAT_KERNEL_CS, FLAT_KERNEL_SS)
        registers.rsp = stack
        registers.rip = handler
        registers.rflags = flags & ~_CLEARED_ON_ENTRY | IF

    def _write_frame(self, vcpu: Vcpu, stack: int, frame: bytes) -> None:
        memory = self._memory
        if (stack & 0xFFF) + len(frame) <= PAGE_SIZE:
            machine = guest_access.translate(
                memory.words, vcpu.cpu.kernel_page_table, stack, PRESENT | RW
            )
            in_xen = HYPERVISOR_VIRT_START <= stack < HYPERVISOR_VIRT_END
            if machine != guest_access.NOT_MAPPED and not in_xen:
                memory.bytes[machine : machine + len(frame)] = frame
                return
        try:
            guest_access.copy_to(vcpu, stack, frame)
        except (XenError, IndexError, ValueError):
            raise DomainCrash(
                f"a trap at {vcpu.cpu.registers.rip:#x} cannot be delivered: "
                f"the kernel stack at {stack:#x} is not mapped writable"
            ) from None

    def return_to_guest(self, vcpu: Vcpu) -> None:
        """The end of every trap: what other threads want, timers, and pending events."""
        domain = self._domain
        if domain.attention:
            domain.attend()
        if vcpu.blocked or not vcpu.up or domain.stopping:
            self._engine.stop()
            return
        info = vcpu.info
        view = self._memory.bytes
        if view[info + PENDING] and not view[info + MASK] and vcpu.event_callback:
            self._counters.add_operation("upcall")
            self.bounce(vcpu, vcpu.event_callback, None, mask_events=True)
