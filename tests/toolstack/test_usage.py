# SPDX-License-Identifier: GPL-2.0-or-later
"""Samples of what domains use, also of those that do not answer, and rates between samples."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from msgspec.structs import replace

from pyxen.toolstack.control.client import opened
from pyxen.toolstack.control.messages import DomainInfo, VcpuInfo
from pyxen.toolstack.registry import Membership, Record, Registry
from pyxen.toolstack.usage import Sample, compare, take_samples

STUCK = 12
INFO = DomainInfo(
    domid=3,
    name="web",
    uuid="",
    pid=1,
    started=0.0,
    memory_kib=8192,
    max_memory_kib=8192,
    paused=False,
    shutdown_reason="",
    vcpus=(VcpuInfo(0, True, True, False, 10**9, 10**8, 0, 0),),
)
HOST = Sample(replace(INFO, domid=0, name="Domain-0", memory_kib=1 << 20), 10**9)


def member(number: int) -> Membership:
    return Registry().add(lambda domid: Record(domid, f"d{number}", "", 1, 0.0, "", 8, 1), {})


@pytest.fixture
def stuck(own_host: None) -> Iterator[None]:
    """Domains that live and answer to nobody."""
    with ExitStack() as stack:
        for number in range(STUCK):
            domain = member(number)
            stack.callback(domain.leave)
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            with opened(domain.folder) as folder:
                listener.bind(f"{folder}/control.sock")
            listener.listen()
        yield


@pytest.mark.usefixtures("stuck")
def test_all_are_waited_for_at_the_same_time() -> None:
    begun = time.monotonic()
    host, *domains = take_samples()
    assert time.monotonic() - begun < STUCK / 2  # each has a second
    assert (host.info.name, host.note) == ("Domain-0", "")
    assert sorted(each.info.name for each in domains) == sorted(f"d{n}" for n in range(STUCK))
    for each in domains:
        assert each.note.endswith("its process does not answer")
        assert (each.info.shutdown_reason, each.devices("vbd")) == ("", [])


def test_without_domains(own_host: None) -> None:
    (host,) = take_samples()
    assert host.info.cpu_ns > 0
    assert all(vcpu.blocked_ns >= 0 for vcpu in host.info.vcpus)


def sample(taken: float, cpu: float, read: int = 0, domid: int = 3, note: str = "") -> Sample:
    vcpu = replace(INFO.vcpus[0], cpu_ns=int(cpu * 1e9))
    info = replace(INFO, domid=domid, vcpus=(vcpu,))
    figures = {"devices": {"vbd-51712": {"bytes_read": read}, "vbd-832": {"bytes_read": 2 * read}}}
    return Sample(info, int(taken * 1e9), note, figures)


def test_rates() -> None:
    _, usage = compare([HOST, sample(12, 6.5, 3000)], [HOST, sample(10, 6, 1000)])
    assert usage.host_memory_kib == 1 << 20
    assert usage.percent(lambda each: each.info.cpu_ns) == pytest.approx(25)
    assert usage.rate(lambda each: each.count("vbd-51712", "bytes_read")) == pytest.approx(1000)
    assert usage.rate(lambda each: each.total("vbd", "bytes_read")) == pytest.approx(3000)
    assert usage.sample.devices("vbd") == ["vbd-832", "vbd-51712"]
    assert usage.sample.count("vbd-51712", "unknown") == 0


@pytest.mark.parametrize(
    "before",
    (
        [],
        [HOST],
        [HOST, sample(10, 6, domid=2)],  # it was restarted
        [HOST, sample(10, 0, note="it does not answer")],
        [HOST, sample(12, 6)],  # the same moment
        [HOST, sample(10, 7)],  # a counter that went back
    ),
)
def test_what_has_no_rate(before: list[Sample]) -> None:
    usage = compare([HOST, sample(12, 6.5)], before)[1]
    assert usage.rate(lambda each: each.info.cpu_ns) == 0
