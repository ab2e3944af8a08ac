# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of a vCPU as a ``vcpu_guest_context``: VCPUOP_initialise takes one for a vCPU that
starts, and a dump of a domain's memory contains those of all.

It has all that Xen keeps of a vCPU: registers, FPU, handlers, descriptor tables, page tables,
callbacks and bases. Addresses are checked at once. Selectors are not: they are loaded when the vCPU
runs for the first time, and what is wrong with them is told to the guest then, as after any switch
of vCPUs. The flag VGCF_in_kernel says in which mode it starts.

Reference: Xen's ``arch_set_info_guest`` and ``arch_get_info_guest``.
"""

from __future__ import annotations

import contextlib
import struct
from typing import TYPE_CHECKING, Final

from pyxen.abi.arch_x86_64 import (
    CPU_USER_REGS,
    FIRST_RESERVED_GDT_ENTRY,
    FLAT_RING3_CS32,
    FLAT_RING3_CS64,
    FLAT_RING3_SS64,
    TRAP_INFO,
    VCPU_GUEST_CONTEXT,
    VGCF_failsafe_disables_events,
    VGCF_i387_valid,
    VGCF_in_kernel,
    VGCF_online,
    VGCF_syscall_disables_events,
)
from pyxen.abi.errno import EINVAL
from pyxen.errors import XenError
from pyxen.hypervisor.addresses import is_guest_address
from pyxen.hypervisor.descriptor_tables import load_gdt, mapped_pages, release_gdt
from pyxen.hypervisor.emulate.privileged import CR0_TS
from pyxen.hypervisor.hypercalls.debugreg import set_debugreg
from pyxen.hypervisor.msr import is_canonical
from pyxen.hypervisor.page_flags import ENTRIES, PAGE_SHIFT, PAGE_SIZE
from pyxen.hypervisor.vcpu import CR2, MASK

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

_MAX_LDT_ENTRIES: Final = 8192
_RPL: Final = 3
_IOPL_SHIFT: Final = 12
_IOPL: Final = 3 << _IOPL_SHIFT
_GDT_PAGES: Final = FIRST_RESERVED_GDT_ENTRY // ENTRIES
_CONTEXT_GDT_PAGES: Final = 16
_FLAGS: Final = 0x3D7FD5 & ~_IOPL
"""Those that exist, but for IOPL and VM."""
_IF: Final = 0x202
_TRAP_SYSCALL: Final = 256
"""Set in ``entry_vector``: Xen lets the vCPU begin by SYSRET."""
_GENERAL: Final = (
    "r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8",
    "rax", "rcx", "rdx", "rsi", "rdi", "rip", "rsp",
)  # fmt: skip
_CANONICAL: Final = (
    "kernel_sp", "event_callback_eip", "failsafe_callback_eip", "syscall_callback_eip",
    "fs_base", "gs_base_kernel", "gs_base_user",
)  # fmt: skip


class _Context:
    """The fields of a context by name."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self._registers = VCPU_GUEST_CONTEXT.offsets["user_regs"]

    def field(self, name: str) -> int:
        return self._read(VCPU_GUEST_CONTEXT.offsets[name], 8)

    def words(self, name: str) -> tuple[int, ...]:
        size = VCPU_GUEST_CONTEXT.sizes[name]
        start = VCPU_GUEST_CONTEXT.offsets[name]
        return struct.unpack(f"<{size // 8}Q", self.data[start : start + size])

    def register(self, name: str) -> int:
        return self._read(self._registers + CPU_USER_REGS.offsets[name], CPU_USER_REGS.sizes[name])

    def traps(self) -> list[tuple[int, int, int, int]]:
        """(vector, flags, cs, address): the place counts, not the vector."""
        start = VCPU_GUEST_CONTEXT.offsets["trap_ctxt"]
        size = VCPU_GUEST_CONTEXT.sizes["trap_ctxt"]
        return list(TRAP_INFO.iter_unpack(self.data[start : start + size]))

    def fpu(self) -> bytes:
        return self.data[: VCPU_GUEST_CONTEXT.sizes["fpu_ctxt"]]

    def _read(self, start: int, size: int) -> int:
        return int.from_bytes(self.data[start : start + size], "little")


def set_context(vcpu: Vcpu, data: bytes) -> None:
    """Raises EINVAL for what a vCPU cannot have, and what page tables and descriptors raise; the
    vCPU cannot run then, and may be given another context."""
    context = _Context(data)
    _check(context)
    control = context.words("ctrlreg")
    entries = context.field("gdt_ents")
    load_gdt(vcpu, list(context.words("gdt_frames")[: -(-entries // ENTRIES)]))
    try:
        _load_tables(vcpu, control[3] >> PAGE_SHIFT, control[1] >> PAGE_SHIFT)
    except XenError:
        release_gdt(vcpu)
        raise
    vcpu.domain.set_up_cpu(vcpu)
    _set_handlers(vcpu, context)
    _set_control(vcpu, context)
    _set_registers(vcpu, context)
    vcpu.up = bool(context.field("flags") & VGCF_online)


def _check(context: _Context) -> None:
    addresses = [context.field(name) for name in _CANONICAL]
    addresses += [context.register("rip"), context.register("rsp")]
    addresses += [address for _, _, _, address in context.traps()]
    ldt_base = context.field("ldt_base")
    if (
        not all(is_canonical(address) for address in addresses)
        or not is_guest_address(ldt_base)
        or ldt_base % PAGE_SIZE
        or context.field("ldt_ents") > _MAX_LDT_ENTRIES
        or context.field("gdt_ents") > FIRST_RESERVED_GDT_ENTRY
        or (not context.field("flags") & VGCF_in_kernel and not context.words("ctrlreg")[1])
    ):
        raise XenError(EINVAL)


def _load_tables(vcpu: Vcpu, kernel: int, user: int) -> None:
    """Raises EINVAL with neither in use."""
    domain = vcpu.domain
    domain.load_kernel_base(vcpu, kernel)
    try:
        domain.load_user_base(vcpu, user)
    except XenError:
        vcpu.kernel_table_mfn = 0
        domain.pagetables.put_page_and_type(kernel)
        raise


def _set_handlers(vcpu: Vcpu, context: _Context) -> None:
    flags = context.field("flags")
    for vector, (_, trap_flags, cs, address) in enumerate(context.traps()):
        vcpu.trap_address[vector] = address
        vcpu.trap_flags[vector] = trap_flags
        vcpu.trap_cs[vector] = cs | _RPL
    vcpu.event_callback = context.field("event_callback_eip")
    vcpu.failsafe_callback = context.field("failsafe_callback_eip")
    vcpu.failsafe_masks_events = bool(flags & VGCF_failsafe_disables_events)
    vcpu.syscall_callback = context.field("syscall_callback_eip")
    vcpu.syscall_masks_events = bool(flags & VGCF_syscall_disables_events)
    vcpu.kernel_ss = context.field("kernel_ss") | _RPL
    vcpu.kernel_sp = context.field("kernel_sp")


def _set_control(vcpu: Vcpu, context: _Context) -> None:
    control = context.words("ctrlreg")
    vcpu.cpu.set_task_switched(bool(control[0] & CR0_TS))
    vcpu.load_cr4(control[4])
    vcpu.ldt_entries = context.field("ldt_ents")
    vcpu.ldt_base = context.field("ldt_base") if vcpu.ldt_entries else 0
    vcpu.load_ldt()
    for number, value in enumerate(context.words("debugreg")):
        if number not in (4, 5):
            with contextlib.suppress(XenError):  # what cannot be set keeps its first value
                set_debugreg(vcpu, number, value)


def _set_registers(vcpu: Vcpu, context: _Context) -> None:
    cpu = vcpu.cpu
    flags = context.field("flags")
    cs, ss = context.register("cs") | _RPL, context.register("ss") | _RPL
    if context.register("entry_vector") & _TRAP_SYSCALL:
        cs = FLAT_RING3_CS32 if cs == FLAT_RING3_CS32 else FLAT_RING3_CS64
        ss = FLAT_RING3_SS64
    registers = cpu.registers
    registers.gs_base = context.field("gs_base_kernel")
    cpu.inactive_gs_base = context.field("gs_base_user")
    if flags & VGCF_in_kernel:
        cpu.enter_kernel(cs, ss)
    else:
        cpu.enter_user(cs, ss, long_mode=True)
    for name in (*_GENERAL, "ds", "es", "fs", "gs"):
        setattr(registers, name, context.register(name))
    registers.fs_base = context.field("fs_base")
    rflags = context.register("rflags")
    registers.rflags = rflags & _FLAGS | _IF
    vcpu.set_iopl(rflags >> _IOPL_SHIFT & 3)
    if flags & VGCF_i387_valid:
        cpu.load_fpu(context.fpu())


def get_context(vcpu: Vcpu) -> bytes:
    """The state of a vCPU that does not run at the moment. What it keeps of a GDT are whole pages.

    ``set_context`` makes the same vCPU of it, where its tables are still what they are.
    """
    user_mode = vcpu.cpu.user_mode
    registers = vcpu.cpu.registers
    user_base, kernel_base = vcpu.cpu.inactive_gs_base, registers.gs_base
    if user_mode:
        user_base, kernel_base = kernel_base, user_base
    flags = VGCF_i387_valid
    for flag, applies in (
        (VGCF_in_kernel, not user_mode),
        (VGCF_online, vcpu.up),
        (VGCF_failsafe_disables_events, vcpu.failsafe_masks_events),
        (VGCF_syscall_disables_events, vcpu.syscall_masks_events),
    ):
        flags |= flag if applies else 0
    gdt = [0] * _CONTEXT_GDT_PAGES
    for page, mfn in mapped_pages(vcpu.domain.memory, vcpu.index):
        if page < _GDT_PAGES:
            gdt[page] = mfn
    return VCPU_GUEST_CONTEXT.pack(
        vcpu.cpu.save_fpu(),
        flags,
        _registers(vcpu),
        _trap_table(vcpu),
        vcpu.ldt_base,
        vcpu.ldt_entries,
        *gdt,
        ENTRIES * sum(mfn != 0 for mfn in gdt),
        vcpu.kernel_ss,
        vcpu.kernel_sp,
        *_control_registers(vcpu),
        *vcpu.debug_registers,
        vcpu.event_callback,
        vcpu.failsafe_callback,
        vcpu.syscall_callback,
        vcpu.domain.vm_assist,
        registers.fs_base,
        kernel_base,
        user_base,
    )


def _registers(vcpu: Vcpu) -> bytes:
    registers = vcpu.cpu.registers
    *general, rip, rsp = (getattr(registers, name) for name in _GENERAL)
    return CPU_USER_REGS.pack(
        *general,
        0,  # why it stopped: not because of an exception
        0,
        rip,
        registers.cs,
        vcpu.domain.memory.bytes[vcpu.info + MASK],
        registers.rflags & ~_IOPL | vcpu.iopl << _IOPL_SHIFT,
        rsp,
        *(getattr(registers, name) for name in ("ss", "es", "ds", "fs", "gs")),
    )


def _trap_table(vcpu: Vcpu) -> bytes:
    return b"".join(
        TRAP_INFO.pack(vector, flags, cs, address)
        for vector, (flags, cs, address) in enumerate(
            zip(vcpu.trap_flags, vcpu.trap_cs, vcpu.trap_address, strict=True)
        )
    )


def _control_registers(vcpu: Vcpu) -> tuple[int, ...]:
    cr2 = vcpu.domain.memory.words[(vcpu.info + CR2) >> 3]
    kernel, user = vcpu.kernel_table_mfn << PAGE_SHIFT, vcpu.user_table_mfn << PAGE_SHIFT
    return vcpu.cpu.registers.cr0, user, cr2, kernel, vcpu.cr4, 0, 0, 0
