# SPDX-License-Identifier: GPL-2.0-or-later
"""A rate: so much in a time, for disks and network cards."""

from __future__ import annotations

import time
from collections.abc import Callable


class Allowance:
    """So much in each interval, which comes evenly; at most one interval's worth is saved up.

    What is spent beyond it is a debt, during which nothing more may be: so one large request always
    passes, and the average holds.
    """

    def __init__(
        self, amount: int, interval: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if amount <= 0 or interval <= 0:
            raise ValueError(f"allowance: {amount} in {interval} s is not a rate")
        self._amount = amount
        self._rate = amount / interval
        self._clock = clock
        self._credit = float(amount)
        self._time = clock()

    def wait(self) -> float:
        """Seconds until something may be spent; 0 now."""
        now = self._clock()
        self._credit = min(self._amount, self._credit + (now - self._time) * self._rate)
        self._time = now
        return 0.0 if self._credit > 0 else (1 - self._credit) / self._rate

    def spend(self, amount: int) -> None:
        self._credit -= amount
