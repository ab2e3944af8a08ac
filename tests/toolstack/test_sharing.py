# SPDX-License-Identifier: GPL-2.0-or-later
"""Domains that share the host's processors: what they get, what their guests see, and the verbs."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from machine import Machine
from pyxen.testing import kernels
from pyxen.toolstack.control.client import ControlClient
from pyxen.toolstack.control.messages import DomainInfo, GetInfo

SOURCES = Path(__file__).parents[2] / "guests"
WINDOW = 3.0
SECOND = 10**9
ALONE = min(os.sched_getaffinity(0))
"""The processor that the domains of these tests share."""
LINE = re.compile(r"ran (\d+) waited (\d+) other (\d+)\n")


@pytest.fixture
def machine(own_machine: Machine) -> Machine:
    return own_machine


@pytest.fixture(scope="module")
def kernel() -> Path:
    try:
        return kernels.build_kernel(SOURCES / "share" / "share.c")
    except kernels.BuildToolsMissing as error:
        pytest.skip(str(error))


def create(machine: Machine, kernel: Path, name: str, *settings: str) -> None:
    machine.do("create", "/dev/null", f"kernel='{kernel}'", "memory=8", f"name='{name}'", *settings)


def info(machine: Machine, name: str) -> DomainInfo:
    with ControlClient(machine.registry.find(name).folder, 60.0) as client:
        return client.ask(GetInfo())


def told(machine: Machine, name: str) -> list[tuple[int, ...]]:
    """What a guest has printed: how long it has run, waited, and did neither."""
    return [tuple(map(int, line)) for line in LINE.findall(machine.console_log(name))]


def test_weights_and_a_cap_divide_a_processor(machine: Machine, kernel: Path) -> None:
    """Two busy domains with weights 1:2, and one that may have a fifth of the processor."""
    pinned = f"cpus='{ALONE}'"
    create(machine, kernel, "one", pinned, "cpu_weight=100")
    create(machine, kernel, "two", pinned, "cpu_weight=200")
    create(machine, kernel, "capped", pinned, "cpu_weight=2000", "cap=20")
    names = ("one", "two", "capped")
    for name in names:
        machine.until(lambda name=name: len(told(machine, name)) > 2)
    begin = {name: (info(machine, name).cpu_ns, time.monotonic()) for name in names}
    seen = {name: len(told(machine, name)) for name in names}
    # Long enough for a slice more or less to be of no account.
    machine.until(lambda: info(machine, "one").cpu_ns - begin["one"][0] > 1.5 * SECOND)
    used, passed = {}, {}
    for name in names:
        used[name] = (info(machine, name).cpu_ns - begin[name][0]) / SECOND
        passed[name] = time.monotonic() - begin[name][1]

    assert used["two"] / used["one"] == pytest.approx(2, rel=0.05)
    total = sum(used.values()) / passed["two"]
    assert total <= 1.02  # they do share one
    assert used["capped"] / passed["capped"] <= 0.21
    if total > 0.4:  # the host's other work leaves that much
        assert used["capped"] / passed["capped"] >= 0.19
    for name in names:
        first, *_, last = told(machine, name)[seen[name] - 1 :]
        ran, waited, other = (b - a for a, b in zip(first, last, strict=True))
        assert other == 0
        assert waited / (ran + waited) == pytest.approx(1 - used[name] / passed[name], abs=0.05)


def test_a_weight_can_be_changed_while_they_run(machine: Machine, kernel: Path) -> None:
    pinned = f"cpus='{ALONE}'"
    for name in ("one", "two"):
        create(machine, kernel, name, pinned)
    machine.do("sched-credit2", "-d", "one", "-w", "1000")
    machine.do("sched-credit2", "--domain=two", "--weight=250")
    before = [info(machine, name).cpu_ns for name in ("one", "two")]
    machine.until(lambda: info(machine, "two").cpu_ns - before[1] > SECOND)
    one, two = (
        info(machine, name).cpu_ns - was for name, was in zip(("one", "two"), before, strict=True)
    )
    assert one / two == pytest.approx(4, rel=0.1)
    machine.do("sched-credit2", "-d", "one", "-c", "10")
    before = [info(machine, "one").cpu_ns, time.monotonic_ns()]
    time.sleep(WINDOW)
    used = info(machine, "one").cpu_ns - before[0]
    assert used / (time.monotonic_ns() - before[1]) == pytest.approx(0.1, rel=0.1)


def test_time_in_which_the_host_did_not_let_it_run_is_stolen(
    machine: Machine, kernel: Path
) -> None:
    """Row 10, from outside: the process is stopped for a second."""
    create(machine, kernel, "one")
    machine.until(lambda: len(told(machine, "one")) > 2)
    pid = machine.registry.find("one").record.pid
    lines = len(told(machine, "one"))
    os.kill(pid, signal.SIGSTOP)
    time.sleep(1)
    os.kill(pid, signal.SIGCONT)
    machine.until(lambda: len(told(machine, "one")) > lines + 5)
    first, *_, last = told(machine, "one")[lines - 1 :]
    assert last[1] - first[1] >= 0.98 * SECOND


def test_a_stopped_domain_holds_up_nobody(machine: Machine, kernel: Path) -> None:
    for name in ("one", "two"):
        create(machine, kernel, name, f"cpus='{ALONE}'")
    machine.until(lambda: len(told(machine, "one")) > 2)
    pid = machine.registry.find("one").record.pid
    os.kill(pid, signal.SIGSTOP)
    lines = len(told(machine, "two"))
    machine.until(lambda: len(told(machine, "two")) > lines + 5)
    os.kill(pid, signal.SIGKILL)
    machine.until(lambda: len(told(machine, "two")) > lines + 20)


def test_what_the_verb_prints(machine: Machine, kernel: Path) -> None:
    create(machine, kernel, "web", "cpu_weight=512", "cap=50")
    domid = int(machine.do("domid", "web"))
    assert machine.do("sched-credit2").splitlines() == [
        "Cpupool Pool-0: ratelimit=1000us",
        f"Name{'':29}   ID Weight  Cap",
        f"Domain-0{'':25}    0    256    0",
        f"web{'':30} {domid:4}    512   50",
    ]
    machine.do("sched-credit2", "-d", str(domid), "-w", "65535", "-c", "0")
    assert machine.do("sched-credit2", "-d", "web").splitlines()[1].split()[2:] == ["65535", "0"]
    machine.do("sched-credit2", "-s", "-r", "2000")
    assert machine.do("sched-credit2", "-s") == "Cpupool Pool-0: ratelimit=2000us\n"
    assert "expected 100 to 500000" in machine.refusal("sched-credit2", "-s", "-r", "50")
    assert "expected 1 to 65535" in machine.refusal("sched-credit2", "-d", "web", "-w", "0")
    assert "expected 0 to 100" in machine.refusal("sched-credit2", "-d", "web", "-c", "101")
    assert machine.refusal("sched-credit2", "-p", "Pool-1") == "unknown cpupool 'Pool-1'"
    for wrong in (("-w", "5"), ("-p", "Pool-0", "-d", "web")):
        assert machine.call("sched-credit2", *wrong).returncode == 2


def test_vcpus_can_be_pinned(machine: Machine, kernel: Path) -> None:
    create(machine, kernel, "web", "vcpus=2", f"cpus=['{ALONE}', 'all']", "cpus_soft='all'")
    assert affinities(machine) == [f"{ALONE} / all", "all / all"]
    pid = machine.registry.find("web").record.pid
    machine.until(lambda: os.sched_getaffinity(pid) == {ALONE})
    assert machine.do("vcpu-list", "web").splitlines()[1].split()[3] == str(ALONE)
    machine.do("vcpu-pin", "web", "all", "all")
    assert affinities(machine) == ["all / all", "all / all"]
    machine.until(lambda: os.sched_getaffinity(pid) == os.sched_getaffinity(0))
    machine.do("vcpu-pin", "web", "1", "-", str(ALONE))
    expected = "all" if os.cpu_count() == 1 else str(ALONE)
    assert affinities(machine) == ["all / all", f"all / {expected}"]
    assert (
        machine.do("-N", "vcpu-pin", "web", "0", str(ALONE), "all") == f"cpumap: {expected} all\n"
    )
    assert "no vCPU 2" in machine.refusal("vcpu-pin", "web", "2", "all")
    assert "vCPU 0 may run on 500" in machine.refusal("vcpu-pin", "web", "0", "500")
    assert machine.refusal("vcpu-pin", "web", "x", "0") == "Error: Invalid argument x as VCPU."
    assert machine.refusal("vcpu-pin", "web", "0", "1-") == "Invalid pcpu range: 1-."
    refused = machine.refusal("vcpu-pin", "-f", "web", "all", "0")
    assert refused == "Error: --force and 'all' as VCPU not allowed."


def affinities(machine: Machine) -> list[str]:
    """The last column of the list of vCPUs."""
    lines = machine.do("vcpu-list", "web").splitlines()[1:]
    return [line[line.index(".") + 4 :] for line in lines]


def test_a_domain_that_could_run_nowhere_is_not_made(machine: Machine, kernel: Path) -> None:
    refused = machine.refusal(
        "create", "/dev/null", f"kernel='{kernel}'", "memory=8", "name='web'", "cpus='500'"
    )
    assert refused.startswith("cpus: vCPU 0 may run on 500, and this process may use ")
    assert machine.names() == {}
    assert machine.leaks() == []
