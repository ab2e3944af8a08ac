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
STEAL = 7
"""A column of the lines of /proc/stat."""


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
    used, begin = _processor_seconds(guest), time.monotonic()
    # Builtins of the shell read both files in one moment. How much of its time it has worked, the
    # guest knows only from samples, one a tick, and these keep step with the periods of the cap.
    output = guest.check(
        "look() { read stat < /proc/stat; read up idle < /proc/uptime; echo $stat; echo $up; }; "
        "look; end=$(($(date +%s) + 8)); "
        "while [ $(date +%s) -lt $end ]; do n=0; while [ $n -lt 2000 ]; do n=$((n+1)); done; done; "
        "look"
    )
    used, elapsed = _processor_seconds(guest) - used, time.monotonic() - begin
    first, start, second, end = output.split("\n")
    stolen = int(second.split()[1 + STEAL]) - int(first.split()[1 + STEAL])
    # The guest has been busy all the time. What a busy host kept from it, it cannot know of.
    assert stolen >= 49 * (float(end) - float(start))
    assert used <= 0.55 * elapsed  # what pyxen itself does between the guest's slices included
