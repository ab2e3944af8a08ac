# SPDX-License-Identifier: GPL-2.0-or-later
"""Traps: everything that takes the guest to Xen, and how it is sent back.

A PV kernel has no interrupt descriptor table. It registers a handler for each exception
(``set_trap_table``) and callbacks for events, system calls and failures. To deliver one, Xen
writes a *bounce frame* to the kernel's stack and goes on at the handler. The frame is that of a
hardware interrupt with rcx and r11 below it::

    rcx, r11, [error code], rip, cs, rflags, rsp, ss

In the frame the upcall mask of the moment stands in byte 4 of the cs word, and the interrupt flag
of rflags is its reverse. A trap from user mode switches to kernel mode (its page table, its GS
base) and to the stack that ``stack_switch`` has named; the handler returns by the ``iret``
hypercall. The kernel's own cs has RPL 0 in frames, so that a kernel can tell where a trap came
from.

Reference: ``public/arch-x86/xen-x86_64.h``; Xen's ``arch/x86/x86_64/entry.S``
(create_bounce_frame).
"""

from __future__ import annotations

from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from pyxen.abi.arch_x86_64 import (
    FLAT_KERNEL_CS,
    FLAT_KERNEL_SS,
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START,
    IRET_CONTEXT,
    TI_DPL_MASK,
    TI_IF_MASK,
    VGCF_in_syscall,
)
from pyxen.engine.registers import CR2 as REG_CR2
from pyxen.engine.registers import CS, R11, RAX, RCX, RIP, RSP, SS
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.cpuid import is_forced_cpuid
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.dispatcher import Dispatcher
from pyxen.hypervisor.emulate.privileged import emulate_privileged
from pyxen.hypervisor.emulate.store import emulate_store
from pyxen.hypervisor.guest_access import NOT_MAPPED, find_words, translate
from pyxen.hypervisor.memory import VCPU_PAGES
from pyxen.hypervisor.page_flags import ADDRESS_MASK, FRAME, PAGE_SIZE, PRESENT, RW
from pyxen.hypervisor.page_types import L1
from pyxen.hypervisor.privileged_host import GuestFault, VcpuPrivileges
from pyxen.hypervisor.vcpu import CR2, MASK, PENDING

if TYPE_CHECKING:
    from pyxen.engine.cpu import Cpu
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

DEBUG: Final = 1
BREAKPOINT: Final = 3
OVERFLOW: Final = 4
INVALID_OPCODE: Final = 6
NO_DEVICE: Final = 7
GENERAL_PROTECTION: Final = 13
PAGE_FAULT: Final = 14
_HAS_ERROR_CODE: Final = 1 << 8 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 14 | 1 << 17
NO_ERROR_CODE: Final = -1
VECTOR_NAMES: Final = {
    0: "divide_error", 1: "debug", 2: "nmi", 3: "int3", 4: "overflow", 5: "bounds",
    6: "invalid_opcode", 7: "no_device", 8: "double_fault", 10: "invalid_tss",
    11: "no_segment", 12: "stack_error", 13: "general_protection", 14: "page_fault",
    16: "fpu_error", 17: "alignment_check", 18: "machine_check", 19: "simd_error",
}  # fmt: skip

PF_PRESENT: Final = 1
PF_WRITE: Final = 2
PF_USER: Final = 4
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

_FRAME_SIZE: Final = 7 * 8
_STACK_ALIGNMENT: Final = 15
_SELECTOR: Final = 0xFFFF
_RPL: Final = 3
_OFFSET: Final = 0xFFF
_LOW_END: Final = 1 << 47
_IRET_WORDS: Final = IRET_CONTEXT.size // 8
_FLAGS: Final = 0x3F7FD5 & ~(IOPL | VM)
"""Those that exist, but for what a guest cannot set."""
_ALWAYS: Final = 0x202
_LONG_MODE: Final = 1 << 53


class Traps:
    """The trap handler of a domain's engine."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._engine = domain.engine
        self._memory = domain.memory
        self._words = domain.memory.words
        self._bytes = domain.memory.bytes
        self._gdt_entries = domain.memory.gdt_entries
        self._frame_end = domain.memory.frames * PAGE_SIZE
        self._vcpus = domain.vcpus
        self._instruments = domain.instruments
        self._counters = domain.counters
        self._dispatcher = Dispatcher(domain)
        self._privileges = [VcpuPrivileges(vcpu) for vcpu in domain.vcpus]

    # From the engine

    def hypercall(self, cpu: Cpu) -> None:
        vcpu = self._vcpus[cpu.index]
        self._dispatcher.hypercall(vcpu)
        self.return_to_guest(vcpu)

    def system_call(self, cpu: Cpu) -> None:
        start = perf_counter_ns()
        vcpu = self._vcpus[cpu.index]
        if self._instruments:
            self._tell(vcpu, "system_call")
        self._enter_system_call(vcpu)
        self.return_to_guest(vcpu)
        self._counters.add_trap("system_call", perf_counter_ns() - start)

    def _enter_system_call(self, vcpu: Vcpu) -> None:
        registers = vcpu.cpu.registers
        words = registers.words
        words[RCX] = words[RIP]
        words[R11] = registers.read_flags()
        if vcpu.syscall_callback:
            self.bounce(vcpu, vcpu.syscall_callback, NO_ERROR_CODE, vcpu.syscall_masks_events)
        else:
            # As on a CPU without SYSCALL: #UD at the instruction.
            words[RIP] = words[RIP] - 2 & ADDRESS_MASK
            self.inject(vcpu, INVALID_OPCODE, 0)

    def exception(self, cpu: Cpu, vector: int, error_code: int, software: bool) -> None:
        start = perf_counter_ns()
        vcpu = self._vcpus[cpu.index]
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
        if self._instruments:
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
        self.inject(vcpu, vector, error_code)

    def _software_interrupt(self, vcpu: Vcpu, vector: int) -> str:
        """``int n``: permitted where the handler's privilege level lets this mode call it.

        INT3 and INTO are for everybody, as Xen's own gates for them are.
        """
        if vector in (BREAKPOINT, OVERFLOW):
            self.inject(vcpu, vector, NO_ERROR_CODE)
            return VECTOR_NAMES[vector]
        needed = 3 if vcpu.cpu.user_mode else 1
        if vcpu.trap_address[vector] and vcpu.trap_flags[vector] & TI_DPL_MASK >= needed:
            self.inject(vcpu, vector, NO_ERROR_CODE)
        else:
            # rip is behind the instruction, the fault is at it.
            vcpu.cpu.registers.rip -= 2
            self.inject(vcpu, GENERAL_PROTECTION, vector << 3 | _ERROR_CODE_IDT)
        return "int_n"

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
                tables.update(target, result.new_value, False)
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

    def inject(self, vcpu: Vcpu, vector: int, error_code: int) -> None:
        """Deliver an exception. Raises DomainCrash if the guest has no handler for it."""
        address = vcpu.trap_address[vector]
        if not address:
            name = VECTOR_NAMES.get(vector, str(vector))
            raise DomainCrash(f"exception {vector} ({name}) and no handler is registered for it")
        if vector == PAGE_FAULT:
            self._words[(vcpu.info + CR2) >> 3] = vcpu.cpu.registers.words[REG_CR2]
            error_code = error_code & ~PF_USER | (PF_USER if vcpu.cpu.user_mode else 0)
        elif not _HAS_ERROR_CODE >> vector & 1:
            error_code = NO_ERROR_CODE
        self.bounce(vcpu, address, error_code, vcpu.trap_flags[vector] & TI_IF_MASK != 0)

    def bounce(self, vcpu: Vcpu, handler: int, error_code: int, mask_events: bool) -> None:
        """Write a bounce frame and go on at ``handler`` in kernel mode.

        Raises DomainCrash if the stack is not there: the trap could not be told to anybody.
        """
        cpu = vcpu.cpu
        registers = cpu.registers
        words = registers.words
        flags = registers.read_flags()
        cs = words[CS] & _SELECTOR
        stack = words[RSP]
        if cpu.user_mode:
            stack = vcpu.kernel_sp
        else:
            cs &= ~_RPL
        has_code = error_code != NO_ERROR_CODE
        size = _FRAME_SIZE + 8 if has_code else _FRAME_SIZE
        stack = ((stack & ~_STACK_ALIGNMENT) - size) & ADDRESS_MASK
        mask = self._bytes[vcpu.info + MASK]
        frame = self._find_frame(vcpu, stack, size)
        target = self._words
        target[frame] = words[RCX]
        target[frame + 1] = words[R11]
        frame += 2
        if has_code:
            target[frame] = error_code
            frame += 1
        target[frame] = words[RIP]
        target[frame + 1] = cs | (mask << 32)
        target[frame + 2] = flags & ~(IF | IOPL) | (0 if mask else IF) | self._shown_iopl(vcpu)
        target[frame + 3] = words[RSP]
        target[frame + 4] = words[SS] & _SELECTOR
        if (stack & _OFFSET) + size > PAGE_SIZE:
            self._copy_frame(vcpu, stack, size)
        if mask_events:
            self._bytes[vcpu.info + MASK] = 1
        cpu.enter_kernel(FLAT_KERNEL_CS, FLAT_KERNEL_SS)
        if vcpu.areas_late:
            vcpu.update_late_areas()
        words[RSP] = stack
        words[RIP] = handler
        registers.write_flags(flags & ~_CLEARED_ON_ENTRY | IF)

    def _shown_iopl(self, vcpu: Vcpu) -> int:
        """The virtual IOPL in frames, for guests that have asked to see it there."""
        return vcpu.iopl << 12 & IOPL if self._domain.architectural_iopl else 0

    def _find_frame(self, vcpu: Vcpu, stack: int, size: int) -> int:
        """Position in ``memory.words`` of a frame on the stack; of the bounce page, if the frame
        crosses the end of a page."""
        if (stack & _OFFSET) + size > PAGE_SIZE:
            return self._memory.bounce_mfn * (PAGE_SIZE // 8)
        if stack < _LOW_END or stack >= HYPERVISOR_VIRT_END:
            machine = translate(self._words, vcpu.cpu.kernel_page_table, stack, PRESENT | RW)
            if machine != NOT_MAPPED and machine < self._frame_end:
                return machine >> 3
        raise self._no_stack(vcpu, stack)

    def _copy_frame(self, vcpu: Vcpu, stack: int, size: int) -> None:
        start = self._memory.bounce_mfn * PAGE_SIZE
        try:
            guest_access.copy_to(vcpu, stack, bytes(self._bytes[start : start + size]))
        except XenError:
            raise self._no_stack(vcpu, stack) from None

    @staticmethod
    def _no_stack(vcpu: Vcpu, stack: int) -> DomainCrash:
        return DomainCrash(
            f"a trap at {vcpu.cpu.registers.rip:#x} cannot be delivered: "
            f"the kernel stack at {stack:#x} is not mapped writable"
        )

    def return_from_trap(self, vcpu: Vcpu) -> None:
        """The iret hypercall: load a ``struct iret_context`` from the stack.

        The upcall mask becomes the reverse of the frame's interrupt flag. Raises DomainCrash for
        a frame that cannot be read, and for user mode without a page table for it.
        """
        cpu = vcpu.cpu
        words = cpu.registers.words
        frame = find_words(vcpu, words[RSP], _IRET_WORDS)
        if frame == NOT_MAPPED:
            raise DomainCrash(f"iret: no frame at {words[RSP]:#x}")
        source = self._words
        cs = source[frame + 5]
        rflags = source[frame + 6]
        ss = source[frame + 8] & _SELECTOR | _RPL
        if cs & _RPL == _RPL:
            if not vcpu.user_table_mfn:
                raise DomainCrash("iret to user mode without a user page table")
            cs &= _SELECTOR
            cpu.enter_user(cs, ss, self._is_long(vcpu.index, cs))
        else:
            cpu.enter_kernel(cs & _SELECTOR | _RPL, ss)
        if self._domain.architectural_iopl:
            vcpu.iopl = (rflags & IOPL) >> 12
        words[RAX] = source[frame]
        if not source[frame + 3] & VGCF_in_syscall:
            words[R11] = source[frame + 1]
            words[RCX] = source[frame + 2]
        words[RIP] = source[frame + 4]
        words[RSP] = source[frame + 7]
        cpu.registers.write_flags(rflags & _FLAGS | _ALWAYS)
        self._bytes[vcpu.info + MASK] = 0 if rflags & IF else 1

    def _is_long(self, vcpu: int, selector: int) -> bool:
        """Whether a code selector is one of 64-bit code."""
        page = self._words[self._gdt_entries + vcpu * VCPU_PAGES + (selector >> 12)]
        return self._words[((page & FRAME) >> 3) + (selector >> 3 & 511)] & _LONG_MODE != 0

    def return_to_guest(self, vcpu: Vcpu) -> None:
        """The end of every trap: what other threads want, timers, and pending events."""
        domain = self._domain
        if domain.attention:
            domain.attend()
        if vcpu.pause_flags or domain.stopping:
            self._engine.stop()
            return
        info = vcpu.info
        if self._bytes[info + PENDING] and not self._bytes[info + MASK] and vcpu.event_callback:
            self._counters.add_operation("upcall")
            self.bounce(vcpu, vcpu.event_callback, NO_ERROR_CODE, True)
