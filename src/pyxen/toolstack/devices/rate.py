# SPDX-License-Identifier: GPL-2.0-or-later
"""Rate limits as xl writes them: ``10Mb/s``, ``250KB/s``, ``1MB/s@20ms``.

A device may move so many bytes in each interval. The same is written to the store as two numbers
with a comma. Reference: ``xl-network-configuration(5)``.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from pyxen.errors import PyxenError

_FORM: Final = re.compile(r"([0-9]+)([GMK]?)([Bb])/s(?:@([0-9]+)(m|u|)s?)?")
_FACTORS: Final = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_MICROSECONDS: Final = {"": 10**6, "m": 10**3, "u": 1}
_DEFAULT_INTERVAL: Final = 50_000
_UINT32_MAX: Final = 0xFFFF_FFFF


class RateLimit(Struct, frozen=True, forbid_unknown_fields=True):
    """So many bytes in each interval, which is in microseconds."""

    bytes_per_interval: int
    interval_us: int

    def __str__(self) -> str:
        """As the store has it."""
        return f"{self.bytes_per_interval},{self.interval_us}"


def parse_rate(text: str) -> RateLimit:
    """Raises PyxenError."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise PyxenError(f"rate: {text!r} is not like 10Mb/s, 250KB/s or 1MB/s@20ms")
    number = int(match[1])
    interval = _DEFAULT_INTERVAL
    if match[4] is not None:
        interval = int(match[4]) * _MICROSECONDS[match[5]]
    if not (0 < number <= _UINT32_MAX and 0 < interval <= _UINT32_MAX):
        raise PyxenError(f"rate: {text!r} is out of range")
    per_second = number * _FACTORS[match[2]] // (8 if match[3] == "b" else 1)
    return RateLimit(per_second * interval // 10**6, interval)
