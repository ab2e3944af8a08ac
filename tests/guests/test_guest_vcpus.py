# SPDX-License-Identifier: GPL-2.0-or-later
"""Many vCPUs, vCPUs that come and go, and what vCPUs cost that do nothing or may not run."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import pytest
from guest import Guest, StartGuest

pytestmark = [pytest.mark.guest, pytest.mark.slow]

COMPLAINTS = r"rcu.*stall|lockup|BUG:|WARNING:|Call Trace"
USER, SYSTEM, STEAL = 0, 2, 7
"""Columns of the lines of /proc/stat."""


def test_vcpus_go_and_come_back(start_cloud: StartGuest) -> None:
    guest = start_cloud("--vcpus", "4")
    guest.open_shell()
    cpus = "/sys/devices/system/cpu"
    for round_ in range(2):
        for cpu in (1, 3):
            guest.check(f"echo 0 > {cpus}/cpu{cpu}/online")
        assert guest.check(f"cat {cpus}/online") == "0,2"
        for cpu in (1, 3):
            guest.check(f"echo 1 > {cpus}/cpu{cpu}/online")
            ran_on = guest.check(f"taskset -c {cpu} cat /proc/self/stat | cut -d' ' -f39")
            assert ran_on == str(cpu), round_
    assert guest.check(f"cat {cpus}/online") == "0-3"
    assert not re.search(COMPLAINTS, guest.check("dmesg"))


@pytest.mark.parametrize("vcpus", [40, 64])
def test_many_vcpus(start_cloud: StartGuest, vcpus: int) -> None:
    guest = start_cloud("--vcpus", str(vcpus), "--memory", "512")
    guest.open_shell()
    assert guest.check("nproc") == str(vcpus)
    assert guest.check("cat /sys/devices/system/cpu/online") == f"0-{vcpus - 1}"
    last = guest.check(f"taskset -c {vcpus - 1} cat /proc/self/stat | cut -d' ' -f39")
    assert last == str(vcpus - 1)
    assert not re.search(COMPLAINTS, guest.check("dmesg"))


@pytest.mark.parametrize(("vcpus", "share"), [(1, 0.01), (4, 0.03)])
def test_an_idle_guest_costs_next_to_nothing(
    start_cloud: StartGuest, vcpus: int, share: float
) -> None:
    guest = start_cloud("--vcpus", str(vcpus))
    guest.open_shell()
    shares = []
    for _ in range(6):  # a guest that has just booted, or a busy host, needs some time
        before = _processor_seconds(guest)
        time.sleep(10)
        shares.append((_processor_seconds(guest) - before) / 10)
        if shares[-1] < share:
            return
    pytest.fail(f"a share of the processor in each ten seconds: {shares}")


def _processor_seconds(guest: Guest) -> float:
    fields = Path(f"/proc/{guest.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_what_a_cap_takes_is_stolen_time(start_cloud: StartGuest) -> None:
    guest = start_cloud("--cap", "50")
    guest.open_shell()
    output = guest.check(
        "head -1 /proc/stat; cut -d' ' -f1 /proc/uptime; end=$(($(date +%s) + 8)); "
        "while [ $(date +%s) -lt $end ]; do n=0; while [ $n -lt 2000 ]; do n=$((n+1)); done; done; "
        "head -1 /proc/stat; cut -d' ' -f1 /proc/uptime"
    )
    first, begin, second, end = output.split("\n")
    hundredths = [
        int(new) - int(old) for old, new in zip(first.split()[1:], second.split()[1:], strict=True)
    ]
    passed = 100 * (float(end) - float(begin))
    stolen, used = hundredths[STEAL], hundredths[USER] + hundredths[SYSTEM]
    # The guest has been busy all the time. What a busy host kept from it, it cannot know of.
    assert stolen >= 0.49 * passed
    assert used <= 0.51 * passed
    assert stolen + used <= 1.02 * passed
