# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains as objects, with a small kernel, and once with Debian."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pyxen
from pyxen import AsyncDomain, Domain, PyxenError
from pyxen.toolstack import images
from pyxen.toolstack.registry import Registry

PATIENCE = 60.0


pytestmark = pytest.mark.usefixtures("own_host")


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    yield
    assert Registry().entries() == []


@pytest.fixture
def kernel(lifecycle_kernel: Path) -> Path:
    return lifecycle_kernel


def test_a_domain_ends_with_its_context(kernel: Path) -> None:
    with Domain(kernel=kernel, memory=8, extra="idle") as domain:
        domain.console.expect("begun: idle")
        info = domain.info()
        assert (info.domid, info.name, info.online) == (domain.domid, domain.name, 1)
        assert [entry.record.name for entry in Registry().entries()] == [domain.name]
        statistics = domain.statistics()
        deadline = time.monotonic() + PATIENCE
        while "sched_op" not in statistics["hypercalls"]:  # with which it goes to sleep
            assert time.monotonic() < deadline
            statistics = domain.statistics()
        assert statistics["devices"].keys() == {"console-0"}
    assert Registry().entries() == []
    assert domain.console.text.startswith("begun: idle")
    with pytest.raises(PyxenError, match="let go of"):
        domain.info()


def test_files_of_devices_are_those_of_this_process(
    kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The domain's process lives in another folder."""
    monkeypatch.chdir(tmp_path)
    Path("data.img").write_bytes(bytes(1 << 20))
    with Domain(kernel=kernel, memory=8, extra="idle") as domain:
        domain.attach_disk("data.img,raw,xvda,rw")
        domain.attach_nic("none,pcap=card.pcap")
        assert Path("card.pcap").exists()
        assert [disk.devid for disk in domain.devices("vbd")] == [51712]


@pytest.mark.parametrize("closed", [(), (2,), (0, 1, 2)])
def test_the_domains_process_has_descriptors_of_its_own(
    kernel: Path, tmp_path: Path, closed: tuple[int, ...]
) -> None:
    """Else what it opens, the guest's memory perhaps, would get the numbers that its starter has
    left free, and the output."""
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from pyxen import Domain\n"
        "with Domain(kernel=sys.argv[1], memory=8, extra='idle', name='closed') as domain:\n"
        "    pid = domain.info().pid\n"
        "    files = [os.readlink(f'/proc/{pid}/fd/{fd}') for fd in range(3)]\n"
        "    Path(sys.argv[2]).write_text(' '.join(files))\n"
    )

    def close() -> None:
        for fd in closed:
            os.close(fd)

    found = tmp_path / "found"
    command = [sys.executable, "-c", program, kernel, found]
    subprocess.run(command, preexec_fn=close, timeout=PATIENCE, check=True)
    nothing, *logs = found.read_text().split()
    assert nothing == "/dev/null"
    assert [Path(log).name for log in logs] == ["closed.log", "closed.log"]
    assert "has been created" in Path(logs[0]).read_text()


@pytest.mark.parametrize("reason", ["poweroff", "crash", "watchdog"])
def test_how_it_ends(kernel: Path, reason: str) -> None:
    with Domain(kernel=kernel, memory=8, extra=reason) as domain:
        assert domain.wait() == reason
        assert domain.wait() == reason
        with pytest.raises(pyxen.ConsoleEnded):
            domain.console.expect("no such thing")


def test_a_domain_that_has_rebooted_ends_with_its_context(kernel: Path) -> None:
    with Domain(kernel=kernel, memory=8, extra="echo") as domain:
        first = domain.domid
        for lives in (1, 2):
            domain.console.expect("begun: echo")
            if lives == 1:
                domain.console.send("reboot\n")
        (entry,) = Registry().entries()
        assert entry.record.domid > first
    assert Registry().entries() == []


def test_what_is_not_over_in_time(kernel: Path) -> None:
    with Domain(kernel=kernel, memory=8) as domain:
        with pytest.raises(PyxenError, match=r"no shutdown within 0.05 s"):
            domain.wait(timeout=0.05)
        assert domain.info().shutdown_reason == ""
        with pytest.raises(PyxenError):  # the small kernel hears no requests
            domain.shutdown(timeout=0.05)


def stands(domain: Domain) -> bool:
    """Whether its vCPU has not run for a while, in which the kernel would have printed five lines.
    Just after a pause it may still be on its way to a halt."""
    before = domain.info().cpu_ns
    time.sleep(0.1)
    return domain.info().cpu_ns == before


def test_paused(kernel: Path) -> None:
    with Domain(kernel=kernel, memory=8, extra="ticks", paused=True) as domain:
        assert domain.info().paused
        assert domain.console.text == ""
        domain.unpause()
        domain.console.expect("tick 3")
        with domain.paused():
            assert domain.info().paused
            assert any(stands(domain) for _ in range(100))
        domain.console.expect(r"tick \d+\n.*\ntick")


def test_a_configuration_file(kernel: Path, tmp_path: Path) -> None:
    file = tmp_path / "guest.cfg"
    file.write_text(f'name = "web"\nkernel = "{kernel}"\nmemory = 8\nvfb = []\nextra = "a"\n')
    with Domain(file, extra="b") as domain:
        domain.console.expect("begun: b\n")
        assert (domain.name, domain.info().name) == ("web", "web")
        assert any("vfb" in note for note in domain.notes)
        with pytest.raises(PyxenError, match="web"), Domain(file):
            pass
        assert [entry.record.name for entry in Registry().entries()] == ["web"]


def test_a_bad_configuration() -> None:
    with pytest.raises(PyxenError, match="no kernel is given"):
        Domain(memory=8)


def test_connect(kernel: Path) -> None:
    with Domain(kernel=kernel, memory=8, extra="idle") as first:
        with Domain.connect(first.name) as second:
            assert second.domid == first.domid
            second.console.expect("begun")
        with Domain.connect(first.domid) as third:
            assert third.info().pid == first.info().pid
        with pytest.raises(PyxenError, match="invalid domain identifier"):
            Domain.connect("nobody")


def test_a_process_that_is_killed(kernel: Path) -> None:
    with Domain(kernel=kernel, memory=8) as domain:
        os.kill(domain.info().pid, signal.SIGKILL)
        assert domain.wait() == "destroyed"
        with pytest.raises(PyxenError):
            domain.info()


def test_asyncio(kernel: Path) -> None:
    async def both() -> None:
        async with (
            AsyncDomain(kernel=kernel, memory=8, extra="ticks") as one,
            AsyncDomain(kernel=kernel, memory=8, extra="idle") as other,
        ):
            await asyncio.gather(one.console.expect("tick 3"), other.console.expect("begun"))
            async with one.paused():
                assert (await one.info()).paused
            assert {one.domid, other.domid} == {each.record.domid for each in Registry().entries()}
            again = await AsyncDomain.connect(other.domid)
            await again.close()

    asyncio.run(both())
    assert Registry().entries() == []


@pytest.mark.guest
@pytest.mark.slow
def test_a_real_guest(debian_cloud_image: images.Image) -> None:
    options = {"kernel": debian_cloud_image.kernel, "ramdisk": debian_cloud_image.ramdisk}
    with Domain(**options, memory=160, vcpus=1, maxvcpus=2) as domain:
        domain.console.expect(images.READY_MARKER, timeout=120)
        result = domain.run("uname -s; echo bad >&2; exit_status() { return 7; }; exit_status")
        assert (result.output, result.status) == ("Linux\nbad\n", 7)
        domain.set_vcpus(2)
        cpu = "/sys/devices/system/cpu/cpu1/online"  # udev would write to it
        assert domain.run(f"until [ -e {cpu} ]; do sleep 0.1; done; echo 1 > {cpu}").status == 0
        assert domain.run("nproc").output == "2\n"
        first = domain.domid
        domain.reboot()
        assert domain.domid > first
        domain.console.expect(images.READY_MARKER, timeout=120)
        assert domain.run("cat /proc/cmdline").status == 0
        assert domain.shutdown() == "poweroff"
