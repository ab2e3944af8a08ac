# SPDX-License-Identifier: GPL-2.0-or-later
"""Ports: who may use them, what they give, and what happens at bad memory."""

from __future__ import annotations

import pytest
from small_domain import (
    BASE,
    FREE,
    NOT_MAPPED,
    SCRATCH,
    STACK,
    TABLE,
    USER_L4,
    SmallDomain,
)

from pyxen.abi import arch_x86_64 as arch
from pyxen.abi import physdev, xen
from pyxen.hypervisor.page_flags import PAGE_SIZE, USER
from pyxen.hypervisor.traps import DEBUG, GENERAL_PROTECTION, PAGE_FAULT

CODE = BASE + SCRATCH * PAGE_SIZE
DATA = CODE + 0x800
BITMAP = CODE + PAGE_SIZE
HANDLER = 0xFFFFFFFF81001000
TF = 1 << 8


def run(guest: SmallDomain, code: str, *, user: bool = False, **registers: int) -> str:
    """Let the guest meet #GP at this instruction; returns "done" or what it got instead."""
    vcpu = guest.vcpu
    for vector in (DEBUG, GENERAL_PROTECTION, PAGE_FAULT):
        vcpu.trap_address[vector] = HANDLER + vector
    data = bytes.fromhex(code)
    guest.put(data)
    if user:
        enter_user(guest)
    cpu = vcpu.cpu
    cpu.registers.rip = CODE
    cpu.registers.rsp = guest.address(STACK) + 0x800
    for name, value in registers.items():
        setattr(cpu.registers, name, value)
    guest.domain.traps.exception(cpu, GENERAL_PROTECTION, 0, False)
    if cpu.registers.rip == CODE + len(data):
        return "done"
    return {HANDLER + 1: "db", HANDLER + 13: "gp", HANDLER + 14: "pf"}[cpu.registers.rip]


def enter_user(guest: SmallDomain) -> None:
    """User tables that map the kernel's addresses, scratch pages for all."""
    guest.set_entry(USER_L4, BASE >> 39 & 511, guest.mfn(FREE), TABLE | USER)
    guest.set_entry(FREE, BASE >> 30 & 511, guest.mfn(FREE + 1), TABLE | USER)
    guest.set_entry(FREE + 1, BASE >> 21 & 511, guest.mfn(FREE + 2), TABLE | USER)
    for pfn in (SCRATCH, SCRATCH + 1):
        guest.set_entry(FREE + 2, pfn, guest.mfn(pfn), TABLE | USER)
    guest.set_entry(FREE + 2, STACK, guest.mfn(STACK), TABLE)
    guest.vcpu.cpu.load_user_page_table(guest.maddr(USER_L4))
    guest.vcpu.cpu.enter_user(arch.FLAT_USER_CS64, arch.FLAT_USER_SS64, long_mode=True)


def set_iopl(guest: SmallDomain, iopl: int) -> None:
    argument = guest.put_struct(physdev.PHYSDEV_SET_IOPL, iopl)
    assert guest.call(xen.HYPERVISOR_physdev_op, physdev.PHYSDEVOP_set_iopl, argument) == 0


def set_bitmap(guest: SmallDomain, permitted: set[int], ports: int, address: int = BITMAP) -> int:
    bits = bytearray(b"\xff" * 1024)
    for port in permitted:
        bits[port // 8] &= ~(1 << port % 8)
    guest.write(BITMAP, bytes(bits))
    argument = guest.put_struct(physdev.PHYSDEV_SET_IOBITMAP, address, ports)
    return guest.call(xen.HYPERVISOR_physdev_op, physdev.PHYSDEVOP_set_iobitmap, argument)


@pytest.mark.parametrize("user", [False, True])
@pytest.mark.parametrize("iopl", range(4))
def test_iopl_permits_ports(guest: SmallDomain, iopl: int, user: bool) -> None:
    set_iopl(guest, iopl)
    permitted = iopl >= (3 if user else 1)
    assert run(guest, "e460", user=user, rax=0x1100) == ("done" if permitted else "gp")
    assert guest.vcpu.cpu.registers.rax == (0x11FF if permitted else 0x1100)


def test_architectural_iopl_makes_the_kernel_ring_0(guest: SmallDomain) -> None:
    guest.call(xen.HYPERVISOR_vm_assist, 0, xen.VMASST_TYPE_architectural_iopl)
    assert run(guest, "ed", rdx=0x60, rax=0) == "done"
    assert guest.vcpu.cpu.registers.rax == 0xFFFFFFFF


def test_engine_knows_for_whom_ports_need_no_trap(guest: SmallDomain) -> None:
    cpu = guest.engine.cpus[0]
    seen = []
    for iopl in range(4):
        set_iopl(guest, iopl)
        seen.append(cpu.empty_ports)
    assert seen == [(False, False), (True, False), (True, False), (True, True)]
    set_iopl(guest, 0)
    guest.call(xen.HYPERVISOR_vm_assist, 0, xen.VMASST_TYPE_architectural_iopl)
    assert cpu.empty_ports == (True, False)
    guest.vcpu.load_cr4(8)
    assert guest.call(xen.HYPERVISOR_set_debugreg, 7, 1 | 2 << 16) == 0  # a breakpoint on a port
    assert cpu.empty_ports == (False, False)
    assert guest.call(xen.HYPERVISOR_set_debugreg, 7, 2 << 16) == 0
    assert cpu.empty_ports == (True, False)


@pytest.mark.parametrize("user", [False, True])
def test_bitmap_permits_ports(guest: SmallDomain, user: bool) -> None:
    assert set_bitmap(guest, {0x60, 0x67, 0x68, 0x3FF}, 0x400) == 0
    assert run(guest, "e460", user=user) == "done"
    assert run(guest, "e461", user=user) == "gp"
    # Two ports, in two bytes of the bitmap.
    assert run(guest, "66ed", user=user, rdx=0x67) == "done"
    assert run(guest, "66ed", user=user, rdx=0x68) == "gp"
    assert run(guest, "ec", user=user, rdx=0x3FF) == "done"
    # Beyond the number of ports that was named.
    assert set_bitmap(guest, {0x3FF}, 0x3FF) == 0
    assert run(guest, "ec", user=user, rdx=0x3FF) == "gp"


def test_bitmap_that_cannot_be_read_permits_nothing(guest: SmallDomain) -> None:
    assert set_bitmap(guest, {0}, 0x400, NOT_MAPPED) == 0
    assert run(guest, "e400") == "gp"
    # The end of the mapping: ports are permitted by the byte that can be read, and only if the
    # access needs no other.
    end = BASE + 9 * PAGE_SIZE
    guest.write(end - 1, b"\0")
    assert set_bitmap(guest, set(), 0x400, end - 1) == 0
    assert run(guest, "e407") == "done"
    assert run(guest, "66e507") == "gp"


def test_bad_bitmaps_are_refused(guest: SmallDomain) -> None:
    assert set_bitmap(guest, set(), 65537) == -22
    assert set_bitmap(guest, set(), 8, 0xFFFF_8000_0000_0000) == -22
    assert (guest.vcpu.io_bitmap, guest.vcpu.io_bitmap_ports) == (0, 0)


def test_string_input_writes_all_ones(guest: SmallDomain) -> None:
    set_iopl(guest, 3)
    assert run(guest, "f36c", user=True, rdi=DATA, rcx=4, rdx=0x60) == "done"
    assert guest.read(DATA, 5) == b"\xff\xff\xff\xff\0"
    assert guest.vcpu.cpu.registers.rcx == 0


def test_string_input_makes_translated_code_void(guest: SmallDomain) -> None:
    set_iopl(guest, 1)
    guest.memory.code_frames[guest.mfn(SCRATCH)] = 1
    assert run(guest, "6c", rdi=DATA, rdx=0x60) == "done"
    assert not guest.memory.code_frames[guest.mfn(SCRATCH)]
    assert guest.engine.invalidated[-1] == (guest.maddr(SCRATCH), PAGE_SIZE)


@pytest.mark.parametrize(
    ("code", "register", "address", "user", "error", "where"),
    [
        ("6c", "rdi", NOT_MAPPED, False, 2, NOT_MAPPED),
        ("6e", "rsi", NOT_MAPPED, False, 0, NOT_MAPPED),
        ("6d", "rdi", BASE + 9 * PAGE_SIZE - 2, False, 2, BASE + 9 * PAGE_SIZE),
        # The kernel's page, from user mode.
        ("6c", "rdi", BASE + STACK * PAGE_SIZE, True, 6, BASE + STACK * PAGE_SIZE),
    ],
)
def test_string_at_bad_memory_is_a_page_fault(
    guest: SmallDomain, code: str, register: str, address: int, user: bool, error: int, where: int
) -> None:
    set_iopl(guest, 3)
    before = guest.read(BASE + STACK * PAGE_SIZE, 4)
    assert run(guest, code, user=user, rdx=0x60, **{register: address}) == "pf"
    stack = guest.vcpu.cpu.registers.rsp
    assert int.from_bytes(guest.read(stack + 16, 8), "little") == error
    assert int.from_bytes(guest.read(stack + 24, 8), "little") == CODE
    assert guest.memory.words[guest.vcpu.info + 16 >> 3] == where
    assert guest.read(BASE + STACK * PAGE_SIZE, 4) == before


def test_string_at_xens_addresses_is_a_protection_fault(guest: SmallDomain) -> None:
    set_iopl(guest, 1)
    assert run(guest, "6c", rdi=0xFFFF_8000_0000_0000, rdx=0x60) == "gp"


def test_breakpoint_on_a_port(guest: SmallDomain) -> None:
    set_iopl(guest, 1)
    guest.vcpu.load_cr4(8)  # DE
    assert guest.call(xen.HYPERVISOR_set_debugreg, 1, 0x60) == 0
    assert guest.call(xen.HYPERVISOR_set_debugreg, 7, 1 << 2 | 2 << 20) == 0
    assert run(guest, "e461") == "done"
    assert run(guest, "e460") == "db"
    assert guest.call(xen.HYPERVISOR_get_debugreg, 6) == 0xFFFF0FF2
    stack = guest.vcpu.cpu.registers.rsp
    assert int.from_bytes(guest.read(stack + 16, 8), "little") == CODE + 2
    # The engine is not asked to look after it.
    assert guest.engine.cpus[0].breakpoints[1] & 0xFF == 0


def test_single_step_over_an_emulated_instruction(guest: SmallDomain) -> None:
    set_iopl(guest, 1)
    assert run(guest, "fa", rflags=0x202 | TF) == "db"
    assert guest.call(xen.HYPERVISOR_get_debugreg, 6) == 0xFFFF4FF0


def test_mov_to_a_debug_register_is_the_hypercall(guest: SmallDomain) -> None:
    guest.vcpu.trap_address[6] = HANDLER + 6
    assert run(guest, "0f23c0", rax=0x1234) == "done"  # mov %rax, %dr0
    assert guest.call(xen.HYPERVISOR_get_debugreg, 0) == 0x1234
    assert run(guest, "0f23f8", rax=0x2000) == "gp"  # general detect
    assert run(guest, "0f21f9", rcx=0) == "done"  # mov %dr7, %rcx
    assert guest.vcpu.cpu.registers.rcx == 0x400
    assert run(guest, "0f23e0", rax=0) == "done"  # dr4 is dr6 …
    guest.vcpu.load_cr4(8)
    guest.put(bytes.fromhex("0f23e0"))
    guest.vcpu.cpu.registers.rip = CODE
    guest.domain.traps.exception(guest.vcpu.cpu, GENERAL_PROTECTION, 0, False)
    assert guest.vcpu.cpu.registers.rip == HANDLER + 6  # … but not with CR4.DE


def test_time_stamp_disable_reaches_the_engine(guest: SmallDomain) -> None:
    registers = guest.vcpu.cpu.registers
    assert run(guest, "0f22e0", rax=4) == "done"  # mov %rax, %cr4
    assert registers.cr4 == 0x6B4
    assert run(guest, "0f31", rax=0) == "done"  # rdtsc in kernel mode
    assert run(guest, "0f31", user=True) == "gp"
    guest.vcpu.load_cr4(0)
    assert registers.cr4 == 0x6B0
