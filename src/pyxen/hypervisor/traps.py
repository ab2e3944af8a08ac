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

What cannot be told to the kernel ends the domain: a stack that is not mapped writable, an exception
without a handler, an event or a system call for which there is no callback.

Going back to user mode, Xen loads the selectors of the ``iret`` frame. If the processor refuses
them, the kernel gets that exception as if it had come at the place to which it returned. When a
vCPU gets a processor again after another one has had it, Xen loads its data segment registers anew;
one that has become stale (its descriptor is gone) makes Xen call the *failsafe* callback, with the
selectors in the frame and null in the register::

    rcx, r11, ds, es, fs, gs, rip, cs, rflags, rsp, ss

An NMI is an exception with vector 2 that no mask of events holds back; the next one waits for an
``iret``.

Reference: ``public/arch-x86/xen-x86_64.h``; Xen's ``arch/x86/x86_64/entry.S``
(create_bounce_frame).
"""

from __future__ import annotations

import struct
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from pyxen.abi.arch_x86_64 import (
    FLAT_KERNEL_CS,
    FLAT_KERNEL_SS,
    FLAT_RING3_CS32,
    FLAT_RING3_CS64,
    FLAT_RING3_SS64,
    HYPERVISOR_VIRT_END,
    HYPERVISOR_VIRT_START,
    IRET_CONTEXT,
    TI_DPL_MASK,
    TI_IF_MASK,
    VGCF_in_syscall,
)
from pyxen.abi.xen import VMASST_TYPE_writable_pagetables
from pyxen.engine.registers import CR2 as REG_CR2
from pyxen.engine.registers import (
    CS,
    DS,
    ES,
    FS,
    FS_BASE,
    GS,
    GS_BASE,
    R11,
    RAX,
    RCX,
    RIP,
    RSP,
    SS,
)
from pyxen.errors import XenError
from pyxen.hypervisor import debug, guest_access
from pyxen.hypervisor.cpuid import FORCED_CPUID_PREFIX, is_forced_cpuid
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.dispatcher import Dispatcher
from pyxen.hypervisor.emulate.far import emulate_far
from pyxen.hypervisor.emulate.privileged import emulate_privileged
from pyxen.hypervisor.emulate.store import emulate_store
from pyxen.hypervisor.guest_access import NOT_MAPPED, find_words, translate
from pyxen.hypervisor.memory import FIRST_LDT_PAGE, PER_DOMAIN_VIRT_START, VCPU_PAGES
from pyxen.hypervisor.msr import is_canonical
from pyxen.hypervisor.page_flags import ADDRESS_MASK, FRAME, PAGE_SIZE, PRESENT, RW
from pyxen.hypervisor.page_types import L1
from pyxen.hypervisor.privileged_host import GuestFault, VcpuPrivileges
from pyxen.hypervisor.segments import (
    LOCAL,
    LONG,
    SegmentFault,
    check_code,
    check_data,
    check_stack,
    find_descriptor,
    map_local_page,
    segment_limit,
)
from pyxen.hypervisor.vcpu import CR2, DESCRIPTOR_SIZE, MASK, NMI, PENDING

if TYPE_CHECKING:
    from pyxen.engine.cpu import Cpu
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

DEBUG: Final = 1
BREAKPOINT: Final = 3
OVERFLOW: Final = 4
INVALID_OPCODE: Final = 6
NO_DEVICE: Final = 7
NO_SEGMENT: Final = 11
STACK_ERROR: Final = 12
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
_SYSTEM_CALL_VECTOR: Final = 0x80

TF: Final = 1 << 8
IF: Final = 1 << 9
DF: Final = 1 << 10
IOPL: Final = 3 << 12
NT: Final = 1 << 14
RF: Final = 1 << 16
VM: Final = 1 << 17
AC: Final = 1 << 18
_CLEARED_ON_ENTRY: Final = TF | NT | RF | VM | AC
_MAX_CODE: Final = 15


_FRAME_SIZE: Final = 7 * 8
_FAILSAFE_SIZE: Final = 11 * 8
_STACK_ALIGNMENT: Final = 15
_SELECTOR: Final = 0xFFFF
_RPL: Final = 3
_OFFSET: Final = 0xFFF
_LOW_END: Final = 1 << 47
_HIGH_START: Final = 0xFFFF800000000000
_IRET_WORDS: Final = IRET_CONTEXT.size // 8
_FLAGS: Final = 0x3F7FD5 & ~(IOPL | VM)
"""Those that exist, but for what a guest cannot set."""
_ALWAYS: Final = 0x202

# What a return looks at in descriptors, and what it finds in the usual ones: 64-bit code, flat
# 32-bit code, flat data. The bits that do not matter are those for accessed, readable, available.
_CODE_BITS: Final = 0x0060FC0000000000
_CODE64: Final = 0x0020F80000000000
_FLAT_BITS: Final = 0xFFEFFCFFFFFFFFFF
_FLAT_CODE32: Final = 0x00CFF8000000FFFF
_DATA_BITS: Final = 0xFFEFFEFFFFFFFFFF
_FLAT_DATA: Final = 0x00CFF2000000FFFF
_UINT32: Final = 0xFFFFFFFF

_AREA_SIZE: Final = VCPU_PAGES * PAGE_SIZE
_DATA_SEGMENTS: Final = (FS, GS, DS, ES)


class Traps:
    """The trap handler of a domain's engine."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._engine = domain.engine
        self._memory = domain.memory
        self._words = domain.memory.words
        self._bytes = domain.memory.bytes
        self._code_frames = domain.memory.code_frames
        self._frame_end = domain.memory.frames * PAGE_SIZE
        self._vcpus = domain.vcpus
        self._instruments = domain.instruments
        self._counters = domain.counters
        self._dispatcher = Dispatcher(domain)
        self._privileges = [VcpuPrivileges(vcpu) for vcpu in domain.vcpus]
        self._resident = 0
        """The vCPU whose segments the processor holds."""

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
        """The processor tells Xen rip and flags alone: the frame's cs and ss are flat ones."""
        cpu = vcpu.cpu
        registers = cpu.registers
        words = registers.words
        flags = registers.read_flags()
        registers.write_flags(flags)
        if cpu.in_long_mode():
            callback = vcpu.syscall_callback
            cs = FLAT_RING3_CS64
        else:
            callback = vcpu.syscall32_callback
            cs = FLAT_RING3_CS32
            if self._is_intel():  # whose processors have SYSCALL in 64-bit code only
                words[RIP] = words[RIP] - 2 & ADDRESS_MASK
                self.inject(vcpu, INVALID_OPCODE, 0)
                return
        words[CS] = cs
        words[SS] = FLAT_RING3_SS64
        words[RCX] = words[RIP]
        words[R11] = flags
        if callback:
            self.bounce(vcpu, callback, NO_ERROR_CODE, vcpu.syscall_masks_events)
        else:
            # As on a CPU without SYSCALL: #UD at the instruction.
            words[RIP] = words[RIP] - 2 & ADDRESS_MASK
            self.inject(vcpu, INVALID_OPCODE, 0)
        if flags & DF:
            registers.write_flags(registers.read_flags() & ~DF)

    def sysenter(self, cpu: Cpu) -> None:
        """SYSENTER tells Xen nothing of where it came from; the kernel has to know."""
        start = perf_counter_ns()
        vcpu = self._vcpus[cpu.index]
        if self._is_intel():
            name = "sysenter"
            registers = cpu.registers
            registers.rip = registers.rsp = 0
            registers.cs, registers.ss = _RPL, FLAT_RING3_SS64
            registers.rflags |= IF
            if vcpu.sysenter_callback:
                self.bounce(vcpu, vcpu.sysenter_callback, NO_ERROR_CODE, vcpu.sysenter_masks_events)
            else:
                self.inject(vcpu, GENERAL_PROTECTION, 0)
        else:  # AMD's processors do not have it in long mode
            name = "invalid_opcode"
            self.inject(vcpu, INVALID_OPCODE, 0)
        if self._instruments:
            self._tell(vcpu, name)
        self.return_to_guest(vcpu)
        self._counters.add_trap(name, perf_counter_ns() - start)

    def _is_intel(self) -> bool:
        return bool(self._domain.cpuid.vendor == "GenuineIntel")

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

    def _tell(self, vcpu: Vcpu, name: str) -> None:
        for instrument in self._domain.instruments:
            instrument.trap(vcpu, name)

    # Exceptions. Each returns the name under which the trap is counted.

    def _exception(self, vcpu: Vcpu, vector: int, error_code: int) -> None:
        if vector == NO_DEVICE:
            # Xen has cleared TS before the guest kernel gets to know.
            vcpu.cpu.set_task_switched(False)
        elif vector == DEBUG:
            debug.note(vcpu, vcpu.cpu.take_debug_status())
        elif vector in (NO_SEGMENT, STACK_ERROR) and self._far(vcpu):
            return
        self.inject(vcpu, vector, error_code)

    def _software_interrupt(self, vcpu: Vcpu, vector: int) -> str:
        """``int n``: permitted where the handler's privilege level lets this mode call it.

        INT3, INTO and, if the guest handles it, INT 0x80 are for everybody: Xen's own gates for
        them let all through.
        """
        needed = 3 if vcpu.cpu.user_mode else 1
        if vector in (BREAKPOINT, OVERFLOW):
            self._enter(vcpu, vector, NO_ERROR_CODE)
            return VECTOR_NAMES[vector]
        if vcpu.trap_flags[vector] & TI_DPL_MASK >= needed or (
            vector == _SYSTEM_CALL_VECTOR and vcpu.trap_address[vector]
        ):
            self._enter(vcpu, vector, NO_ERROR_CODE)
        else:
            # rip is behind the instruction, the fault is at it.
            vcpu.cpu.registers.rip -= 2
            self.inject(vcpu, GENERAL_PROTECTION, vector << 3 | _ERROR_CODE_IDT)
        return "int_n"

    def _page_fault(self, vcpu: Vcpu, error_code: int) -> str:
        if not error_code & PF_USER:
            area = PER_DOMAIN_VIRT_START + vcpu.index * _AREA_SIZE
            if area <= vcpu.cpu.registers.cr2 < area + _AREA_SIZE:
                return self._descriptor_fault(vcpu, vcpu.cpu.registers.cr2 - area, error_code)
        if vcpu.cpu.user_mode:
            self.inject(vcpu, PAGE_FAULT, error_code)
            return "page_fault_user"
        if error_code & (PF_PRESENT | PF_WRITE) == PF_PRESENT | PF_WRITE and self._store(vcpu):
            return "page_table_store"
        self.inject(vcpu, PAGE_FAULT, error_code)
        return "page_fault_kernel"

    def _descriptor_fault(self, vcpu: Vcpu, offset: int, error_code: int) -> str:
        """The processor could not read a descriptor: a page of the LDT is mapped when it is used.

        ``offset`` is that in the vCPU's area.
        """
        offset -= FIRST_LDT_PAGE * PAGE_SIZE
        if error_code & PF_PRESENT or not 0 <= offset < vcpu.ldt_entries * DESCRIPTOR_SIZE:
            self.inject(vcpu, PAGE_FAULT, error_code)
            return "page_fault_user" if vcpu.cpu.user_mode else "page_fault_kernel"
        try:
            map_local_page(vcpu, offset)
        except SegmentFault as fault:
            self._inject_fault(vcpu, fault)
        return "ldt_fault"

    def _inject_fault(self, vcpu: Vcpu, fault: SegmentFault) -> None:
        if fault.vector == PAGE_FAULT:
            vcpu.cpu.registers.cr2 = fault.address
        self.inject(vcpu, fault.vector, fault.error_code)

    def _store(self, vcpu: Vcpu) -> bool:
        """Emulate a store to a page-table page that is mapped read-only ("ptwr"). False: #PF.

        For guests that have asked for it (the VM assist ``writable_pagetables``).
        """
        if not self._domain.vm_assist >> VMASST_TYPE_writable_pagetables & 1:
            return False
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
        self._finish_emulation(vcpu)
        return True

    def _general_protection(self, vcpu: Vcpu, error_code: int) -> str:
        registers = vcpu.cpu.registers
        if error_code == 0:
            code = guest_access.read_code(vcpu, registers.rip, _MAX_CODE)
            try:
                if emulate_privileged(self._privileges[vcpu.index], code):
                    self._finish_emulation(vcpu)
                    return "privileged_instruction"
            except GuestFault as fault:
                if fault.vector == PAGE_FAULT:
                    registers.cr2 = fault.address
                self.inject(vcpu, fault.vector, fault.error_code)
                return VECTOR_NAMES[fault.vector]
        if self._far(vcpu):
            return "far_instruction"
        self.inject(vcpu, GENERAL_PROTECTION, error_code)
        return "general_protection"

    def _far(self, vcpu: Vcpu) -> bool:
        """A load of CS or SS by the kernel, which the engine refuses: see ``emulate.far``.

        Returns False for any other instruction.
        """
        if vcpu.cpu.user_mode:
            return False
        code = guest_access.read_code(vcpu, vcpu.cpu.registers.rip, _MAX_CODE)
        try:
            if not emulate_far(vcpu, code):
                return False
            self._finish_emulation(vcpu)
        except SegmentFault as fault:
            self._inject_fault(vcpu, fault)
        return True

    def _invalid_opcode(self, vcpu: Vcpu) -> str:
        registers = vcpu.cpu.registers
        code = guest_access.read_code(vcpu, registers.rip, 7)
        if is_forced_cpuid(code):
            if self._privileges[vcpu.index].cpuid_faults:
                registers.rip += FORCED_CPUID_PREFIX
                self.inject(vcpu, GENERAL_PROTECTION, 0)
                return "forced_cpuid"
            self._domain.cpuid_into(registers)
            registers.rip += len(code)
            self._finish_emulation(vcpu)
            return "forced_cpuid"
        self.inject(vcpu, INVALID_OPCODE, 0)
        return "invalid_opcode"

    def _finish_emulation(self, vcpu: Vcpu) -> None:
        """Behind an emulated instruction: RF has done its work, a single step or a breakpoint on
        a port traps."""
        registers = vcpu.cpu.registers
        flags = registers.read_flags()
        status = self._privileges[vcpu.index].take_port_status()
        if flags & TF:
            status |= debug.SINGLE_STEP
        if flags & RF:
            registers.write_flags(flags & ~RF)
        if status:
            debug.note(vcpu, status)
            self.inject(vcpu, DEBUG, 0)

    # To the guest

    def inject(self, vcpu: Vcpu, vector: int, error_code: int) -> None:
        """Deliver an exception. Raises DomainCrash if the guest has no handler for it."""
        if vector == PAGE_FAULT:
            self._words[(vcpu.info + CR2) >> 3] = vcpu.cpu.registers.words[REG_CR2]
            error_code = error_code & ~PF_USER | (PF_USER if vcpu.cpu.user_mode else 0)
        elif not _HAS_ERROR_CODE >> vector & 1:
            error_code = NO_ERROR_CODE
        self._enter(vcpu, vector, error_code)

    def _enter(self, vcpu: Vcpu, vector: int, error_code: int) -> None:
        """Go on at the guest's handler of a vector. Raises DomainCrash if there is none."""
        address = vcpu.trap_address[vector]
        if not address:
            name = VECTOR_NAMES.get(vector, str(vector))
            raise DomainCrash(f"exception {vector} ({name}) and no handler is registered for it")
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
        elif self._code_frames[frame >> 9]:
            self._domain.forget_code(frame >> 9)
        if mask_events:
            self._bytes[vcpu.info + MASK] = 1
        cpu.enter_kernel(FLAT_KERNEL_CS, FLAT_KERNEL_SS)
        if vcpu.areas_late:
            vcpu.update_late_areas()
        words[RSP] = stack
        words[RIP] = handler
        flags = flags & ~_CLEARED_ON_ENTRY | IF
        registers.write_flags(flags)
        words[RCX] = handler  # Xen leaves by SYSRET
        words[R11] = flags

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
        rax, r11, rcx = source[frame], source[frame + 1], source[frame + 2]
        in_syscall = source[frame + 3] & VGCF_in_syscall
        rip = source[frame + 4]
        cs = source[frame + 5] & _SELECTOR
        rflags = source[frame + 6]
        rsp = source[frame + 7]
        ss = source[frame + 8] & _SELECTOR | _RPL
        user = cs & _RPL == _RPL
        if user and not vcpu.user_table_mfn:
            raise DomainCrash("iret to user mode without a user page table")
        cs |= _RPL
        if self._domain.architectural_iopl:
            vcpu.set_iopl((rflags & IOPL) >> 12)
        self._bytes[vcpu.info + MASK] = 0 if rflags & IF else 1
        vcpu.nmi_masked = False
        rflags = rflags & _FLAGS | _ALWAYS
        canonical = rip < _LOW_END or rip >= _HIGH_START
        if in_syscall and canonical:  # Xen leaves by SYSRET
            cs = FLAT_RING3_CS32 if cs == FLAT_RING3_CS32 else FLAT_RING3_CS64
            ss = FLAT_RING3_SS64
            rcx = rip
            r11 = rflags = rflags & ~RF
        elif in_syscall:
            rcx, r11 = words[RCX], words[R11]
        words[RAX] = rax
        words[RCX] = rcx
        words[R11] = r11
        words[RIP] = rip
        words[RSP] = rsp
        cpu.registers.write_flags(rflags)
        if user:
            code = stack = 0
            if not (cs | ss) & LOCAL and canonical:
                code = find_descriptor(vcpu, cs)
                stack = find_descriptor(vcpu, ss)
            if stack & _DATA_BITS == _FLAT_DATA:
                if code & _CODE_BITS == _CODE64:
                    cpu.enter_user(cs, ss, True)
                    return
                if code & _FLAT_BITS == _FLAT_CODE32 and rip <= _UINT32:
                    cpu.enter_user(cs, ss, False)
                    return
            cpu.enter_user(cs, ss, True)
        else:
            cpu.enter_kernel(cs, ss)
            if cs == FLAT_KERNEL_CS and ss == FLAT_KERNEL_SS and canonical:
                return
        self._load_code_and_stack(vcpu)

    def _load_code_and_stack(self, vcpu: Vcpu) -> None:
        """Load cs and ss for the way back to the guest, in the mode that it is in already.

        If they cannot be loaded, or rip lies outside the code segment, the guest gets the
        exception at the place to which it returns.
        """
        cpu = vcpu.cpu
        words = cpu.registers.words
        cs, ss = words[CS], words[SS]
        try:
            code = check_code(vcpu, cs)
            stack = check_stack(vcpu, ss)
            rip = words[RIP]
            if not (is_canonical(rip) if code & LONG else rip <= segment_limit(code)):
                raise SegmentFault(GENERAL_PROTECTION, 0)
        except SegmentFault as fault:
            self._counters.add_operation("return_fault")
            self._inject_fault(vcpu, fault)
            return
        cpu.load_segment(CS, cs, code)
        cpu.load_segment(SS, ss, stack)

    # A vCPU that gets the processor again

    def _reload_segments(self, vcpu: Vcpu) -> None:
        """Load the segment registers, after another vCPU has had the processor.

        The bases of FS and GS stay as they were: they are saved and restored on their own.
        """
        self._resident = vcpu.index
        cpu = vcpu.cpu
        words = cpu.registers.words
        selectors = {position: words[position] & _SELECTOR for position in _DATA_SEGMENTS}
        bases = words[FS_BASE], words[GS_BASE]
        stale = False
        for position, selector in selectors.items():
            if not selector & ~_RPL:
                continue
            try:
                cpu.load_segment(position, selector, check_data(vcpu, selector))
            except SegmentFault:
                cpu.load_segment(position, 0, 0)
                stale = True
        words[FS_BASE], words[GS_BASE] = bases
        if stale:
            self._call_failsafe(vcpu, selectors)
        elif words[CS] != FLAT_KERNEL_CS or words[SS] != FLAT_KERNEL_SS:
            self._load_code_and_stack(vcpu)

    def _call_failsafe(self, vcpu: Vcpu, selectors: dict[int, int]) -> None:
        """Raises DomainCrash if the frame cannot be written."""
        self._counters.add_operation("failsafe")
        cpu = vcpu.cpu
        registers = cpu.registers
        cs = registers.cs if cpu.user_mode else registers.cs & ~_RPL
        stack = vcpu.kernel_sp if cpu.user_mode else registers.rsp
        stack = ((stack & ~_STACK_ALIGNMENT) - _FAILSAFE_SIZE) & ADDRESS_MASK
        mask = self._bytes[vcpu.info + MASK]
        flags = registers.rflags
        shown = flags & ~(IF | IOPL) | (0 if mask else IF) | self._shown_iopl(vcpu)
        frame = struct.pack(
            "<11Q",
            registers.rcx,
            registers.r11,
            *(selectors[position] for position in (DS, ES, FS, GS)),
            registers.rip,
            cs | mask << 32,
            shown,
            registers.rsp,
            registers.ss,
        )
        try:
            guest_access.copy_to(vcpu, stack, frame)
        except XenError:
            raise self._no_stack(vcpu, stack) from None
        if vcpu.failsafe_masks_events:
            self._bytes[vcpu.info + MASK] = 1
        cpu.enter_kernel(FLAT_KERNEL_CS, FLAT_KERNEL_SS)
        registers.rsp = stack
        registers.rip = vcpu.failsafe_callback
        registers.rflags = flags & ~_CLEARED_ON_ENTRY | IF

    def _deliver_nmi(self, vcpu: Vcpu) -> None:
        """An NMI for which there is no handler is lost."""
        vcpu.nmi_pending = False
        if vcpu.trap_address[NMI]:
            self._counters.add_operation("nmi")
            self._enter(vcpu, NMI, NO_ERROR_CODE)
            vcpu.nmi_masked = True

    def return_to_guest(self, vcpu: Vcpu) -> None:
        """The end of every trap: what other threads want, timers, and pending events."""
        domain = self._domain
        if domain.attention:
            domain.attend()
        if vcpu.pause_flags or domain.stopping:
            self._engine.stop()
            return
        if vcpu.index != self._resident:
            self._reload_segments(vcpu)
        if vcpu.nmi_pending and not vcpu.nmi_masked:
            self._deliver_nmi(vcpu)
        info = vcpu.info
        if self._bytes[info + PENDING] and not self._bytes[info + MASK]:
            if not vcpu.event_callback:
                raise DomainCrash("an event and no callback is registered for it")
            self._counters.add_operation("upcall")
            self.bounce(vcpu, vcpu.event_callback, NO_ERROR_CODE, True)
