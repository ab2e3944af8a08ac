# SPDX-License-Identifier: GPL-2.0-or-later
"""How often domains may write while others have transactions.

A transaction fails when somebody changes what it relies on, so a domain that writes all the time
could keep others, the tool stack among them, from ever finishing one. While transactions are open,
each write of an unprivileged domain therefore costs credit, and a domain whose credit is negative
is not listened to. All domains together get credit for 200 writes a second, in equal shares, and
each keeps at most 10. What one does not use goes to a common reserve of at most 1000, from which
those who lack credit get some; new domains get their first 10 from it, too, even if it is then
short of as much as 50.

Reference: xenstored of Xen 4.17, whose numbers these are; credit is in thousandths of a write.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pyxen.xenstore.domains import DomainRecord

WRITE: Final = 1000
RATE: Final = 200 * WRITE
BURST: Final = 10 * WRITE
_RESERVE_MAX: Final = 1000 * WRITE
_RESERVE_MIN: Final = -5 * BURST
_CREDIT_MAX: Final = 1_000_000_000
_LONGEST: Final = 1_000_000_000
"""Milliseconds: more have the same effect."""


class WriteRate:
    """The credit of a store's domains. Times are milliseconds."""

    def __init__(self) -> None:
        self.reserve = 0
        self._domains = 0

    def add(self, record: DomainRecord, now: int) -> None:
        """A domain is new."""
        self._domains += 1
        record.credit_time = now
        record.credit = max(0, min(self.reserve - _RESERVE_MIN, BURST))
        self.reserve -= record.credit

    def remove(self, record: DomainRecord) -> None:
        """A domain has gone; the reserve inherits."""
        self._domains -= 1
        self.reserve += max(0, min(record.credit, BURST - self.reserve))

    def update(self, record: DomainRecord, now: int) -> None:
        """Give a domain what it has got since the last time."""
        passed = max(0, min(now - record.credit_time, _LONGEST))
        record.credit_time = now
        credit = min(record.credit + passed * RATE // (self._domains * 1000), _CREDIT_MAX)
        lent = max(0, min(self.reserve, -credit))
        self.reserve -= lent
        credit += lent
        surplus = max(0, credit - BURST)
        record.credit = credit - surplus
        self.reserve += max(0, min(surplus, _RESERVE_MAX - self.reserve))

    def charge(self, record: DomainRecord, now: int) -> None:
        """A domain writes."""
        self.update(record, now)
        record.credit -= WRITE
        self.update(record, now)  # the reserve may have what it lacks

    def waiting_time(self, record: DomainRecord) -> int:
        """In how many milliseconds its credit is no more negative, at the latest."""
        return max(0, -record.credit * 1000 * self._domains // RATE)
