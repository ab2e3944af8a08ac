# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's kernels reach user space, and see a Xen that is as it should be."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from guest import PROMPT, Guest, StartGuest

from pyxen.toolstack import images

pytestmark = [pytest.mark.guest, pytest.mark.slow]

RELEASES = {
    "debian": r"\d+\.\d+\.[\w.+-]+-amd64",
    "debian-cloud": r"\d+\.\d+\.[\w.+-]+-cloud-amd64",
}


@pytest.fixture(scope="module", params=sorted(RELEASES))
def booted(request: pytest.FixtureRequest) -> Iterator[tuple[str, Guest]]:
    """A guest at its shell, for tests that only look, and the name of its image."""
    image: images.Image = request.getfixturevalue(request.param.replace("-", "_") + "_image")
    with Guest("--image", image.name) as guest:
        guest.open_shell()
        yield request.param, guest


def test_release_is_that_of_the_image(booted: tuple[str, Guest]) -> None:
    name, guest = booted
    assert re.fullmatch(RELEASES[name], guest.check("uname -r"))


def test_sys_hypervisor_tells_of_xen(booted: tuple[str, Guest]) -> None:
    _, guest = booted
    lines = guest.check("cd /sys/hypervisor && grep . type guest_type version/* properties/*; cd")
    told = dict(line.split(":", 1) for line in lines.split("\n"))
    assert told["type"] == "xen"
    assert told["guest_type"] == "PV"
    assert told["version/major"] == "4"
    assert told["version/minor"] == "17"
    assert told["version/extra"] == "-pyxen"
    assert told["properties/pagesize"] == "1000"
    assert "xen-3.0-x86_64" in told["properties/capabilities"].split()
    # What 64-bit Linux relies on: mmu_pt_update_preserve_ad is bit 5.
    assert int(told["properties/features"], 16) & 1 << 5


def test_kernel_says_that_it_runs_on_xen(booted: tuple[str, Guest]) -> None:
    _, guest = booted
    log = guest.check("dmesg")
    for line in (
        "Hypervisor detected: Xen PV",
        "Xen version: 4.17-pyxen (preserve-AD)",
        "Xen: using vcpuop timer interface",
        "xen:events: Using FIFO-based ABI",
        "xen:grant_table: Grant tables using version 1 layout",
        "clocksource: Switched to clocksource xen",
        "x86/mm: Checked W+X mappings: passed, no W+X pages found.",
    ):
        assert line in log
    assert re.search(r"Booting (paravirtualized )?kernel on Xen", log)


@pytest.mark.parametrize("vcpus", [1, 4])
def test_two_level_events_if_the_guest_wants_them(
    vcpus: int, start_guest: StartGuest, debian_cloud_image: images.Image
) -> None:
    guest = start_guest(
        *("--image", debian_cloud_image.name, "--vcpus", str(vcpus)),
        *("--cmdline", "xen.fifo_events=0"),
    )
    guest.open_shell()
    assert "xen:events: Using 2-level ABI" in guest.check("dmesg")
    assert guest.check("nproc") == str(vcpus)


def test_kernel_complains_of_nothing(booted: tuple[str, Guest]) -> None:
    _, guest = booted
    complaint = r"(?m)^.*(WARNING:|BUG:|Oops|Call Trace|rcu.*stall|soft lockup|unchecked MSR).*$"
    found = re.search(complaint, guest.check("dmesg"))
    assert found is None, found[0] if found else ""


def test_front_ends_are_loaded(booted: tuple[str, Guest]) -> None:
    _, guest = booted
    modules = guest.check("lsmod")
    assert "xen_blkfront" in modules
    assert "xen_netfront" in modules


def test_clock_is_that_of_xen(booted: tuple[str, Guest]) -> None:
    _, guest = booted
    folder = "/sys/devices/system/clocksource/clocksource0"
    assert guest.check(f"cat {folder}/current_clocksource") == "xen"


def test_console_is_that_of_xen(booted: tuple[str, Guest]) -> None:
    _, guest = booted
    assert re.search(r"(?m)^hvc0 .*\(E[^)]*C", guest.check("cat /proc/consoles"))
    assert "hvc_console" in guest.check("cat /proc/interrupts")


def test_processes_start_and_end(booted: tuple[str, Guest]) -> None:
    _, guest = booted
    script = "n=0; while [ $n -lt 50 ]; do /bin/busybox true || exit 1; n=$((n+1)); done; echo $n"
    assert guest.check(f"sh -c '{script}'") == "50"
    assert guest.run("sh -c 'kill -SEGV $$'").status == 128 + 11


# Debian's generic and cloud kernel in turn, each from the start of the process to its end.
@pytest.mark.parametrize("number", range(20))
def test_boots_each_time(
    number: int,
    start_guest: StartGuest,
    debian_image: images.Image,
    debian_cloud_image: images.Image,
) -> None:
    image = (debian_image, debian_cloud_image)[number % 2]
    guest = start_guest("--image", image.name)
    guest.boot()
    # With the echo of the line there are two; the first is not yet the answer.
    guest.send_line("uname -r | sed s/^/release=/")
    match = guest.expect(r"\nrelease=(\S+)")
    assert re.fullmatch(RELEASES[image.name], match[1].decode())
    guest.expect(PROMPT)
    guest.send_line("poweroff -f")
    assert guest.wait() == 0
    assert "Traceback" not in guest.error
