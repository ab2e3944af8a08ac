# SPDX-License-Identifier: GPL-2.0-or-later
"""Bounce frames, exceptions, system calls, software interrupts, events on the way back."""

from __future__ import annotations

import struct

import pytest
from msgspec.structs import replace
from small_domain import (
    BAD_POINTERS,
    L1,
    L4,
    NOT_MAPPED,
    READ_ONLY,
    SCRATCH,
    STACK,
    USER_L4,
    XEN_ADDRESS,
    SmallDomain,
)

from pyxen.abi import arch_x86_64 as arch
from pyxen.abi import xen
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.instruments import Instrument
from pyxen.hypervisor.msr import CPUID_FAULTING
from pyxen.hypervisor.page_flags import PRESENT
from pyxen.hypervisor.traps import (
    AC,
    BREAKPOINT,
    DEBUG,
    GENERAL_PROTECTION,
    INVALID_OPCODE,
    NO_DEVICE,
    NT,
    PAGE_FAULT,
    RF,
    TF,
)
from pyxen.hypervisor.vcpu import CR2, NMI, Vcpu

HANDLER = 0xFFFFFFFF81001000
IF, DF, CARRY = 0x200, 0x400, 1
USER_RIP, USER_RSP = 0x401234, 0x7FFF_0000_1238


def handle(guest: SmallDomain, vector: int, flags: int = 0) -> None:
    vcpu = guest.vcpu
    vcpu.trap_address[vector], vcpu.trap_flags[vector] = HANDLER + vector, flags


def set_state(guest: SmallDomain, *, user: bool, rsp: int | None = None) -> None:
    """Distinct values in all that a frame holds."""
    cpu = guest.vcpu.cpu
    cpu.registers.gs_base, cpu.inactive_gs_base = 0x6006, 0x5005
    if user:
        cpu.load_user_page_table(guest.maddr(USER_L4))
        cpu.enter_user(arch.FLAT_USER_CS64, arch.FLAT_USER_SS64, long_mode=True)
    registers = cpu.registers
    registers.rcx, registers.r11 = 0xC0C0, 0x1111
    registers.rip = USER_RIP if user else 0xFFFFFFFF81002000
    registers.rflags = IF | CARRY | 2
    if rsp is None:
        rsp = USER_RSP if user else guest.address(STACK) + 0x808
    registers.rsp = rsp


def set_vendor(guest: SmallDomain, vendor: str) -> None:
    ebx, edx, ecx = struct.unpack("<3I", vendor.encode())
    guest.engine.cpuid[0, 0] = (13, ebx, ecx, edx)


def read_frame(guest: SmallDomain, *, error_code: bool) -> dict[str, int]:
    names = ["rcx", "r11", "error", "rip", "cs", "rflags", "rsp", "ss"]
    if not error_code:
        names.remove("error")
    address = guest.vcpu.cpu.registers.rsp
    values = struct.unpack(f"<{len(names)}Q", guest.read(address, 8 * len(names)))
    return dict(zip(names, values, strict=True))


class TestBounceFrame:
    @pytest.mark.parametrize("user", [False, True], ids=["kernel", "user"])
    @pytest.mark.parametrize("mask", [0, 1])
    @pytest.mark.parametrize("masks_events", [False, True])
    @pytest.mark.parametrize("vector", [0, GENERAL_PROTECTION])
    def test_layout(
        self, guest: SmallDomain, user: bool, mask: int, masks_events: bool, vector: int
    ) -> None:
        handle(guest, vector, arch.TI_IF_MASK if masks_events else 0)
        guest.set_upcall_mask(mask)
        set_state(guest, user=user)
        cpu = guest.vcpu.cpu
        old_rsp, old_rip = cpu.registers.rsp, cpu.registers.rip
        has_error = vector == GENERAL_PROTECTION
        guest.domain.traps.inject(guest.vcpu, vector, 0x18 if has_error else 0)

        frame = read_frame(guest, error_code=has_error)
        if has_error:
            assert frame["error"] == 0x18
        assert (frame["rcx"], frame["r11"], frame["rip"]) == (0xC0C0, 0x1111, old_rip)
        assert frame["rsp"] == old_rsp
        cs = arch.FLAT_USER_CS64 if user else arch.FLAT_KERNEL_CS & ~3
        ss = arch.FLAT_USER_SS64 if user else arch.FLAT_KERNEL_SS
        assert frame["cs"] == cs | mask << 32
        assert frame["ss"] == ss
        assert frame["rflags"] == CARRY | 2 | (0 if mask else IF)

        registers = cpu.registers
        size = 64 if has_error else 56
        top = guest.vcpu.kernel_sp if user else old_rsp & ~15
        assert registers.rsp == top - size
        assert registers.rip == HANDLER + vector
        assert (registers.cs, registers.ss) == (arch.FLAT_KERNEL_CS, arch.FLAT_KERNEL_SS)
        assert not cpu.user_mode
        assert (registers.gs_base, cpu.inactive_gs_base) == (0x6006, 0x5005)
        assert registers.cr3 == cpu.kernel_page_table
        assert guest.upcall_mask() == (mask | masks_events)
        assert registers.rflags & IF

    def test_flags_that_a_trap_clears(self, guest: SmallDomain) -> None:
        handle(guest, 0)
        guest.set_upcall_mask(0)
        set_state(guest, user=False)
        flags = TF | NT | RF | AC | CARRY | IF | 2
        guest.vcpu.cpu.registers.rflags = flags
        guest.domain.traps.inject(guest.vcpu, 0, 0)
        assert guest.vcpu.cpu.registers.rflags == CARRY | IF | 2
        assert read_frame(guest, error_code=False)["rflags"] == flags

    def test_iopl_is_shown_with_the_assistance_only(self, guest: SmallDomain) -> None:
        handle(guest, 0)
        guest.vcpu.iopl = 3
        set_state(guest, user=False)
        guest.domain.traps.inject(guest.vcpu, 0, 0)
        assert read_frame(guest, error_code=False)["rflags"] & 0x3000 == 0

    def test_iopl_with_the_assistance(self, guest: SmallDomain) -> None:
        guest.call(xen.HYPERVISOR_vm_assist, 0, xen.VMASST_TYPE_architectural_iopl)
        handle(guest, 0)
        guest.vcpu.iopl = 2
        set_state(guest, user=False)
        guest.domain.traps.inject(guest.vcpu, 0, 0)
        assert read_frame(guest, error_code=False)["rflags"] & 0x3000 == 0x2000

    def test_frame_across_two_pages(self, guest: SmallDomain) -> None:
        handle(guest, 0)
        set_state(guest, user=False, rsp=guest.address(SCRATCH + 1) + 16)
        guest.domain.traps.inject(guest.vcpu, 0, 0)
        assert read_frame(guest, error_code=False)["rsp"] == guest.address(SCRATCH + 1) + 16

    @pytest.mark.parametrize(
        "stack",
        [
            NOT_MAPPED,
            0,
            16,
            XEN_ADDRESS + 0x1000,
            0xFFFF_8200_0000_1000,
            "read-only",
            "partly mapped",
            (1 << 64) - 1,
        ],
    )
    @pytest.mark.parametrize("user", [False, True], ids=["kernel", "user"])
    def test_bad_stack_crashes(self, guest: SmallDomain, stack: int | str, user: bool) -> None:
        if stack == "read-only":
            stack = guest.address(READ_ONLY) + 0x800
        elif stack == "partly mapped":
            stack = guest.address(SCRATCH) + 16
        assert isinstance(stack, int)
        handle(guest, 0)
        set_state(guest, user=user, rsp=None if user else stack)
        guest.vcpu.kernel_sp = stack
        with pytest.raises(DomainCrash, match="kernel stack"):
            guest.domain.traps.inject(guest.vcpu, 0, 0)

    def test_non_canonical_stack_crashes(self, guest: SmallDomain) -> None:
        handle(guest, 0)
        alias = guest.address(STACK) + 0x800 & (1 << 48) - 1
        set_state(guest, user=False, rsp=alias)
        with pytest.raises(DomainCrash):
            guest.domain.traps.inject(guest.vcpu, 0, 0)


class TestExceptions:
    def test_without_handler_crashes(self, guest: SmallDomain) -> None:
        with pytest.raises(DomainCrash, match=r"exception 0 \(divide_error\)"):
            guest.domain.traps.exception(guest.vcpu.cpu, 0, 0, False)

    @pytest.mark.parametrize("user", [False, True], ids=["kernel", "user"])
    def test_page_fault(self, guest: SmallDomain, user: bool) -> None:
        handle(guest, PAGE_FAULT, arch.TI_IF_MASK)
        set_state(guest, user=user)
        guest.vcpu.cpu.registers.cr2 = 0xDEAD000
        guest.domain.traps.exception(guest.vcpu.cpu, PAGE_FAULT, 4 if user else 0, False)
        assert guest.memory.words[(guest.vcpu.info + CR2) >> 3] == 0xDEAD000
        assert read_frame(guest, error_code=True)["error"] == (4 if user else 0)
        assert guest.upcall_mask() == 1

    def store(
        self, guest: SmallDomain, pfn: int, value: int, flags: int = 0, *, assisted: bool = True
    ) -> None:
        """``mov %rax, (%rdi)`` to a page-table page, faulting as read-only pages do."""
        if assisted:
            guest.call(xen.HYPERVISOR_vm_assist, 0, xen.VMASST_TYPE_writable_pagetables)
        handle(guest, PAGE_FAULT)
        guest.write(guest.address(SCRATCH), b"\x48\x89\x07")
        set_state(guest, user=False)
        registers = guest.vcpu.cpu.registers
        registers.rip = guest.address(SCRATCH)
        registers.rdi = registers.cr2 = guest.address(pfn) + 100 * 8
        registers.rax = value
        registers.rflags |= flags
        guest.domain.traps.exception(guest.vcpu.cpu, PAGE_FAULT, 3, False)

    def test_store_to_a_table_is_emulated(self, guest: SmallDomain) -> None:
        value = guest.maddr(20) | PRESENT
        self.store(guest, L1, value)
        assert guest.entry(L1, 100) == value
        assert guest.vcpu.cpu.registers.rip == guest.address(SCRATCH) + 3
        assert guest.domain.statistics().traps["page_table_store"][0] == 1

    def test_store_needs_the_assistance(self, guest: SmallDomain) -> None:
        self.store(guest, L1, guest.maddr(20) | PRESENT, assisted=False)
        assert guest.entry(L1, 100) == 0
        assert guest.vcpu.cpu.registers.rip == HANDLER + PAGE_FAULT

    def test_single_step_of_an_emulated_store(self, guest: SmallDomain) -> None:
        handle(guest, DEBUG)
        self.store(guest, L1, guest.maddr(20) | PRESENT, TF)
        assert guest.vcpu.cpu.registers.rip == HANDLER + DEBUG
        assert read_frame(guest, error_code=False)["rip"] == guest.address(SCRATCH) + 3
        assert guest.vcpu.debug_registers[6] == 0xFFFF4FF0

    @pytest.mark.parametrize(("pfn", "mfn"), [(L1, 2), (READ_ONLY, 0x10000), (2, 0x10003)])
    def test_store_that_is_refused_is_a_page_fault(
        self, guest: SmallDomain, pfn: int, mfn: int
    ) -> None:
        """A bad entry; a page that is no table; an L2 table, which needs a hypercall."""
        self.store(guest, pfn, mfn << 12 | PRESENT)
        assert guest.vcpu.cpu.registers.rip == HANDLER + PAGE_FAULT
        assert guest.entry(pfn, 100) == 0

    def test_no_device_clears_task_switched(self, guest: SmallDomain) -> None:
        handle(guest, NO_DEVICE)
        guest.vcpu.cpu.set_task_switched(True)
        guest.domain.traps.exception(guest.vcpu.cpu, NO_DEVICE, 0, False)
        assert not guest.engine.cpus[0].task_switched

    def test_forced_cpuid(self, guest: SmallDomain) -> None:
        guest.write(guest.address(SCRATCH), b"\x0f\x0bxen\x0f\xa2")
        set_state(guest, user=False)
        registers = guest.vcpu.cpu.registers
        registers.rip, registers.rax, registers.rcx = guest.address(SCRATCH), 0x40000000, 0
        guest.domain.traps.exception(guest.vcpu.cpu, INVALID_OPCODE, 0, False)
        assert registers.rip == guest.address(SCRATCH) + 7
        assert struct.pack("<3I", registers.rbx, registers.rcx, registers.rdx) == b"XenVMMXenVMM"

    def test_answers_of_cpuid_are_kept_whatever_stands_in_ecx(self, guest: SmallDomain) -> None:
        asked: list[tuple[int, int]] = []

        def host_leaf(leaf: int, subleaf: int) -> tuple[int, int, int, int]:
            asked.append((leaf, subleaf))
            return native(leaf, subleaf)

        native = guest.domain.cpuid.host_leaf
        guest.domain.cpuid = replace(guest.domain.cpuid, host_leaf=host_leaf)
        registers = guest.vcpu.cpu.registers
        for rcx in range(0, 1 << 40, 1 << 30):
            registers.rax, registers.rcx = 1, rcx | rcx >> 30
            guest.domain.traps.cpuid(guest.vcpu.cpu)
        assert [leaf for leaf, _ in asked].count(1) == 1

    def test_cpuid_of_programs_faults_where_the_kernel_wants_it(self, guest: SmallDomain) -> None:
        handle(guest, GENERAL_PROTECTION)
        guest.vcpu.msrs.misc_features_enables = CPUID_FAULTING
        for code, vector, ahead in (
            (b"\x0f\x0bxen\x0f\xa2", INVALID_OPCODE, 5),
            (b"\x0f\xa2", GENERAL_PROTECTION, 0),
        ):
            guest.write(guest.address(SCRATCH), code)
            set_state(guest, user=True)
            guest.vcpu.cpu.load_user_page_table(guest.maddr(L4))
            guest.vcpu.cpu.registers.rip = guest.address(SCRATCH)
            guest.domain.traps.exception(guest.vcpu.cpu, vector, 0, False)
            assert guest.vcpu.cpu.registers.rip == HANDLER + GENERAL_PROTECTION
            assert read_frame(guest, error_code=True)["rip"] == guest.address(SCRATCH) + ahead
            set_state(guest, user=False)
            guest.vcpu.cpu.registers.rip = guest.address(SCRATCH)
            guest.domain.traps.exception(guest.vcpu.cpu, vector, 0, False)
            assert guest.vcpu.cpu.registers.rip == guest.address(SCRATCH) + len(code)

    def test_invalid_opcode_at_the_end_of_memory(self, guest: SmallDomain) -> None:
        handle(guest, INVALID_OPCODE)
        set_state(guest, user=False)
        for rip in BAD_POINTERS.values():
            guest.vcpu.cpu.registers.rip = rip
            guest.vcpu.cpu.registers.rsp = guest.address(STACK) + 0x800
            guest.domain.traps.exception(guest.vcpu.cpu, INVALID_OPCODE, 0, False)
            assert read_frame(guest, error_code=False)["rip"] == rip

    def test_single_step_of_a_kernel_needs_a_handler(self, guest: SmallDomain) -> None:
        set_state(guest, user=False)
        with pytest.raises(DomainCrash, match=r"exception 1 \(debug\)"):
            guest.domain.traps.exception(guest.vcpu.cpu, DEBUG, 0, False)
        handle(guest, DEBUG)
        guest.domain.traps.exception(guest.vcpu.cpu, DEBUG, 0, False)
        assert guest.vcpu.cpu.registers.rip == HANDLER + DEBUG

    def test_debug_status_is_added_to_the_guests(self, guest: SmallDomain) -> None:
        handle(guest, DEBUG)
        set_state(guest, user=True)
        guest.vcpu.debug_registers[6] = 0xFFFF0FF1
        guest.engine.cpus[0].debug_status = 0x4000
        guest.domain.traps.exception(guest.vcpu.cpu, DEBUG, 0, False)
        assert guest.vcpu.debug_registers[6] == 0xFFFF4FF1

    def test_instruments_hear_of_traps(self, guest: SmallDomain) -> None:
        seen: list[str] = []

        class Watch(Instrument):
            def trap(self, vcpu: Vcpu, name: str) -> None:
                seen.append(name)

        guest.domain.instruments.append(Watch())
        handle(guest, 0)
        guest.domain.traps.exception(guest.vcpu.cpu, 0, 0, False)
        guest.vcpu.syscall_callback = HANDLER
        guest.domain.traps.system_call(guest.vcpu.cpu)
        assert seen == ["divide_error", "system_call"]


class TestSoftwareInterrupts:
    @pytest.mark.parametrize("user", [False, True], ids=["kernel", "user"])
    @pytest.mark.parametrize("dpl", [0, 1, 2, 3])
    def test_privilege(self, guest: SmallDomain, user: bool, dpl: int) -> None:
        """The kernel counts as ring 1, though its selectors say 3."""
        handle(guest, 0x81, dpl)
        handle(guest, GENERAL_PROTECTION)
        set_state(guest, user=user)
        rip = guest.vcpu.cpu.registers.rip
        guest.domain.traps.exception(guest.vcpu.cpu, 0x81, 0, True)
        if dpl >= (3 if user else 1):
            assert guest.vcpu.cpu.registers.rip == HANDLER + 0x81
            assert read_frame(guest, error_code=False)["rip"] == rip
        else:
            assert guest.vcpu.cpu.registers.rip == HANDLER + GENERAL_PROTECTION
            frame = read_frame(guest, error_code=True)
            assert (frame["rip"], frame["error"]) == (rip - 2, 0x81 << 3 | 2)

    @pytest.mark.parametrize("user", [False, True], ids=["kernel", "user"])
    def test_0x80_is_for_everybody_who_handles_it(self, guest: SmallDomain, user: bool) -> None:
        """Xen has a gate of its own for it, and does not look at the guest's privilege level."""
        handle(guest, 0x80, arch.TI_IF_MASK)
        guest.set_upcall_mask(0)
        set_state(guest, user=user)
        guest.domain.traps.exception(guest.vcpu.cpu, 0x80, 0, True)
        assert guest.vcpu.cpu.registers.rip == HANDLER + 0x80
        assert guest.upcall_mask() == 1

    def test_0x80_without_handler(self, guest: SmallDomain) -> None:
        handle(guest, GENERAL_PROTECTION)
        set_state(guest, user=True)
        guest.domain.traps.exception(guest.vcpu.cpu, 0x80, 0, True)
        assert read_frame(guest, error_code=True)["error"] == 0x80 << 3 | 2

    def test_permitted_vector_without_handler_crashes(self, guest: SmallDomain) -> None:
        """Only VCPUOP_initialise can set a level without an address."""
        guest.vcpu.trap_flags[0x90] = 3
        set_state(guest, user=True)
        with pytest.raises(DomainCrash, match="no handler"):
            guest.domain.traps.exception(guest.vcpu.cpu, 0x90, 0, True)

    def test_page_fault_by_software_is_no_page_fault(self, guest: SmallDomain) -> None:
        """It has neither an error code nor an address."""
        handle(guest, PAGE_FAULT, 3)
        guest.memory.words[(guest.vcpu.info + CR2) >> 3] = 0x77
        set_state(guest, user=True)
        guest.vcpu.cpu.registers.cr2 = 0xBAD
        guest.domain.traps.exception(guest.vcpu.cpu, PAGE_FAULT, 0, True)
        assert read_frame(guest, error_code=False)["rip"] == USER_RIP
        assert guest.memory.words[(guest.vcpu.info + CR2) >> 3] == 0x77

    def test_without_handler(self, guest: SmallDomain) -> None:
        handle(guest, GENERAL_PROTECTION)
        set_state(guest, user=False)
        guest.domain.traps.exception(guest.vcpu.cpu, 0x90, 0, True)
        assert read_frame(guest, error_code=True)["error"] == 0x90 << 3 | 2

    def test_breakpoint(self, guest: SmallDomain) -> None:
        handle(guest, BREAKPOINT, 3)
        set_state(guest, user=True)
        guest.domain.traps.exception(guest.vcpu.cpu, BREAKPOINT, 0, True)
        assert read_frame(guest, error_code=False)["rip"] == USER_RIP

    def test_breakpoint_needs_no_privilege(self, guest: SmallDomain) -> None:
        """Xen's own gates of int3 and into let every ring in, and it asks no further."""
        handle(guest, BREAKPOINT, 0)
        handle(guest, GENERAL_PROTECTION)
        set_state(guest, user=True)
        guest.domain.traps.exception(guest.vcpu.cpu, BREAKPOINT, 0, True)
        assert guest.vcpu.cpu.registers.rip == HANDLER + BREAKPOINT


class TestSystemCall:
    @pytest.mark.parametrize("masks", [False, True])
    def test_callback(self, guest: SmallDomain, masks: bool) -> None:
        guest.set_upcall_mask(0)
        guest.vcpu.syscall_callback = HANDLER
        guest.vcpu.syscall_masks_events = masks
        set_state(guest, user=True)
        guest.domain.traps.system_call(guest.vcpu.cpu)
        frame = read_frame(guest, error_code=False)
        assert (frame["rcx"], frame["r11"], frame["rip"]) == (USER_RIP, IF | CARRY | 2, USER_RIP)
        assert frame["rsp"] == USER_RSP
        assert (frame["cs"], frame["ss"]) == (arch.FLAT_USER_CS64, arch.FLAT_USER_SS64)
        assert guest.vcpu.cpu.registers.rip == HANDLER
        assert guest.upcall_mask() == masks

    def test_frame_has_the_flat_selectors(self, guest: SmallDomain) -> None:
        guest.vcpu.syscall_callback = HANDLER
        set_state(guest, user=True)
        guest.vcpu.cpu.registers.cs, guest.vcpu.cpu.registers.ss = 0x33, 0x2B
        guest.domain.traps.system_call(guest.vcpu.cpu)
        frame = read_frame(guest, error_code=False)
        assert frame["cs"] & 0xFFFF == arch.FLAT_USER_CS64
        assert frame["ss"] == arch.FLAT_USER_SS64

    def test_direction_flag_is_cleared(self, guest: SmallDomain) -> None:
        guest.set_upcall_mask(0)
        guest.vcpu.syscall_callback = HANDLER
        set_state(guest, user=True)
        guest.vcpu.cpu.registers.rflags = IF | DF | TF | 2
        guest.domain.traps.system_call(guest.vcpu.cpu)
        assert read_frame(guest, error_code=False)["rflags"] == IF | DF | TF | 2
        assert guest.vcpu.cpu.registers.rflags == IF | 2

    def enter_compatibility_mode(self, guest: SmallDomain, vendor: str) -> None:
        set_state(guest, user=True)
        guest.vcpu.cpu.enter_user(0x23, 0x2B, long_mode=False)
        set_vendor(guest, vendor)

    @pytest.mark.parametrize("masks", [False, True])
    def test_of_32_bit_code(self, guest: SmallDomain, masks: bool) -> None:
        """It masks events if the callback for 64-bit code does."""
        guest.set_upcall_mask(0)
        guest.vcpu.syscall_callback = 1
        guest.vcpu.syscall32_callback = HANDLER
        guest.vcpu.syscall_masks_events = masks
        self.enter_compatibility_mode(guest, "AuthenticAMD")
        guest.domain.traps.system_call(guest.vcpu.cpu)
        assert guest.vcpu.cpu.registers.rip == HANDLER
        frame = read_frame(guest, error_code=False)
        assert (frame["cs"], frame["ss"]) == (arch.FLAT_USER_CS32, arch.FLAT_USER_SS32)
        assert guest.upcall_mask() == masks
        assert guest.engine.cpus[0].long_mode

    def test_of_32_bit_code_without_callback(self, guest: SmallDomain) -> None:
        guest.vcpu.syscall_callback = 1
        handle(guest, INVALID_OPCODE)
        self.enter_compatibility_mode(guest, "AuthenticAMD")
        guest.domain.traps.system_call(guest.vcpu.cpu)
        assert guest.vcpu.cpu.registers.rip == HANDLER + INVALID_OPCODE

    def test_of_32_bit_code_does_not_exist_on_intel(self, guest: SmallDomain) -> None:
        guest.vcpu.syscall_callback = guest.vcpu.syscall32_callback = 1
        handle(guest, INVALID_OPCODE)
        self.enter_compatibility_mode(guest, "GenuineIntel")
        guest.domain.traps.system_call(guest.vcpu.cpu)
        assert guest.vcpu.cpu.registers.rip == HANDLER + INVALID_OPCODE
        assert read_frame(guest, error_code=False)["cs"] & 0xFFFF == 0x23

    @pytest.mark.parametrize("masks", [False, True])
    def test_sysenter(self, guest: SmallDomain, masks: bool) -> None:
        guest.set_upcall_mask(0)
        guest.vcpu.sysenter_callback = HANDLER
        guest.vcpu.sysenter_masks_events = masks
        self.enter_compatibility_mode(guest, "GenuineIntel")
        guest.domain.traps.sysenter(guest.vcpu.cpu)
        assert guest.vcpu.cpu.registers.rip == HANDLER
        frame = read_frame(guest, error_code=False)
        assert (frame["rip"], frame["cs"], frame["rsp"]) == (0, 3, 0)
        assert (frame["ss"], frame["rflags"]) == (arch.FLAT_USER_SS64, IF | CARRY | 2)
        assert (frame["rcx"], frame["r11"]) == (0xC0C0, 0x1111)
        assert guest.upcall_mask() == masks

    def test_sysenter_without_callback(self, guest: SmallDomain) -> None:
        handle(guest, GENERAL_PROTECTION)
        self.enter_compatibility_mode(guest, "GenuineIntel")
        guest.domain.traps.sysenter(guest.vcpu.cpu)
        assert guest.vcpu.cpu.registers.rip == HANDLER + GENERAL_PROTECTION
        frame = read_frame(guest, error_code=True)
        assert (frame["error"], frame["rip"], frame["cs"] & 0xFFFF) == (0, 0, 3)

    def test_sysenter_does_not_exist_on_amd(self, guest: SmallDomain) -> None:
        guest.vcpu.sysenter_callback = 1
        handle(guest, INVALID_OPCODE)
        self.enter_compatibility_mode(guest, "AuthenticAMD")
        guest.domain.traps.sysenter(guest.vcpu.cpu)
        assert guest.vcpu.cpu.registers.rip == HANDLER + INVALID_OPCODE
        assert read_frame(guest, error_code=False)["rip"] == USER_RIP

    def test_sysenter_of_the_kernel_has_no_stack(self, guest: SmallDomain) -> None:
        guest.vcpu.sysenter_callback = HANDLER
        set_vendor(guest, "GenuineIntel")
        with pytest.raises(DomainCrash, match="kernel stack"):
            guest.domain.traps.sysenter(guest.vcpu.cpu)

    def test_without_callback_is_an_invalid_opcode(self, guest: SmallDomain) -> None:
        handle(guest, INVALID_OPCODE)
        set_state(guest, user=True)
        guest.domain.traps.system_call(guest.vcpu.cpu)
        assert guest.vcpu.cpu.registers.rip == HANDLER + INVALID_OPCODE
        assert read_frame(guest, error_code=False)["rip"] == USER_RIP - 2

    def test_without_callback_and_handler_crashes(self, guest: SmallDomain) -> None:
        set_state(guest, user=True)
        with pytest.raises(DomainCrash):
            guest.domain.traps.system_call(guest.vcpu.cpu)


class TestEvents:
    def send(self, guest: SmallDomain) -> None:
        guest.vcpu.event_callback = HANDLER
        guest.domain.events.send(guest.domain.events.bind_ipi(0))

    @pytest.mark.parametrize("user", [False, True], ids=["kernel", "user"])
    def test_upcall_at_the_end_of_a_trap(self, guest: SmallDomain, user: bool) -> None:
        guest.set_upcall_mask(0)
        self.send(guest)
        set_state(guest, user=user)
        rip = guest.vcpu.cpu.registers.rip
        guest.domain.traps.return_to_guest(guest.vcpu)
        assert guest.vcpu.cpu.registers.rip == HANDLER
        assert guest.upcall_mask() == 1
        frame = read_frame(guest, error_code=False)
        assert (frame["rip"], frame["cs"] >> 32, frame["rflags"] & IF) == (rip, 0, IF)
        guest.domain.traps.return_to_guest(guest.vcpu)
        assert guest.domain.statistics().operations["upcall"] == 1

    def test_masked_upcall_waits(self, guest: SmallDomain) -> None:
        guest.set_upcall_mask(1)
        self.send(guest)
        set_state(guest, user=False)
        rip = guest.vcpu.cpu.registers.rip
        guest.domain.traps.return_to_guest(guest.vcpu)
        assert guest.vcpu.cpu.registers.rip == rip
        guest.set_upcall_mask(0)
        guest.domain.traps.return_to_guest(guest.vcpu)
        assert guest.vcpu.cpu.registers.rip == HANDLER

    def test_hypercall_ends_with_the_upcall(self, guest: SmallDomain) -> None:
        guest.set_upcall_mask(0)
        self.send(guest)
        set_state(guest, user=False)
        guest.vcpu.cpu.registers.rax = xen.HYPERVISOR_xen_version
        guest.vcpu.cpu.registers.rdi = 0
        guest.domain.traps.hypercall(guest.vcpu.cpu)
        assert guest.vcpu.cpu.registers.rip == HANDLER
        assert guest.vcpu.cpu.registers.rax == 0x40011

    def test_event_without_callback_crashes(self, guest: SmallDomain) -> None:
        guest.set_upcall_mask(0)
        self.send(guest)
        guest.vcpu.event_callback = 0
        with pytest.raises(DomainCrash, match="no callback"):
            guest.domain.traps.return_to_guest(guest.vcpu)

    def test_event_comes_on_top_of_an_exception(self, guest: SmallDomain) -> None:
        """Its frame returns to the first instruction of the exception's handler."""
        guest.set_upcall_mask(0)
        handle(guest, 0)
        self.send(guest)
        set_state(guest, user=True)
        guest.domain.traps.exception(guest.vcpu.cpu, 0, 0, False)
        frame = read_frame(guest, error_code=False)
        assert (frame["rip"], frame["cs"]) == (HANDLER, arch.FLAT_KERNEL_CS & ~3)
        assert frame["rsp"] == guest.vcpu.kernel_sp - 56

    def test_exception_that_masks_holds_events_back(self, guest: SmallDomain) -> None:
        guest.set_upcall_mask(0)
        handle(guest, 1, arch.TI_IF_MASK)
        self.send(guest)
        set_state(guest, user=True)
        guest.domain.traps.exception(guest.vcpu.cpu, 1, 0, False)
        assert guest.vcpu.cpu.registers.rip == HANDLER + 1


class TestNmi:
    def iret(self, guest: SmallDomain) -> None:
        frame = arch.IRET_CONTEXT.pack(
            0, 0, 0, 0, USER_RIP, arch.FLAT_KERNEL_CS & ~3, IF, guest.vcpu.kernel_sp - 0x400,
            arch.FLAT_KERNEL_SS,
        )  # fmt: skip
        registers = guest.vcpu.cpu.registers
        registers.rsp = guest.write(guest.address(STACK) + 0x100, frame)
        registers.rax = xen.HYPERVISOR_iret
        guest.domain.traps.hypercall(guest.vcpu.cpu)

    def test_masked_events_do_not_hold_it_back(self, guest: SmallDomain) -> None:
        handle(guest, NMI, arch.TI_IF_MASK)
        guest.set_upcall_mask(1)
        set_state(guest, user=False)
        guest.vcpu.raise_nmi()
        guest.domain.traps.return_to_guest(guest.vcpu)
        assert guest.vcpu.cpu.registers.rip == HANDLER + NMI
        assert read_frame(guest, error_code=False)["cs"] >> 32 == 1

    def test_the_next_one_waits_for_iret(self, guest: SmallDomain) -> None:
        handle(guest, NMI, arch.TI_IF_MASK)
        set_state(guest, user=False)
        for _ in range(3):  # the second and the third are one
            guest.vcpu.raise_nmi()
            guest.domain.traps.return_to_guest(guest.vcpu)
        assert guest.domain.statistics().operations["nmi"] == 1
        self.iret(guest)
        assert guest.vcpu.cpu.registers.rip == HANDLER + NMI
        assert read_frame(guest, error_code=False)["rip"] == USER_RIP
        self.iret(guest)
        assert guest.vcpu.cpu.registers.rip == USER_RIP
        assert guest.domain.statistics().operations["nmi"] == 2

    def test_without_handler_it_is_lost(self, guest: SmallDomain) -> None:
        set_state(guest, user=False)
        guest.vcpu.raise_nmi()
        rip = guest.vcpu.cpu.registers.rip
        guest.domain.traps.return_to_guest(guest.vcpu)
        assert guest.vcpu.cpu.registers.rip == rip
        handle(guest, NMI)
        guest.domain.traps.return_to_guest(guest.vcpu)
        assert guest.vcpu.cpu.registers.rip == rip

    def test_wakes_a_vcpu_that_is_blocked(self, guest: SmallDomain) -> None:
        guest.vcpu.block()
        guest.vcpu.raise_nmi()
        assert guest.vcpu.runnable
