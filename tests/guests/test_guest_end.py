# SPDX-License-Identifier: GPL-2.0-or-later
"""How a domain ends, and what the user is told."""

from __future__ import annotations

import json
import re
import signal
import time
from pathlib import Path

import pytest
from guest import StartGuest

pytestmark = [pytest.mark.guest, pytest.mark.slow]

REGISTERS = [
    "rax",
    "rbx",
    "rcx",
    "rdx",
    "rsi",
    "rdi",
    "rbp",
    "rsp",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
    "cr2",
    "cr3",
    "rflags",
]


def _check_report(report: str, *symbols: str) -> None:
    assert "crash" in report
    for name in REGISTERS:
        assert re.search(rf"\b{name} +[0-9a-f]{{16}}\b", report), name
    for symbol in symbols:
        # A compiler may have put a rare part of a function elsewhere, under a name with a suffix.
        assert re.search(rf"\b({symbol})(\.\w+)?\+0x[0-9a-f]+", report), symbol
    assert "last hypercalls" in report
    # The one by which the guest told that it crashed is the last of them.
    assert re.search(r"sched_op\([^\n]*\n*\Z", report)
    assert "Traceback" not in report


def test_poweroff_ends_with_0_and_figures(start_cloud: StartGuest, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    guest = start_cloud("--stats", "--stats-json", figures)
    guest.boot()
    guest.send_line("poweroff")
    assert guest.wait() == 0
    assert re.search(r"(?m)^mmu_update +\d+ ", guest.error)
    counted = json.loads(figures.read_text())
    assert {"mmu_update", "mmuext_op", "event_channel_op", "sched_op"} <= set(counted["hypercalls"])
    assert 0 < counted["guest_ns"] < counted["wall_ns"]


def test_reboot_starts_the_domain_again(start_cloud: StartGuest) -> None:
    guest = start_cloud()
    guest.boot()
    guest.send_line("reboot -f")
    guest.expect("reboot: Restarting system")
    guest.expect("Linux version")
    guest.boot()
    guest.send_line("poweroff -f")
    assert guest.wait() == 0


def test_reboot_ends_with_4_if_wanted(start_cloud: StartGuest) -> None:
    guest = start_cloud("--no-reboot")
    guest.boot()
    guest.send_line("reboot -f")
    assert guest.wait() == 4
    assert guest.console.count("Linux version") == 1


def test_crash_is_reported(start_cloud: StartGuest) -> None:
    guest = start_cloud()
    guest.boot()
    guest.send_line("echo c > /proc/sysrq-trigger")
    assert guest.wait() == 3
    assert "Kernel panic - not syncing: sysrq triggered crash" in guest.console
    # The last line that Linux prints before it tells Xen.
    assert guest.console.rstrip("\n").endswith("Kernel Offset: disabled")
    _check_report(guest.error, "panic", "sysrq_handle_crash", "__handle_sysrq", "ksys_write")


# A panic with a time after which Linux would reboot is a crash to Xen just the same.
@pytest.mark.parametrize(
    ("parameter", "last_line"), [("", "Kernel Offset: disabled"), ("panic=1", "Rebooting in 1 s")]
)
def test_panic_is_reported(start_cloud: StartGuest, parameter: str, last_line: str) -> None:
    guest = start_cloud("--cmdline", f"console=hvc0 rdinit=/nonexistent {parameter}")
    assert guest.wait() == 3
    assert "Kernel panic - not syncing: VFS: Unable to mount root fs" in guest.console
    assert last_line in guest.console.rstrip("\n").split("\n")[-1]
    _check_report(guest.error, "panic", "mount_block_root|mount_root_generic", "kernel_init")


def test_time_out_ends_with_124(start_cloud: StartGuest) -> None:
    begin = time.monotonic()
    guest = start_cloud("--timeout", "2")
    assert guest.wait() == 124
    assert time.monotonic() - begin >= 2


def test_ctrl_bracket_leaves(start_cloud: StartGuest) -> None:
    guest = start_cloud(on_terminal=True)
    guest.expect("Linux version")
    assert guest.terminal_mode() != guest.mode_at_start
    guest.send(b"\x1d")
    assert guest.wait() == 0
    assert guest.terminal_mode() == guest.mode_at_start


def test_ctrl_bracket_belongs_to_the_guest_without_a_terminal(start_cloud: StartGuest) -> None:
    guest = start_cloud()
    guest.open_shell()
    guest.send_line("head -n 1 | tr '\\035' X")
    guest.send(b"a\x1db\n")
    guest.expect("aXb")
    guest.send_line("poweroff -f")
    assert guest.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("on_terminal", [True, False], ids=["terminal", "pipes"])
def test_signal_ends_it(start_cloud: StartGuest, number: signal.Signals, on_terminal: bool) -> None:
    guest = start_cloud(on_terminal=on_terminal)
    guest.expect("about to get started")
    guest.signal(number)
    assert guest.wait() == 128 + number
    assert "Traceback" not in guest.error
    if on_terminal:
        assert guest.terminal_mode() == guest.mode_at_start
