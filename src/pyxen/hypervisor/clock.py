# SPDX-License-Identifier: GPL-2.0-or-later
"""Time, as Xen tells it to guests.

*System time* is nanoseconds since the domain's machine was started. A guest computes it without
asking: it reads the time-stamp counter (TSC) and applies the scale in its ``vcpu_time_info``::

    system_time + ((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32

Whoever writes the structure makes ``version`` odd before and even after. The *wall clock* in
the shared info page is the time of day at which system time was 0.

The frequency of the TSC is measured against the host's monotonic clock, first over a few
hundredths of a second, then over all the time since, and system time is steered to that clock
without a jump.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from typing import Final

from pyxen.abi.xen import SHARED_INFO, VCPU_INFO, VCPU_TIME_INFO

NANOSECONDS: Final = 1_000_000_000
_FIRST_MEASUREMENT: Final = 40_000_000
_STEERING: Final = NANOSECONDS
"""A deviation is made good over about this time."""

_VERSION: Final = VCPU_INFO.offsets["time"] + VCPU_TIME_INFO.offsets["version"]
_BEHIND_VERSION: Final = VCPU_INFO.offsets["time"] + VCPU_TIME_INFO.offsets["tsc_timestamp"]
_SCALE: Final = struct.Struct("<QQIbB")
_WALL_CLOCK: Final = SHARED_INFO.offsets["wc_version"]


class Clock:
    """System time from the TSC. ``mul`` and ``shift`` are the scale at the moment."""

    def __init__(self, read_tsc: Callable[[], int]) -> None:
        self._read_tsc = read_tsc
        self._first_host, self._first_tsc = time.monotonic_ns(), read_tsc()
        self.khz = 0
        self.mul = 0
        self.shift = 0
        self._tsc = self._first_tsc
        self._system = 0

    def start(self) -> None:
        """Measure the frequency, waiting if the clock is very new, and begin to count."""
        passed = time.monotonic_ns() - self._first_host
        if passed < _FIRST_MEASUREMENT:
            time.sleep((_FIRST_MEASUREMENT - passed) / NANOSECONDS)
        host, self._tsc = time.monotonic_ns(), self._read_tsc()
        hertz = (self._tsc - self._first_tsc) * NANOSECONDS // (host - self._first_host)
        self.khz = hertz // 1000
        self._set_scale(hertz)
        self._first_system_host = host
        self._last_update = host

    def _set_scale(self, hertz: int) -> None:
        """mul is ns per tick in 32-bit fractions of a power of two, as precise as it can be."""
        shift = 0
        mul = (NANOSECONDS << 32) // hertz
        while mul >= 1 << 32:
            mul >>= 1
            shift += 1
        while mul < 1 << 31:
            shift -= 1
            mul = (NANOSECONDS << 32 - shift) // hertz
        self.mul, self.shift = mul, shift

    def now(self) -> int:
        """System time, in ns."""
        return self._system_at(self._read_tsc())

    def _system_at(self, tsc: int) -> int:
        ticks = tsc - self._tsc
        ticks = ticks << self.shift if self.shift >= 0 else ticks >> -self.shift
        return self._system + (ticks * self.mul >> 32)

    def tsc_at(self, system: int) -> int:
        """The time-stamp counter at which ``now`` is no less than this system time."""
        ticks = -((system - self._system << 32) // -self.mul)
        return self._tsc + (-(-ticks >> self.shift) if self.shift >= 0 else ticks << -self.shift)

    def behind(self) -> int:
        """By how much the host's clock has gone ahead, in ns."""
        return time.monotonic_ns() - self._first_system_host - self.now()

    def steer(self) -> bool:
        """Measure again if a second has passed; True if ``write`` has news for the guests."""
        host = time.monotonic_ns()
        if host - self._last_update < NANOSECONDS:
            return False
        self._last_update = host
        tsc = self._read_tsc()
        self._system, self._tsc = self._system_at(tsc), tsc
        hertz = (tsc - self._first_tsc) * NANOSECONDS // (host - self._first_host)
        behind = host - self._first_system_host - self._system
        behind = max(-_STEERING // 1000, min(_STEERING // 1000, behind))
        self._set_scale(hertz - hertz * behind // _STEERING)
        return True

    def write(self, view: memoryview, vcpu_info: int) -> None:
        """Fill the time part of the vcpu_info at this machine address."""
        (version,) = struct.unpack_from("<I", view, vcpu_info + _VERSION)
        version = (version | 1) & 0xFFFFFFFF
        struct.pack_into("<I", view, vcpu_info + _VERSION, version)
        _SCALE.pack_into(
            view, vcpu_info + _BEHIND_VERSION, self._tsc, self._system, self.mul, self.shift, 0
        )
        struct.pack_into("<I", view, vcpu_info + _VERSION, (version + 1) & 0xFFFFFFFF)

    def write_wall_clock(self, view: memoryview, shared_info: int) -> None:
        """Fill the wall clock of the shared info page at this machine address."""
        start = time.time_ns() - self.now()
        seconds, nanoseconds = divmod(start, NANOSECONDS)
        at = shared_info + _WALL_CLOCK
        (version,) = struct.unpack_from("<I", view, at)
        version = (version | 1) & 0xFFFFFFFF
        struct.pack_into("<I", view, at, version)
        struct.pack_into(
            "<III", view, at + 4, seconds & 0xFFFFFFFF, nanoseconds, seconds >> 32 & 0xFFFFFFFF
        )
        struct.pack_into("<I", view, at, (version + 1) & 0xFFFFFFFF)
