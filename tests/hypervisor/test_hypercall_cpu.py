# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypercalls on what a vCPU has: callbacks, descriptors, bases, debug registers, iret."""

from __future__ import annotations

import struct

import pytest
from small_domain import (
    BAD_POINTERS,
    EVENT_CALLBACK,
    NON_CANONICAL,
    STACK,
    USER_L4,
    XEN_ADDRESS,
    SmallDomain,
)

from pyxen.abi import arch_x86_64 as arch
from pyxen.abi import callback, nmi, xen
from pyxen.abi.errno import EINVAL, ENODEV, ENOSYS, EPERM
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.page_flags import ENTRIES

HIGH = 1 << 32
HANDLER = 0xFFFFFFFF81000000
CODE_RING_0 = 0x00AF9A000000FFFF
CODE_RING_3 = 0x00AFFB000000FFFF
TSS = 0x0000890000000067
BAD_GATE = 0x0000EC0100100000
GDT = 20


def register_callback(guest: SmallDomain, kind: int, flags: int, address: int) -> int:
    pointer = guest.put_struct(callback.CALLBACK_REGISTER, kind, flags, address)
    return guest.call(xen.HYPERVISOR_callback_op, callback.CALLBACKOP_register, pointer)


def handler_of_nmis(guest: SmallDomain) -> tuple[int, int, int]:
    vcpu = guest.vcpu
    return vcpu.trap_address[2], vcpu.trap_flags[2], vcpu.trap_cs[2]


class TestCallbacks:
    @pytest.mark.parametrize(
        ("kind", "attribute"),
        [
            (callback.CALLBACKTYPE_event, "event_callback"),
            (callback.CALLBACKTYPE_failsafe, "failsafe_callback"),
            (callback.CALLBACKTYPE_syscall, "syscall_callback"),
            (callback.CALLBACKTYPE_syscall32, "syscall32_callback"),
            (callback.CALLBACKTYPE_sysenter, "sysenter_callback"),
        ],
    )
    def test_register(self, guest: SmallDomain, kind: int, attribute: str) -> None:
        assert register_callback(guest, kind, 0, HANDLER) == 0
        assert getattr(guest.vcpu, attribute) == HANDLER
        assert register_callback(guest, kind, 0, NON_CANONICAL) == -EINVAL
        assert getattr(guest.vcpu, attribute) == HANDLER

    @pytest.mark.parametrize("kind", [callback.CALLBACKTYPE_sysenter_deprecated, 8, 0xFFFF])
    def test_unknown_type(self, guest: SmallDomain, kind: int) -> None:
        """The old sysenter type is one of 32-bit Xen only."""
        assert register_callback(guest, kind, 0, HANDLER) == -ENOSYS
        pointer = guest.put_struct(callback.CALLBACK_UNREGISTER, kind)
        operation = callback.CALLBACKOP_unregister
        assert guest.call(xen.HYPERVISOR_callback_op, operation, pointer) == -ENOSYS

    def test_event_masking_of_syscall_and_failsafe(self, guest: SmallDomain) -> None:
        mask = callback.CALLBACKF_mask_events
        for flags, masks in ((mask, True), (0, False)):
            assert register_callback(guest, callback.CALLBACKTYPE_syscall, flags, 1) == 0
            assert register_callback(guest, callback.CALLBACKTYPE_failsafe, flags, 1) == 0
            assert guest.vcpu.syscall_masks_events is masks
            assert guest.vcpu.failsafe_masks_events is masks

    def test_only_the_nmi_callback_can_be_unregistered(self, guest: SmallDomain) -> None:
        operation = callback.CALLBACKOP_unregister
        register_callback(guest, callback.CALLBACKTYPE_nmi, 0, HANDLER)
        pointer = guest.put_struct(callback.CALLBACK_UNREGISTER, callback.CALLBACKTYPE_nmi)
        assert guest.call(xen.HYPERVISOR_callback_op, operation, pointer) == 0
        assert handler_of_nmis(guest) == (0, 0, 0)
        register_callback(guest, callback.CALLBACKTYPE_event, 0, HANDLER)
        pointer = guest.put_struct(callback.CALLBACK_UNREGISTER, callback.CALLBACKTYPE_event)
        assert guest.call(xen.HYPERVISOR_callback_op, operation, pointer) == -EINVAL
        assert guest.vcpu.event_callback == HANDLER

    def test_unknown_command(self, guest: SmallDomain) -> None:
        assert guest.call(xen.HYPERVISOR_callback_op, 7, 0) == -ENOSYS

    def test_only_32_bits_of_the_command_count(self, guest: SmallDomain) -> None:
        pointer = guest.put_struct(
            callback.CALLBACK_REGISTER, callback.CALLBACKTYPE_event, 0, HANDLER
        )
        command = callback.CALLBACKOP_register | HIGH
        assert guest.call(xen.HYPERVISOR_callback_op, command, pointer) == 0

    def test_set_callbacks_passes_over_bad_addresses(self, guest: SmallDomain) -> None:
        assert guest.call(xen.HYPERVISOR_set_callbacks, NON_CANONICAL, HANDLER, 5) == 0
        vcpu = guest.vcpu
        callbacks = (vcpu.event_callback, vcpu.failsafe_callback, vcpu.syscall_callback)
        assert callbacks == (EVENT_CALLBACK, HANDLER, 5)

    def test_nmi_op(self, guest: SmallDomain) -> None:
        call, register = xen.HYPERVISOR_nmi_op, nmi.XENNMI_register_callback
        assert guest.call(call, register, guest.put_struct(nmi.XENNMI_CALLBACK, HANDLER, 0)) == 0
        assert handler_of_nmis(guest) == (HANDLER, arch.TI_IF_MASK, arch.FLAT_KERNEL_CS)
        bad = guest.put_struct(nmi.XENNMI_CALLBACK, NON_CANONICAL, 0)
        assert guest.call(call, register, bad) == -EINVAL
        assert guest.call(call, nmi.XENNMI_unregister_callback, 0) == 0
        assert handler_of_nmis(guest) == (0, 0, 0)
        assert guest.call(call, 9, 0) == -ENOSYS


class TestTrapTable:
    def put(self, guest: SmallDomain, *entries: tuple[int, int, int, int]) -> int:
        data = b"".join(arch.TRAP_INFO.pack(*entry) for entry in entries)
        return guest.put(data + bytes(arch.TRAP_INFO.size))

    def test_entries_up_to_the_first_without_address(self, guest: SmallDomain) -> None:
        table = self.put(guest, (14, 4, 0xE030, HANDLER), (3, 3, 0xE033, 5), (8, 0, 0, 0))
        assert guest.call(xen.HYPERVISOR_set_trap_table, table) == 0
        vcpu = guest.vcpu
        assert (vcpu.trap_address[14], vcpu.trap_flags[14], vcpu.trap_cs[14]) == (
            HANDLER, 4, 0xE033)  # fmt: skip
        assert (vcpu.trap_address[3], vcpu.trap_flags[3]) == (5, 3)
        assert vcpu.trap_address[8] == 0

    def test_null_clears_all(self, guest: SmallDomain) -> None:
        guest.call(xen.HYPERVISOR_set_trap_table, self.put(guest, (255, 7, 0xE033, HANDLER)))
        assert guest.call(xen.HYPERVISOR_set_trap_table, 0) == 0
        vcpu = guest.vcpu
        assert not any(vcpu.trap_address)
        assert not any(vcpu.trap_flags)
        assert not any(vcpu.trap_cs)

    def test_entries_before_a_bad_one_stay(self, guest: SmallDomain) -> None:
        table = self.put(guest, (1, 0, 0, HANDLER), (2, 0, 0, NON_CANONICAL), (3, 0, 0, HANDLER))
        assert guest.call(xen.HYPERVISOR_set_trap_table, table) == -EINVAL
        assert list(guest.vcpu.trap_address[:4]) == [0, HANDLER, 0, 0]


class TestBases:
    def test_stack_switch(self, guest: SmallDomain) -> None:
        assert guest.call(xen.HYPERVISOR_stack_switch, 0x28, HANDLER) == 0
        assert (guest.vcpu.kernel_ss, guest.vcpu.kernel_sp) == (0x2B, HANDLER)

    def test_set_segment_base(self, guest: SmallDomain) -> None:
        call, cpu = xen.HYPERVISOR_set_segment_base, guest.vcpu.cpu
        assert guest.call(call, arch.SEGBASE_FS, 0x1000) == 0
        assert guest.call(call, arch.SEGBASE_GS_USER | HIGH, 0x2000) == 0
        assert guest.call(call, arch.SEGBASE_GS_KERNEL, HANDLER) == 0
        assert cpu.registers.fs_base == 0x1000
        assert (cpu.inactive_gs_base, cpu.registers.gs_base) == (0x2000, HANDLER)
        for which in (arch.SEGBASE_FS, arch.SEGBASE_GS_USER, arch.SEGBASE_GS_KERNEL):
            assert guest.call(call, which, NON_CANONICAL) == -EINVAL
        assert guest.call(call, 4, 0) == -EINVAL
        assert cpu.registers.fs_base == 0x1000

    def test_user_gs_by_selector(self, guest: SmallDomain) -> None:
        call, cpu = xen.HYPERVISOR_set_segment_base, guest.vcpu.cpu
        guest.memory.words[guest.mfn(GDT) * ENTRIES + 5] = 0x12CFF2345678FFFF
        guest.call(xen.HYPERVISOR_set_gdt, guest.put(guest.mfn(GDT).to_bytes(8, "little")), 16)
        assert guest.call(call, arch.SEGBASE_GS_USER_SEL, 5 << 3) == 0
        assert (cpu.registers.gs, cpu.inactive_gs_base) == (5 << 3 | 3, 0x12345678)
        for selector in (0, 3, 6 << 3, 5 << 3 | 4):
            assert guest.call(call, arch.SEGBASE_GS_USER_SEL, selector) == 0
            assert cpu.inactive_gs_base == 0
            assert cpu.registers.gs <= 3

    def test_fpu_taskswitch(self, guest: SmallDomain) -> None:
        for value, expected in ((1, True), (0, False), (2, True), (HIGH, False)):
            assert guest.call(xen.HYPERVISOR_fpu_taskswitch, value) == 0
            assert guest.engine.cpus[0].task_switched is expected


class TestDebugRegisters:
    def set(self, guest: SmallDomain, number: int, value: int) -> int:
        return guest.call(xen.HYPERVISOR_set_debugreg, number, value)

    def get(self, guest: SmallDomain, number: int) -> int:
        """A value of 64 bits, or an error."""
        result = guest.call(xen.HYPERVISOR_get_debugreg, number)
        return result if result in (-ENODEV, -EINVAL) else result & (1 << 64) - 1

    def test_addresses(self, guest: SmallDomain) -> None:
        assert self.set(guest, 3, HANDLER) == 0
        assert self.get(guest, 3 | HIGH) == HANDLER
        for address in (XEN_ADDRESS, NON_CANONICAL, 0xFFFF_87FF_FFFF_FFFF):
            assert self.set(guest, 3, address) == -EPERM
        assert self.get(guest, 3) == HANDLER

    def test_status_has_its_fixed_bits(self, guest: SmallDomain) -> None:
        assert self.get(guest, 6) == 0xFFFF0FF0
        assert self.set(guest, 6, 0x1000 | 0xF) == 0
        assert self.get(guest, 6) == 0xFFFF0FFF
        assert self.set(guest, 6, HIGH) == -EINVAL

    def test_control(self, guest: SmallDomain) -> None:
        assert self.get(guest, 7) == 0x400
        assert self.set(guest, 7, 0x10000 | 0xD800 | 1) == 0
        assert self.get(guest, 7) == 0x10401
        assert self.set(guest, 7, HIGH) == -EINVAL
        assert self.set(guest, 7, 0x2000) == -EPERM  # general detect
        assert self.set(guest, 7, 0x20000 | 2) == -EPERM  # I/O, without CR4.DE
        assert self.get(guest, 7) == 0x10401
        guest.vcpu.cr4 |= 8
        assert self.set(guest, 7, 0x20000 | 2) == 0

    def test_4_and_5_are_6_and_7_without_debug_extensions(self, guest: SmallDomain) -> None:
        assert self.set(guest, 4, 0xFFFF0FF1) == 0
        assert self.get(guest, 6) == self.get(guest, 4) == 0xFFFF0FF1
        guest.vcpu.cr4 |= 8
        assert self.set(guest, 5, 0) == -ENODEV
        assert self.get(guest, 4) == -ENODEV

    @pytest.mark.parametrize("number", [8, 0xFFFFFFFF])
    def test_no_such_register(self, guest: SmallDomain, number: int) -> None:
        assert self.set(guest, number, 0) == -ENODEV
        assert self.get(guest, number) == -ENODEV


USER_SS = arch.FLAT_RING3_SS64
IF, IOPL_3, VM, RF = 0x200, 0x3000, 0x20000, 0x10000


class TestIret:
    def go(
        self,
        guest: SmallDomain,
        *,
        cs: int,
        rflags: int = IF,
        flags: int = 0,
        ss: int = USER_SS,
        rip: int = 0x401000,
    ) -> None:
        frame = arch.IRET_CONTEXT.pack(1, 2, 3, flags, rip, cs, rflags, 0x7FF0, ss)
        registers = guest.vcpu.cpu.registers
        registers.rsp = guest.write(guest.address(STACK) + 0x100, frame)
        registers.rcx = registers.r11 = 0xAAAA
        guest.vcpu.cpu.registers.rax = xen.HYPERVISOR_iret
        guest.domain.dispatcher.hypercall(guest.vcpu)

    def give_user_table(self, guest: SmallDomain) -> None:
        pointer = guest.put_struct(
            xen.MMUEXT_OP, xen.MMUEXT_NEW_USER_BASEPTR, guest.mfn(USER_L4), 0
        )
        assert guest.call(xen.HYPERVISOR_mmuext_op, pointer, 1, 0, xen.DOMID_SELF) == 0

    def test_to_user_mode(self, guest: SmallDomain) -> None:
        self.give_user_table(guest)
        cpu = guest.engine.cpus[0]
        cpu.registers.gs_base, cpu.inactive_gs_base = 10, 20
        self.go(guest, cs=arch.FLAT_USER_CS64, rflags=IF | IOPL_3 | VM | 1)
        assert cpu.user_mode
        assert cpu.long_mode
        r = cpu.registers
        assert (r.rax, r.r11, r.rcx) == (1, 2, 3)
        assert (r.rip, r.rsp, r.cs, r.ss) == (0x401000, 0x7FF0, arch.FLAT_USER_CS64, USER_SS)
        assert r.rflags == IF | 2 | 1
        assert (r.gs_base, cpu.inactive_gs_base) == (20, 10)
        assert r.cr3 == guest.maddr(USER_L4)

    def test_to_32_bit_user_mode(self, guest: SmallDomain) -> None:
        self.give_user_table(guest)
        self.go(guest, cs=arch.FLAT_RING3_CS32)
        assert not guest.engine.cpus[0].long_mode

    def test_within_the_kernel(self, guest: SmallDomain) -> None:
        self.go(guest, cs=arch.FLAT_KERNEL_CS & ~3, ss=arch.FLAT_KERNEL_SS & ~3)
        cpu = guest.vcpu.cpu
        assert not cpu.user_mode
        assert (cpu.registers.cs, cpu.registers.ss) == (arch.FLAT_KERNEL_CS, arch.FLAT_KERNEL_SS)
        assert cpu.registers.rsp == 0x7FF0

    @pytest.mark.parametrize("cs", [0x33, 0, 0x1F, arch.FLAT_USER_CS32])
    def test_in_syscall_is_left_by_sysret(self, guest: SmallDomain, cs: int) -> None:
        """cs and ss are those of SYSRET, rcx and r11 what SYSRET needs."""
        self.give_user_table(guest)
        self.go(guest, cs=cs | 3, rflags=IF | RF | 1, flags=arch.VGCF_in_syscall, ss=0)
        r = guest.vcpu.cpu.registers
        expected = arch.FLAT_USER_CS32 if cs == arch.FLAT_USER_CS32 else arch.FLAT_USER_CS64
        assert (r.cs, r.ss, r.rip) == (expected, arch.FLAT_USER_SS64, 0x401000)
        assert (r.rcx, r.r11, r.rax, r.rflags) == (0x401000, IF | 2 | 1, 1, IF | 2 | 1)
        assert guest.engine.cpus[0].long_mode == (cs != arch.FLAT_USER_CS32)

    def test_in_syscall_to_a_bad_address_is_left_by_iret(self, guest: SmallDomain) -> None:
        self.give_user_table(guest)
        flags = arch.VGCF_in_syscall
        guest.vcpu.trap_address[13] = HANDLER
        self.go(guest, cs=arch.FLAT_USER_CS64, flags=flags, rip=NON_CANONICAL)
        registers = guest.vcpu.cpu.registers
        assert registers.rip == HANDLER
        frame = struct.unpack("<4Q", guest.read(registers.rsp, 32))
        assert frame == (0xAAAA, 0xAAAA, 0, NON_CANONICAL)

    @pytest.mark.parametrize(("rflags", "mask"), [(IF, 0), (0, 1)])
    def test_upcall_mask_is_the_reverse_of_the_interrupt_flag(
        self, guest: SmallDomain, rflags: int, mask: int
    ) -> None:
        guest.set_upcall_mask(1 - mask)
        self.go(guest, cs=0xE030, rflags=rflags)
        assert guest.upcall_mask() == mask
        assert guest.vcpu.cpu.registers.rflags & IF

    def test_flags_that_do_not_exist_are_dropped(self, guest: SmallDomain) -> None:
        self.go(guest, cs=0xE030, rflags=(1 << 64) - 1 & ~(IOPL_3 | VM))
        assert guest.vcpu.cpu.registers.rflags == 0x3F7FD7 & ~(IOPL_3 | VM)

    def test_iopl_is_the_frames_with_the_assistance_only(self, guest: SmallDomain) -> None:
        self.go(guest, cs=0xE030, rflags=IF | IOPL_3)
        assert guest.vcpu.iopl == 0
        guest.call(xen.HYPERVISOR_vm_assist, 0, xen.VMASST_TYPE_architectural_iopl)
        self.go(guest, cs=0xE030, rflags=IF | 0x1000)
        assert guest.vcpu.iopl == 1
        assert guest.vcpu.cpu.registers.rflags & IOPL_3 == 0

    def test_without_user_table_crashes(self, guest: SmallDomain) -> None:
        with pytest.raises(DomainCrash, match="without a user page table"):
            self.go(guest, cs=arch.FLAT_USER_CS64)

    @pytest.mark.parametrize("kind", BAD_POINTERS)
    def test_bad_stack_crashes(self, guest: SmallDomain, kind: str) -> None:
        guest.vcpu.cpu.registers.rsp = BAD_POINTERS[kind]
        guest.vcpu.cpu.registers.rax = xen.HYPERVISOR_iret
        with pytest.raises(DomainCrash, match="no frame"):
            guest.domain.dispatcher.hypercall(guest.vcpu)
