# SPDX-License-Identifier: GPL-2.0-or-later
"""The crash report tells what there is, and bears any state."""

from __future__ import annotations

from typing import Any

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


def show_hypercalls(guest: SmallDomain, *calls: tuple[int, int, int, int, int]) -> None:
    counters: Any = guest.domain.counters
    counters.last_hypercalls = lambda: list(calls)


def test_tells_all(guest: SmallDomain) -> None:
    registers = guest.vcpu.cpu.registers
    registers.rip = guest.write(guest.address(SCRATCH), b"\x0f\x0b\x90")
    registers.rsp = guest.address(STACK) + 0xFE0
    registers.r15 = 0x1234_5678_9ABC
    guest.write(registers.rsp + 8, (SYMBOL + 16).to_bytes(8, "little"))
    show_hypercalls(guest, (0, xen.HYPERVISOR_mmu_update, 1, 2, -22), (0, 61, 1, 2, 5))
    report = describe_crash(guest.domain, "it broke", lookup)
    assert report.startswith("domain 1 crashed: it broke\n")
    assert "0000123456789abc" in report
    assert "code at rip: 0f 0b 90" in report
    assert "ffffffff81000010 start_kernel+0x10" in report
    assert "mmu_update(0x1, 0x2, …) = -EINVAL" in report
    assert "hypercall_61(0x1, 0x2, …) = 0x5" in report


def test_names_commands_and_counts_repetitions(guest: SmallDomain) -> None:
    send = (0, xen.HYPERVISOR_event_channel_op, 4, 0x1000, 0)
    show_hypercalls(
        guest,
        send,
        *[(1, xen.HYPERVISOR_sched_op, 1, 0, 0)] * 12,
        send,
        (0, xen.HYPERVISOR_vcpu_op, 1 << 32 | 3, 1, 1),
        (0, xen.HYPERVISOR_vcpu_op, 99, 1, -38),
    )
    lines = describe_crash(guest.domain, "reason", lookup).split("\n")
    assert lines[lines.index("last hypercalls (the newest last):") + 1 :] == [
        "  vcpu 0: event_channel_op(send, 0x1000, …) = 0x0",
        "  vcpu 1: sched_op(block, 0x0, …) = 0x0 × 12",  # noqa: RUF001
        "  vcpu 0: event_channel_op(send, 0x1000, …) = 0x0",
        "  vcpu 0: vcpu_op(is_up, 0x1, …) = 0x1",
        "  vcpu 0: vcpu_op(0x63, 0x1, …) = -ENOSYS",
    ]


def test_shows_the_console_without_its_control_characters(guest: SmallDomain) -> None:
    report = describe_crash(guest.domain, "reason", lookup, "Oops:\t0000\n\x1b[2Jpanic\x9b")
    assert "\nlast console output:\n  Oops:\t0000\n  \\x1b[2Jpanic\\x9b\nlast hyper" in report


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
