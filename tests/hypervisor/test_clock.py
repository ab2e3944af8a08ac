# SPDX-License-Identifier: GPL-2.0-or-later
"""System time: the scale, steering without a jump, and the version protocol."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxen.abi.xen import SHARED_INFO, VCPU_INFO, VCPU_TIME_INFO
from pyxen.hypervisor import clock as clock_module
from pyxen.hypervisor.clock import Clock

SECOND = 1_000_000_000
TIME = VCPU_INFO.offsets["time"]


class Host:
    """A host whose TSC and clock may disagree. Each look at the TSC takes ``cost`` ticks."""

    def __init__(self, hertz: float = 2.4e9, cost: int = 0) -> None:
        self.ns = 77 * SECOND
        self.tsc = 10**12
        self.hertz = hertz
        self.cost = cost

    def pass_time(self, ns: int) -> None:
        self.ns += ns
        self.tsc += round(ns * self.hertz / SECOND)

    def monotonic_ns(self) -> int:
        return self.ns

    def time_ns(self) -> int:
        return 1_700_000_000 * SECOND + 5

    def sleep(self, seconds: float) -> None:
        self.pass_time(round(seconds * SECOND))

    def read_tsc(self) -> int:
        self.tsc += self.cost
        return self.tsc


def start(monkeypatch: pytest.MonkeyPatch, host: Host) -> Clock:
    monkeypatch.setattr(clock_module, "time", host)
    clock = Clock(host.read_tsc)
    clock.start()
    return clock


def read_time_info(page: bytearray) -> dict[str, int]:
    values = VCPU_TIME_INFO.unpack_from(page, TIME)
    return dict(zip(VCPU_TIME_INFO.offsets, values, strict=False))


def as_the_guest(page: bytearray, tsc: int) -> int:
    """System time at a TSC value, by the formula in ``xen.h``."""
    info = read_time_info(page)
    delta = tsc - info["tsc_timestamp"]
    shift = info["tsc_shift"]
    delta = delta << shift if shift >= 0 else delta >> -shift
    return info["system_time"] + (delta * info["tsc_to_system_mul"] >> 32)


@pytest.mark.parametrize("hertz", [1e6, 33e6, 1e9, 2.4e9, 3.999e9, 4.3e9, 20e9])
def test_scale(monkeypatch: pytest.MonkeyPatch, hertz: float) -> None:
    host = Host(hertz)
    clock = start(monkeypatch, host)
    assert 1 << 31 <= clock.mul < 1 << 32
    assert clock.khz == pytest.approx(hertz / 1000, rel=1e-4)
    assert clock.now() == 0
    host.pass_time(10 * SECOND)
    assert clock.now() == pytest.approx(10 * SECOND, rel=1e-4)


@given(
    drift=st.floats(-2e-4, 2e-4),
    cost=st.integers(0, 2000),
    pauses=st.lists(st.integers(1, 3 * SECOND), min_size=1, max_size=30),
)
def test_never_jumps_and_never_goes_back(drift: float, cost: int, pauses: list[int]) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        host = Host(cost=cost)
        clock = start(monkeypatch, host)
        page = bytearray(4096)
        clock.write(memoryview(page), 0)
        host.hertz *= 1 + drift
        last = 0
        for pause in pauses:
            host.pass_time(pause)
            before = bytes(page)
            steered = clock.steer()
            clock.write(memoryview(page), 0)
            if steered:
                stamp = read_time_info(page)["tsc_timestamp"]
                old = as_the_guest(bytearray(before), stamp)
                assert as_the_guest(page, stamp) == old
            now = as_the_guest(page, host.tsc)
            assert now >= last
            last = now


@pytest.mark.parametrize("hertz", [33e6, 1e9, 2.4e9, 4.3e9, 20e9])
def test_counter_at_a_time(monkeypatch: pytest.MonkeyPatch, hertz: float) -> None:
    host = Host(hertz)
    clock = start(monkeypatch, host)
    host.pass_time(3 * SECOND)
    clock.steer()
    for deadline in (1, 5, SECOND, 3 * SECOND + 7, 3 * SECOND + 12345, 10**14):
        tsc = clock.tsc_at(deadline)
        assert clock._system_at(tsc) >= deadline
        assert clock._system_at(tsc - 1) <= deadline


def test_steers_towards_the_hosts_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    clock = start(monkeypatch, host)
    begin = host.ns
    host.hertz *= 1.0001
    for _ in range(200):
        host.pass_time(SECOND)
        assert clock.steer()
    assert abs(clock.now() - (host.ns - begin)) < 100_000


def test_steers_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host()
    clock = start(monkeypatch, host)
    host.pass_time(SECOND - 1)
    assert not clock.steer()
    host.pass_time(1)
    assert clock.steer()
    assert not clock.steer()


@pytest.mark.parametrize("version", [0, 1, 7, 8, 0xFFFFFFFE, 0xFFFFFFFF])
def test_version_is_odd_while_writing_and_even_after(
    monkeypatch: pytest.MonkeyPatch, version: int
) -> None:
    clock = start(monkeypatch, Host())
    page = bytearray(4096)
    struct.pack_into("<I", page, TIME, version)
    seen: list[int] = []
    scale = clock_module._SCALE

    class Spy:
        def pack_into(self, *arguments: Any) -> None:
            seen.extend(struct.unpack_from("<I", page, TIME))
            scale.pack_into(*arguments)

    monkeypatch.setattr(clock_module, "_SCALE", Spy())
    clock.write(memoryview(page), 0)
    (after,) = struct.unpack_from("<I", page, TIME)
    assert seen == [version | 1]
    assert after == (version | 1) + 1 & 0xFFFFFFFF
    assert as_the_guest(page, clock._tsc) == 0


def test_wall_clock_is_the_time_of_day_at_time_0(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(2e9)
    clock = start(monkeypatch, host)
    host.pass_time(3 * SECOND)
    page = bytearray(4096)
    clock.write_wall_clock(memoryview(page), 0)
    at = SHARED_INFO.offsets["wc_version"]
    version, seconds, nanoseconds, high = struct.unpack_from("<IIII", page, at)
    assert version == 2
    assert (high << 32 | seconds, nanoseconds) == (1_700_000_000 - 3, 5)
