# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen metrics``: what Prometheus reads, from a file and by HTTP."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from machine import PATIENCE, Machine

COUNTERS = (
    *("cpu_seconds", "vcpu_seconds", "disk_bytes", "disk_requests", "network_bytes"),
    *("network_packets", "hypercalls", "hypercall_seconds", "traps", "trap_seconds"),
)
GAUGES = ("up", "state", "start_time_seconds", "vcpu_online", "memory_bytes", "memory_max_bytes")


class Metrics:
    """The families of a text, by name without its beginning."""

    def __init__(self, text: str) -> None:
        self.families: dict[str, Metric] = {
            family.name.removeprefix("pyxen_domain_"): family
            for family in text_string_to_metric_families(text)
        }

    def values(self, family: str, domain: str, **labels: str) -> list[float]:
        """Those of a domain with all of these labels."""
        labels["domain"] = domain
        return [
            sample.value
            for sample in self.families[family].samples
            if labels.items() <= sample.labels.items()
        ]

    def value(self, family: str, domain: str, **labels: str) -> float:
        (value,) = self.values(family, domain, **labels)
        return value

    def states(self, domain: str) -> list[str]:
        return [
            sample.labels["state"]
            for sample in self.families["state"].samples
            if sample.value and sample.labels["domain"] == domain
        ]


@pytest.fixture
def machine(own_machine: Machine, lifecycle_kernel: Path) -> Machine:
    """With a domain that computes, one that ticks and has devices, and one that has crashed."""
    config = own_machine.folder / "guest.cfg"
    config.write_text(f'name = "web"\nkernel = "{lifecycle_kernel}"\nmemory = 8\n')
    disk = own_machine.folder / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    devices = (f"disk=['{disk},raw,xvda,rw']", "vif=['none']")
    own_machine.do("create", config, "extra='busy'", "vcpus=2")
    own_machine.do("create", config, "name='clock'", "extra='ticks'", *devices)
    own_machine.do("create", config, "name='bad'", "extra='crash'", "on_crash='preserve'")
    own_machine.until(lambda: "bad ---sc-" in own_machine.names().values())
    return own_machine


@contextmanager
def serving(machine: Machine) -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-m", "pyxen", "metrics", "--port", "0"],
        env=machine.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
    assert process.returncode == 0


WORK: Final[tuple[tuple[str, str, dict[str, str]], ...]] = (
    ("cpu_seconds", "web", {}),
    ("vcpu_seconds", "web", {"vcpu": "0", "state": "running"}),
    ("vcpu_seconds", "web", {"vcpu": "1", "state": "offline"}),
    ("vcpu_seconds", "clock", {"vcpu": "0", "state": "blocked"}),
    ("hypercalls", "clock", {"hypercall": "sched_op"}),
    ("hypercall_seconds", "clock", {"hypercall": "sched_op"}),
    ("cpu_seconds", "Domain-0", {}),
)
"""Counters that grow while the domains do what they do."""


def read(url: str) -> Metrics:
    return Metrics(urlopen(url, timeout=PATIENCE).read().decode())


def test_a_server_tells_of_all_domains(machine: Machine) -> None:
    def grown() -> list[bool]:
        pairs = (
            (each.value(family, domain, **labels) for each in (first, second))
            for family, domain, labels in WORK
        )
        return [before < after for before, after in pairs]

    with serving(machine) as url:
        first = second = read(url)
        deadline = time.monotonic() + PATIENCE
        while not all(grown()):  # each works, and on a busy machine not at every moment
            assert time.monotonic() < deadline, grown()
            second = read(url)
        listeners = Path("/proc/net/tcp").read_text()
    port = int(url.removeprefix("http://127.0.0.1:").removesuffix("/metrics"))
    assert f" 0100007F:{port:04X} 00000000:0000 0A " in listeners  # the loopback interface
    kinds = {name: family.type for name, family in first.families.items()}
    assert kinds == {
        **dict.fromkeys(COUNTERS, "counter"),
        **dict.fromkeys(GAUGES, "gauge"),
        "pyxen_host_memory_available_bytes": "gauge",
    }
    assert all(family.documentation for family in first.families.values())
    assert len(first.values("vcpu_seconds", "web")) == 2 * 4
    assert [first.value("vcpu_online", "web", vcpu=vcpu) for vcpu in ("0", "1")] == [1, 0]
    assert first.value("memory_bytes", "web", domid="1") == 8 << 20
    assert first.value("memory_max_bytes", "web") == 8 << 20
    assert first.value("disk_bytes", "clock", device="vbd-51712", direction="read") == 0
    assert first.value("disk_requests", "clock", device="vbd-51712", direction="write") == 0
    assert first.value("network_bytes", "clock", device="vif-0", direction="transmit") == 0
    assert first.value("network_packets", "clock", device="vif-0", direction="receive") == 0
    assert first.states("bad") == ["crashed"]
    assert first.value("up", "bad") == 1  # it is preserved


def test_a_file_is_written_at_once(machine: Machine) -> None:
    folder = machine.folder / "textfile"
    folder.mkdir()
    path = folder / "pyxen.prom"
    machine.do("pause", "clock")
    machine.do("metrics", "--file", path)
    before = Metrics(path.read_text())
    assert [before.value("up", name) for name in ("web", "clock")] == [1, 1]
    assert before.states("clock") == ["paused"]
    assert before.states("Domain-0") == ["running"]
    killed = machine.registry.find("web").record.pid
    os.kill(killed, signal.SIGKILL)
    os.kill(machine.registry.find("clock").record.pid, signal.SIGSTOP)
    machine.until(lambda: not machine.registry.find("web").alive)
    machine.do("metrics", "--file", path)
    after = Metrics(path.read_text())
    assert (after.states("web"), after.value("up", "web")) == (["crashed"], 0)
    assert (after.states("clock"), after.value("up", "clock")) == (["unknown"], 0)
    assert after.values("cpu_seconds", "web") == after.values("cpu_seconds", "clock") == []
    assert list(folder.iterdir()) == [path]


def test_what_cannot_be(own_machine: Machine) -> None:
    expected = "/none/x.prom: No such file or directory"
    assert own_machine.refusal("metrics", "--file", "/none/x.prom") == expected
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        expected = f"metrics: port {port}: Address already in use"
        assert own_machine.refusal("metrics", "--port", str(port)) == expected
    for arguments in (("--port", "65536"), ("--port", "http"), (), ("--port", "0", "--file", "x")):
        assert own_machine.call("metrics", *arguments).returncode == 2
