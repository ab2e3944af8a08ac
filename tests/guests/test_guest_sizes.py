# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests with little and much memory, with several vCPUs."""

from __future__ import annotations

import re

import pytest
from guest import StartGuest

from pyxen.toolstack import images

pytestmark = [pytest.mark.guest, pytest.mark.slow]


# The kernel itself takes some 35 MiB, and a little for each page that it manages.
@pytest.mark.parametrize("mebibytes", [96, 512, 2048])
def test_memory_is_as_large_as_asked_for(start_cloud: StartGuest, mebibytes: int) -> None:
    guest = start_cloud("--memory", str(mebibytes))
    guest.open_shell()
    total = int(re.search(r"MemTotal: +(\d+) kB", guest.check("cat /proc/meminfo"))[1]) / 1024
    assert mebibytes * 0.97 - 40 < total < mebibytes
    # It can be used. (All of 2 GiB would take too long.)
    size = min(mebibytes // 4, 100)
    guest.check(f"dd if=/dev/zero of=/tmp/zeros bs=1M count={size} 2>/dev/null")
    assert guest.check("wc -c < /tmp/zeros") == str(size << 20)
    guest.send_line("poweroff -f")
    assert guest.wait() == 0


@pytest.mark.parametrize("vcpus", [2, 4])
def test_vcpus_work_side_by_side(
    start_guest: StartGuest, debian_image: images.Image, vcpus: int
) -> None:
    guest = start_guest("--image", debian_image.name, "--vcpus", str(vcpus))
    guest.open_shell()
    assert guest.check("nproc") == str(vcpus)
    # On each CPU a process of its own counts, and starts others.
    guest.check(
        "cat > /tmp/load <<'END'\n"
        "n=0; while [ $n -lt 5000 ]; do n=$((n+1)); done\n"
        "k=0; while [ $k -lt 10 ]; do k=$((k+$(/bin/busybox echo 1))); done\n"
        "echo $1 $n $k $(cut -d' ' -f39 /proc/self/stat)\n"
        "END"
    )
    jobs = " ".join(f"(taskset -c {cpu} sh /tmp/load {cpu}) &" for cpu in range(vcpus))
    output = guest.check(f"sh -c '{jobs} wait'")
    assert sorted(output.split("\n")) == [f"{cpu} 5000 10 {cpu}" for cpu in range(vcpus)]
    timers = re.findall(
        r"(?m)^ *\d+:((?: +\d+)+) +xen-percpu +-virq +timer", guest.check("cat /proc/interrupts")
    )
    assert [int(line.split()[cpu]) > 0 for cpu, line in enumerate(timers)] == [True] * vcpus
    assert not re.search(r"rcu.*stall|lockup|BUG:|WARNING:", guest.check("dmesg"))
    guest.send_line("poweroff -f")
    assert guest.wait() == 0
