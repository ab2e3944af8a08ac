# SPDX-License-Identifier: GPL-2.0-or-later
"""The crash report tells what there is, and bears any state."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_domain import BAD_POINTERS, LAST_SCRATCH, SCRATCH, STACK, SmallDomain

from pyxen.abi import xen
from pyxen.hypervisor.crash_report import describe_crash

SYMBOL = 0xFFFFFFFF81000000
WORDS = st.integers(0, (1 << 64) - 1)
ADDRESSES = st.one_of(WORDS, st.sampled_from(list(BAD_POINTERS.values())))


def lookup(address: int) -> tuple[str, int] | None:
    return ("start_kernel", address - SYMBOL) if SYMBOL <= address < SYMBOL + 64 else None


def test_tells_all(guest: SmallDomain) -> None:
    registers = guest.vcpu.cpu.registers
    registers.rip = guest.write(guest.address(SCRATCH), b"\x0f\x0b\x90")
    registers.rsp = guest.address(STACK) + 0xFE0
    registers.r15 = 0x1234_5678_9ABC
    guest.write(registers.rsp + 8, (SYMBOL + 16).to_bytes(8, "little"))
    guest.domain.counters.history.append((0, xen.HYPERVISOR_mmu_update, 1, 2, -22))
    guest.domain.counters.history.append((0, 61, 1, 2, 5))
    report = describe_crash(guest.domain, "it broke", lookup)
    assert report.startswith("domain 1 crashed: it broke\n")
    assert "0000123456789abc" in report
    assert "code at rip: 0f 0b 90" in report
    assert "ffffffff81000010 start_kernel+0x10" in report
    assert "mmu_update(0x1, 0x2, …) = -EINVAL" in report
    assert "hypercall_61(0x1, 0x2, …) = 0x5" in report


def test_user_mode_shows_the_kernel_stack(guest: SmallDomain) -> None:
    guest.vcpu.cpu.enter_user(0x33, 0x2B, long_mode=True)
    guest.vcpu.kernel_sp = guest.address(STACK) + 0xF00
    report = describe_crash(guest.domain, "reason", lookup)
    assert "user mode" in report
    assert f"stack at {guest.address(STACK) + 0xF00:016x}:" in report
    assert "code at rip: not mapped" in report


def test_stack_ends_with_the_mapping(guest: SmallDomain) -> None:
    guest.vcpu.cpu.registers.rsp = LAST_SCRATCH - 13
    report = describe_crash(guest.domain, "reason", lookup)
    assert f"stack at {LAST_SCRATCH - 13:016x}:\n" in report


@pytest.mark.parametrize("kind", BAD_POINTERS)
def test_bad_stack(guest: SmallDomain, kind: str) -> None:
    guest.vcpu.cpu.registers.rsp = guest.vcpu.cpu.registers.rip = BAD_POINTERS[kind]
    assert "crashed: reason" in describe_crash(guest.domain, "reason", lookup)


@settings(
    max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(rip=ADDRESSES, rsp=ADDRESSES, table=WORDS, user=st.booleans(), kernel_sp=ADDRESSES)
def test_never_raises(
    guest: SmallDomain, rip: int, rsp: int, table: int, user: bool, kernel_sp: int
) -> None:
    cpu = guest.vcpu.cpu
    (cpu.enter_user if user else cpu.enter_kernel)(0, 0, **({"long_mode": True} if user else {}))
    cpu.registers.rip, cpu.registers.rsp = rip, rsp
    cpu.load_kernel_page_table(table & ~0xFFF)
    cpu.load_user_page_table(table & ~0xFFF)
    guest.vcpu.kernel_sp = kernel_sp
    assert "vcpu 0" in describe_crash(guest.domain, "reason", lookup)
