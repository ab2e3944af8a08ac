# SPDX-License-Identifier: GPL-2.0-or-later
"""Selectors that Xen loads: the way back from a trap, vCPUs that take turns, the LDT."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from small_domain import FREE, SCRATCH, STACK, USER_L4, SmallDomain

from pyxen.abi import arch_x86_64 as arch
from pyxen.abi import xen
from pyxen.engine.registers import CS, DS, ES, FS, GS, SS
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.emulate.far import emulate_far
from pyxen.hypervisor.memory import PER_DOMAIN_VIRT_START
from pyxen.hypervisor.page_flags import ENTRIES, PAGE_SIZE, PRESENT, RW
from pyxen.hypervisor.segments import SegmentFault, check_code, check_data, find_descriptor
from pyxen.hypervisor.traps import PAGE_FAULT
from pyxen.hypervisor.vcpu import CR2, Vcpu

HANDLER = 0xFFFFFFFF81001000
FAILSAFE = 0xFFFFFFFF81009000
NO_SEGMENT, STACK_ERROR, GENERAL_PROTECTION = 11, 12, 13
IF = 0x200
RIP, RSP = 0x401000, 0x7FF0
GDT = FREE
LDT = SCRATCH
"""The page after it is one of the LDT, too."""

CODE64 = 0x00AFFB000000FFFF
CODE32 = 0x00CFFB000000FFFF
CODE32_AT_4000 = 0x00CFFB004000FFFF
CODE_SMALL = 0x0040FB0000000FFF
CONFORMING_0 = 0x00AF9F000000FFFF
DATA = 0x00CFF3000000FFFF
READ_ONLY = 0x00CFF1000000FFFF
EXECUTE_ONLY = 0x00AFF9000000FFFF
BOTH_SIZES = 0x00EFFB000000FFFF
ABSENT = ~(1 << 47)

DESCRIPTORS = {
    1: CODE64,
    2: CODE32,
    3: DATA,
    4: READ_ONLY,
    5: EXECUTE_ONLY,
    6: CODE64 & ABSENT,
    7: DATA & ABSENT,
    8: CODE32_AT_4000,
    9: BOTH_SIZES,
    10: CODE_SMALL,
}
(C64, C32, DATA_SEL, RO, XO, C_ABSENT, D_ABSENT, C32_BASE, C_BOTH, C_SMALL) = (
    number << 3 | 3 for number in DESCRIPTORS
)
USER_SS = arch.FLAT_RING3_SS64


@pytest.fixture
def guest(guest: SmallDomain) -> SmallDomain:
    """With a GDT, a user page table, and handlers for all exceptions."""
    set_up(guest)
    return guest


def set_up(guest: SmallDomain) -> None:
    for number, descriptor in DESCRIPTORS.items():
        guest.memory.words[guest.mfn(GDT) * ENTRIES + number] = descriptor
    frames = guest.put(guest.mfn(GDT).to_bytes(8, "little"))
    assert guest.call(xen.HYPERVISOR_set_gdt, frames, ENTRIES) == 0
    mmuext(guest, xen.MMUEXT_NEW_USER_BASEPTR, guest.mfn(USER_L4))
    for vector in range(32):
        guest.vcpu.trap_address[vector] = HANDLER + vector


def mmuext(guest: SmallDomain, command: int, first: int, second: int = 0) -> None:
    pointer = guest.put_struct(xen.MMUEXT_OP, command, first, second, offset=0x200)
    assert guest.call(xen.HYPERVISOR_mmuext_op, pointer, 1, 0, xen.DOMID_SELF) == 0


def iret(guest: SmallDomain, cs: int, ss: int = USER_SS, rip: int = RIP) -> None:
    frame = arch.IRET_CONTEXT.pack(1, 2, 3, 0, rip, cs, IF | 1, RSP, ss)
    registers = guest.vcpu.cpu.registers
    registers.rsp = guest.write(guest.address(STACK) + 0x100, frame)
    registers.rax = xen.HYPERVISOR_iret
    guest.domain.traps.hypercall(guest.vcpu.cpu)


def frame_of(guest: SmallDomain) -> tuple[int, ...]:
    """error code, rip, cs, rflags, rsp, ss"""
    words = struct.unpack("<8Q", guest.read(guest.vcpu.cpu.registers.rsp, 64))
    return words[2], words[3], words[4] & 0xFFFF, *words[5:]


class TestReturn:
    @pytest.mark.parametrize(
        ("cs", "long_mode"), [(C64, True), (arch.FLAT_USER_CS64, True), (C32, False)]
    )
    def test_usual_segments_are_not_loaded_one_by_one(
        self, guest: SmallDomain, cs: int, long_mode: bool
    ) -> None:
        iret(guest, cs, DATA_SEL)
        cpu = guest.engine.cpus[0]
        assert (cpu.registers.cs, cpu.registers.ss) == (cs, DATA_SEL)
        assert (cpu.long_mode, cpu.user_mode, cpu.segments) == (long_mode, True, {})
        assert guest.upcall_mask() == 0

    @pytest.mark.parametrize(("cs", "descriptor"), [(C32_BASE, CODE32_AT_4000), (XO, EXECUTE_ONLY)])
    def test_others_are(self, guest: SmallDomain, cs: int, descriptor: int) -> None:
        iret(guest, cs)
        cpu = guest.engine.cpus[0]
        assert (cpu.registers.rip, cpu.registers.cs, cpu.user_mode) == (RIP, cs, True)
        if cs == C32_BASE:
            assert cpu.segments[CS] == descriptor
        assert cpu.long_mode == (cs == XO)

    @pytest.mark.parametrize(
        ("cs", "ss", "vector", "error_code"),
        [
            (3, USER_SS, GENERAL_PROTECTION, 0),
            (C64, 0, GENERAL_PROTECTION, 0),
            (DATA_SEL, USER_SS, GENERAL_PROTECTION, DATA_SEL & ~3),
            (0x6F3, USER_SS, GENERAL_PROTECTION, 0x6F0),
            (0xE00B, USER_SS, GENERAL_PROTECTION, 0xE008),  # Xen's own, of ring 0
            (0xFFFF, USER_SS, GENERAL_PROTECTION, 0xFFFC),
            (0xF003, USER_SS, GENERAL_PROTECTION, 0xF000),
            (C_BOTH, USER_SS, GENERAL_PROTECTION, C_BOTH & ~3),
            (C_ABSENT, USER_SS, NO_SEGMENT, C_ABSENT & ~3),
            (0xF, USER_SS, GENERAL_PROTECTION, 0xC),  # there is no LDT
            (C64, C64, GENERAL_PROTECTION, C64 & ~3),
            (C64, RO, GENERAL_PROTECTION, RO & ~3),
            (C64, D_ABSENT, STACK_ERROR, D_ABSENT & ~3),
            (C64, 0xFFF3, GENERAL_PROTECTION, 0xFFF0),
            (C64, 0x1F, GENERAL_PROTECTION, 0x1C),
        ],
    )
    def test_bad_selectors_are_an_exception_at_the_target(
        self, guest: SmallDomain, cs: int, ss: int, vector: int, error_code: int
    ) -> None:
        iret(guest, cs, ss)
        cpu = guest.vcpu.cpu
        assert cpu.registers.rip == HANDLER + vector
        assert not cpu.user_mode
        assert frame_of(guest) == (error_code, RIP, cs, IF | 2 | 1, RSP, ss | 3)
        assert cpu.registers.rsp == guest.vcpu.kernel_sp - 64
        assert guest.domain.statistics().operations["return_fault"] == 1

    def test_bad_selectors_of_the_kernel(self, guest: SmallDomain) -> None:
        frame = arch.IRET_CONTEXT.pack(1, 2, 3, 0, RIP, DATA_SEL & ~3, IF, RSP, USER_SS)
        stack = guest.address(STACK) + 0xF00
        frame = frame.replace(struct.pack("<Q", RSP), struct.pack("<Q", stack))
        registers = guest.vcpu.cpu.registers
        registers.rsp = guest.write(guest.address(STACK) + 0x100, frame)
        registers.rax = xen.HYPERVISOR_iret
        guest.domain.traps.hypercall(guest.vcpu.cpu)
        assert registers.rip == HANDLER + GENERAL_PROTECTION
        error_code, rip, cs, *_ = frame_of(guest)
        assert (error_code, rip, cs) == (DATA_SEL & ~3, RIP, DATA_SEL & ~3)
        assert registers.rsp == stack - 64

    @pytest.mark.parametrize(
        ("cs", "rip"), [(C_SMALL, 0x1000), (C32, 1 << 32), (C32_BASE, 1 << 40)]
    )
    def test_rip_beyond_the_segment(self, guest: SmallDomain, cs: int, rip: int) -> None:
        iret(guest, cs, rip=rip)
        assert guest.vcpu.cpu.registers.rip == HANDLER + GENERAL_PROTECTION
        assert frame_of(guest)[:3] == (0, rip, cs)

    @pytest.mark.parametrize("cs", [C64, arch.FLAT_KERNEL_CS & ~3])
    def test_rip_that_is_not_canonical(self, guest: SmallDomain, cs: int) -> None:
        guest.vcpu.cpu.registers.rsp = guest.address(STACK) + 0x400
        frame = arch.IRET_CONTEXT.pack(
            1, 2, 3, 0, 1 << 47, cs, IF, guest.address(STACK) + 0x800, USER_SS
        )
        registers = guest.vcpu.cpu.registers
        registers.rsp = guest.write(guest.address(STACK) + 0x100, frame)
        registers.rax = xen.HYPERVISOR_iret
        guest.domain.traps.hypercall(guest.vcpu.cpu)
        assert registers.rip == HANDLER + GENERAL_PROTECTION
        assert frame_of(guest)[:3] == (0, 1 << 47, cs)

    def test_rip_at_the_end_of_the_segment(self, guest: SmallDomain) -> None:
        iret(guest, C_SMALL, rip=0xFFF)
        assert guest.vcpu.cpu.user_mode


class TestLdt:
    def set_ldt(self, guest: SmallDomain, entries: int = 1024, base: int | None = None) -> None:
        """Two pages, the first with our descriptors; read-only in the guest from then on."""
        for number, descriptor in DESCRIPTORS.items():
            guest.memory.words[guest.mfn(LDT) * ENTRIES + number] = descriptor
        for pfn in (LDT, LDT + 1):
            entry = guest.mfn(pfn) * PAGE_SIZE | PRESENT
            assert guest.call(xen.HYPERVISOR_update_va_mapping, guest.address(pfn), entry, 1) == 0
        scratch = guest.address(LDT + 2)
        guest.write(
            scratch,
            xen.MMUEXT_OP.pack(
                xen.MMUEXT_SET_LDT, guest.address(LDT) if base is None else base, entries
            ),
        )
        assert guest.call(xen.HYPERVISOR_mmuext_op, scratch, 1, 0, xen.DOMID_SELF) == 0

    def test_the_cpu_is_told_where_it_is(self, guest: SmallDomain) -> None:
        self.set_ldt(guest, 17)
        base = PER_DOMAIN_VIRT_START + 16 * PAGE_SIZE
        assert guest.engine.cpus[0].local_descriptor_table == (base, 17 * 8 - 1)
        self.set_ldt(guest, 0)
        assert guest.engine.cpus[0].local_descriptor_table == (base, 0)

    def test_return_to_a_segment_of_the_ldt(self, guest: SmallDomain) -> None:
        self.set_ldt(guest)
        iret(guest, C32_BASE | 4, DATA_SEL | 4)
        cpu = guest.engine.cpus[0]
        assert cpu.segments == {CS: CODE32_AT_4000, SS: DATA}
        assert cpu.user_mode
        assert not cpu.long_mode

    def test_beyond_its_end(self, guest: SmallDomain) -> None:
        self.set_ldt(guest, 3)
        assert find_descriptor(guest.vcpu, 2 << 3 | 4) == CODE32
        assert find_descriptor(guest.vcpu, 3 << 3 | 4) == 0

    def fault(self, guest: SmallDomain, offset: int, error_code: int = 0) -> None:
        """The CPU has looked for a descriptor."""
        cpu = guest.vcpu.cpu
        cpu.enter_user(C64, USER_SS, long_mode=True)
        cpu.registers.rip, cpu.registers.rsp = RIP, RSP
        cpu.registers.cr2 = PER_DOMAIN_VIRT_START + 16 * PAGE_SIZE + offset
        guest.domain.traps.exception(cpu, PAGE_FAULT, error_code, False)

    def test_page_is_mapped_when_it_is_used(self, guest: SmallDomain) -> None:
        self.set_ldt(guest)
        entry = guest.memory.gdt_entries + 17
        assert guest.memory.words[entry] == 0
        self.fault(guest, 4096 + 12)
        assert guest.vcpu.cpu.registers.rip == RIP
        assert guest.memory.words[entry] >> 12 & 0xFFFFFFFFFF == guest.mfn(LDT + 1)
        assert guest.memory.words[entry] & (PRESENT | RW) == PRESENT
        assert guest.domain.statistics().traps["ldt_fault"][0] == 1

    def test_page_that_is_not_mapped_is_a_page_fault_there(self, guest: SmallDomain) -> None:
        base = guest.address(40)
        self.set_ldt(guest, base=base)
        self.fault(guest, 28)
        assert guest.vcpu.cpu.registers.rip == HANDLER + PAGE_FAULT
        assert guest.memory.words[(guest.vcpu.info + CR2) >> 3] == base + 28
        assert frame_of(guest)[:2] == (4, RIP)

    def test_return_to_a_page_that_is_not_mapped(self, guest: SmallDomain) -> None:
        base = guest.address(40)
        self.set_ldt(guest, base=base)
        iret(guest, 0xF)
        assert guest.vcpu.cpu.registers.rip == HANDLER + PAGE_FAULT
        assert guest.memory.words[(guest.vcpu.info + CR2) >> 3] == base + 8

    def test_page_that_would_not_be_canonical(self, guest: SmallDomain) -> None:
        self.set_ldt(guest, base=0x7FFF_FFFF_F000)
        self.fault(guest, 4096 + 16)
        assert guest.vcpu.cpu.registers.rip == HANDLER + GENERAL_PROTECTION
        assert frame_of(guest)[0] == 4096 + 16 | 4

    @pytest.mark.parametrize(
        ("offset", "error_code"), [(0, 4), (1024 * 8, 0), (-16 * PAGE_SIZE, 0), (0, 1)]
    )
    def test_other_accesses_to_the_area_are_page_faults(
        self, guest: SmallDomain, offset: int, error_code: int
    ) -> None:
        """By the program itself; beyond the LDT; in the GDT; to a page that is there."""
        self.set_ldt(guest)
        self.fault(guest, offset, error_code)
        assert guest.vcpu.cpu.registers.rip == HANDLER + PAGE_FAULT
        address = PER_DOMAIN_VIRT_START + 16 * PAGE_SIZE + offset
        assert guest.memory.words[(guest.vcpu.info + CR2) >> 3] == address

    def test_user_gs_by_a_selector_of_the_ldt(self, guest: SmallDomain) -> None:
        self.set_ldt(guest)
        call = xen.HYPERVISOR_set_segment_base
        assert guest.call(call, arch.SEGBASE_GS_USER_SEL, C32_BASE & ~3 | 4) == 0
        assert guest.vcpu.cpu.registers.gs == C32_BASE | 4
        assert guest.vcpu.cpu.inactive_gs_base == 0x4000


class TestData:
    @pytest.mark.parametrize("selector", [0, 1, 2, 3])
    def test_null(self, guest: SmallDomain, selector: int) -> None:
        assert check_data(guest.vcpu, selector) == 0

    @pytest.mark.parametrize("selector", [DATA_SEL, RO, C64, DATA_SEL & ~3])
    def test_good(self, guest: SmallDomain, selector: int) -> None:
        assert check_data(guest.vcpu, selector) == DESCRIPTORS[selector >> 3]

    @pytest.mark.parametrize(
        ("selector", "vector"),
        [
            (XO, GENERAL_PROTECTION),
            (0x7F3, GENERAL_PROTECTION),
            (0xE013, GENERAL_PROTECTION),
            (D_ABSENT, NO_SEGMENT),
        ],
    )
    def test_bad(self, guest: SmallDomain, selector: int, vector: int) -> None:
        with pytest.raises(SegmentFault) as caught:
            check_data(guest.vcpu, selector)
        assert (caught.value.vector, caught.value.error_code) == (vector, selector & ~3)

    def test_xens_data_of_ring_0_with_rpl_0(self, guest: SmallDomain) -> None:
        """Xen loads it in ring 0, where this is permitted."""
        assert check_data(guest.vcpu, 0xE010) == 0x00CF93000000FFFF

    def test_conforming_code_of_ring_0_can_run(self, guest: SmallDomain) -> None:
        number = 11
        guest.memory.words[guest.mfn(GDT) * ENTRIES + number] = CONFORMING_0
        assert check_code(guest.vcpu, number << 3 | 3) == CONFORMING_0


class TestTurns:
    """What happens to the segments of a vCPU that gets the processor after another one."""

    def switch(self, guest: SmallDomain) -> Vcpu:
        """To the second vCPU and back."""
        second = guest.domain.vcpus[1]
        second.up = True
        guest.domain.traps.return_to_guest(second)
        guest.domain.traps.return_to_guest(guest.vcpu)
        return guest.vcpu

    def prepare(self, guest: SmallDomain, *, user: bool) -> None:
        set_up(guest)
        vcpu = guest.vcpu
        vcpu.failsafe_callback = FAILSAFE
        if user:
            vcpu.cpu.enter_user(C64, USER_SS, long_mode=True)
        registers = vcpu.cpu.registers
        registers.rip, registers.rcx, registers.r11 = RIP, 0xC, 0xB
        registers.rsp = RSP if user else guest.address(STACK) + 0x808
        registers.rflags = IF | 0x10103
        guest.set_upcall_mask(1)

    def test_good_ones_are_loaded_again(self, guest2: SmallDomain) -> None:
        self.prepare(guest2, user=True)
        registers = guest2.vcpu.cpu.registers
        registers.ds, registers.fs, registers.gs = C32_BASE, DATA_SEL, 3
        registers.fs_base, registers.gs_base = 0x77, 0x88
        self.switch(guest2)
        cpu = guest2.engine.cpus[0]
        assert registers.rip == RIP
        assert cpu.segments[DS] == CODE32_AT_4000
        assert cpu.segments[FS] == DATA
        assert (registers.fs_base, registers.gs_base, registers.gs) == (0x77, 0x88, 3)

    def test_nothing_happens_without_a_switch(self, guest2: SmallDomain) -> None:
        self.prepare(guest2, user=True)
        guest2.vcpu.cpu.registers.ds = 0x7F3
        guest2.domain.traps.return_to_guest(guest2.vcpu)
        assert guest2.vcpu.cpu.registers.ds == 0x7F3

    @pytest.mark.parametrize("user", [False, True], ids=["kernel", "user"])
    @pytest.mark.parametrize("masks", [False, True])
    @pytest.mark.parametrize("position", [DS, ES, FS, GS])
    def test_stale_one_calls_failsafe(
        self, guest2: SmallDomain, user: bool, masks: bool, position: int
    ) -> None:
        self.prepare(guest2, user=user)
        vcpu = guest2.vcpu
        vcpu.failsafe_masks_events = masks
        guest2.set_upcall_mask(0)
        registers = vcpu.cpu.registers
        registers.fs_base = 0x77
        for number, segment in enumerate((DS, ES, FS, GS)):
            registers.words[segment] = number
        registers.words[position] = 0x7F3
        old_rsp, old_flags = registers.rsp, registers.rflags
        self.switch(guest2)
        assert registers.rip == FAILSAFE
        assert (registers.cs, registers.ss) == (arch.FLAT_KERNEL_CS, arch.FLAT_KERNEL_SS)
        top = vcpu.kernel_sp if user else old_rsp & ~15
        assert registers.rsp == top - 88
        frame = struct.unpack("<11Q", guest2.read(registers.rsp, 88))
        selectors = [0x7F3 if each == position else n for n, each in enumerate((DS, ES, FS, GS))]
        cs = C64 if user else arch.FLAT_KERNEL_CS & ~3
        assert frame == (0xC, 0xB, *selectors, RIP, cs, old_flags, old_rsp, USER_SS)
        assert registers.words[position] == 0
        assert registers.fs_base == 0x77
        assert registers.rflags == IF | 3
        assert guest2.upcall_mask() == masks
        assert guest2.domain.statistics().operations["failsafe"] == 1

    def test_without_a_stack_it_crashes(self, guest2: SmallDomain) -> None:
        self.prepare(guest2, user=True)
        guest2.vcpu.kernel_sp = guest2.address(40)
        guest2.vcpu.cpu.registers.ds = 0x7F3
        with pytest.raises(DomainCrash, match="kernel stack"):
            self.switch(guest2)

    def test_code_segment_that_is_gone(self, guest2: SmallDomain) -> None:
        self.prepare(guest2, user=True)
        guest2.vcpu.cpu.registers.cs = C_ABSENT
        self.switch(guest2)
        assert guest2.vcpu.cpu.registers.rip == HANDLER + NO_SEGMENT
        assert frame_of(guest2)[:3] == (C_ABSENT & ~3, RIP, C_ABSENT)

    def test_failsafe_frame_is_below_that_of_an_event(self, guest2: SmallDomain) -> None:
        self.prepare(guest2, user=True)
        guest2.set_upcall_mask(0)
        guest2.vcpu.cpu.registers.es = 0x7F3
        guest2.domain.events.send(guest2.domain.events.bind_ipi(0))
        guest2.domain.traps.return_to_guest(guest2.vcpu)  # delivered without a switch
        guest2.take_events()
        guest2.domain.events.send(guest2.domain.events.bind_ipi(0))
        guest2.set_upcall_mask(0)
        self.switch(guest2)
        words = struct.unpack("<4Q", guest2.read(guest2.vcpu.cpu.registers.rsp, 32))
        assert words[2] == FAILSAFE


class TestFarInstructions:
    """At a #GP in kernel mode."""

    @pytest.fixture
    def run(self, guest: SmallDomain) -> Callable[..., None]:
        def run(code: str, **registers: int) -> None:
            data = bytes.fromhex(code)
            guest.put(data)
            for name, value in registers.items():
                setattr(guest.vcpu.cpu.registers, name, value)
            guest.vcpu.cpu.registers.rip = guest.address(SCRATCH)
            guest.domain.traps.exception(guest.vcpu.cpu, GENERAL_PROTECTION, 0x10, False)

        return run

    def test_mov_ss(self, guest: SmallDomain, run: Callable[..., None]) -> None:
        run("8ed0", rax=DATA_SEL)
        registers = guest.vcpu.cpu.registers
        assert (registers.ss, registers.rip) == (DATA_SEL, guest.address(SCRATCH) + 2)
        assert guest.engine.cpus[0].segments == {SS: DATA}

    @pytest.mark.parametrize(
        ("selector", "error_code"), [(0, 0), (3, 0), (DATA_SEL & ~3, DATA_SEL & ~3), (RO, RO & ~3)]
    )
    def test_mov_ss_refused(
        self, guest: SmallDomain, run: Callable[..., None], selector: int, error_code: int
    ) -> None:
        run("8ed0", rax=selector, rsp=guest.address(STACK) + 0x800)
        registers = guest.vcpu.cpu.registers
        assert registers.rip == HANDLER + GENERAL_PROTECTION
        assert frame_of(guest)[:2] == (error_code, guest.address(SCRATCH))
        assert registers.ss == arch.FLAT_KERNEL_SS

    @pytest.mark.parametrize(
        ("code", "size", "extra"),
        [("48cb", 8, 0), ("cb", 4, 0), ("66cb", 2, 0), ("48ca1000", 8, 16)],
    )
    def test_far_return(
        self, guest: SmallDomain, run: Callable[..., None], code: str, size: int, extra: int
    ) -> None:
        stack = guest.address(STACK) + 0x400
        guest.write(stack, (0x1234).to_bytes(size, "little") + C64.to_bytes(size, "little"))
        run(code, rsp=stack)
        registers = guest.vcpu.cpu.registers
        assert (registers.rip, registers.cs) == (0x1234, C64)
        assert registers.rsp == stack + 2 * size + extra

    def test_far_return_to_the_level_of_xen(
        self, guest: SmallDomain, run: Callable[..., None]
    ) -> None:
        stack = guest.address(STACK) + 0x400
        guest.write(stack, struct.pack("<QQ", 0x1234, 0xE008))
        run("48cb", rsp=stack)
        assert guest.vcpu.cpu.registers.rip == HANDLER + GENERAL_PROTECTION
        assert frame_of(guest)[0] == 0xE008

    @pytest.mark.parametrize("code", ["48ff2f", "48ff1f"], ids=["jump", "call"])
    def test_far_jump_and_call(
        self, guest: SmallDomain, run: Callable[..., None], code: str
    ) -> None:
        pointer = guest.write(guest.address(STACK) + 0x600, struct.pack("<QH", 0x5678, C64 & ~3))
        stack = guest.address(STACK) + 0x400
        run(code, rdi=pointer, rsp=stack)
        registers = guest.vcpu.cpu.registers
        assert (registers.rip, registers.cs) == (0x5678, C64)
        if code == "48ff2f":
            assert registers.rsp == stack
        else:
            assert registers.rsp == stack - 16
            back = (guest.address(SCRATCH) + 3, arch.FLAT_KERNEL_CS)
            assert struct.unpack("<QQ", guest.read(stack - 16, 16)) == back

    @pytest.mark.parametrize("code", ["48cb", "48ff2f", "48ff1f", "8e17"])
    def test_memory_that_is_not_there(
        self, guest: SmallDomain, run: Callable[..., None], code: str
    ) -> None:
        missing = guest.address(40)
        guest.set_upcall_mask(0)
        with_stack = {"rsp": missing} if code == "48cb" else {"rsp": guest.address(STACK) + 0x800}
        if code == "48cb":
            with pytest.raises(DomainCrash):  # the page fault has no stack either
                run(code, rdi=missing, **with_stack)
            return
        run(code, rdi=missing, **with_stack)
        assert guest.vcpu.cpu.registers.rip == HANDLER + PAGE_FAULT
        assert guest.memory.words[(guest.vcpu.info + CR2) >> 3] == missing

    def test_target_that_is_not_canonical(
        self, guest: SmallDomain, run: Callable[..., None]
    ) -> None:
        stack = guest.address(STACK) + 0x400
        guest.write(stack, struct.pack("<QQ", 1 << 50, C64))
        run("48cb", rsp=stack)
        assert guest.vcpu.cpu.registers.rip == HANDLER + GENERAL_PROTECTION
        assert frame_of(guest)[0] == 0

    @pytest.mark.parametrize("code", ["", "90", "0f0b", "8ed8", "ffff", "0f00d8", "cf"])
    def test_other_instructions_are_left_alone(self, guest: SmallDomain, code: str) -> None:
        assert not emulate_far(guest.vcpu, bytes.fromhex(code))

    def test_programs_do_it_themselves(self, guest: SmallDomain, run: Callable[..., None]) -> None:
        guest.vcpu.cpu.enter_user(C64, USER_SS, long_mode=True)
        run("8ed0", rax=DATA_SEL)
        assert guest.vcpu.cpu.registers.rip == HANDLER + GENERAL_PROTECTION
        assert guest.vcpu.cpu.user_mode is False
