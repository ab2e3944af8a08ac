# SPDX-License-Identifier: GPL-2.0-or-later
"""What the store keeps of a domain: how much it uses, and its connection."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from msgspec import Struct, field

from pyxen.xenstore.quotas import Quotas, limit

if TYPE_CHECKING:
    from pyxen.xenstore.connection import Connection

log = logging.getLogger(__name__)


class DomainRecord(Struct, eq=False):
    """``generation`` is that of the store when the domain became known: permissions in nodes older
    than it are those of another domain of the same number. ``connection`` is there from the
    domain's introduction on. ``nodes`` are the paths of those that it owns. ``credit`` is what it
    may still write, as of ``credit_time`` (see ``write_rate``); ``resting``: it is waited for."""

    domid: int
    generation: int
    quotas: Quotas
    features: int
    connection: Connection | None = None
    port: int = 0
    shut_down: bool = False
    nodes: set[str] = field(default_factory=set)
    memory: int = 0
    watches: int = 0
    outstanding: int = 0
    reported_hard: bool = False
    reported_soft: bool = False
    credit: int = 0
    credit_time: int = 0
    resting: bool = False
    reported_rate: bool = False

    @property
    def unprivileged(self) -> bool:
        return self.domid != 0

    @property
    def introduced(self) -> bool:
        return self.connection is not None

    def is_stalled(self) -> bool:
        """Whether no request of it is read for now."""
        if not self.unprivileged:
            return False
        if self.credit < 0 or self._is_over(self.memory):
            return True
        return self.outstanding >= limit(self.quotas.outstanding)

    def has_room(self, size: int) -> bool:
        """Whether so many bytes more are below the hard quota of memory."""
        return size <= 0 or not self.unprivileged or not self._is_over(self.memory + size)

    def _is_over(self, memory: int) -> bool:
        return memory >= limit(self.quotas.memory)

    def charge(self, size: int) -> None:
        """Account for memory, or give it back if negative, without regard to the quota."""
        self.memory += size
        if self.unprivileged:
            self._report()
            if size < 0:
                self.wake()

    def finish_request(self) -> None:
        """One request is not outstanding any more."""
        self.outstanding -= 1
        self.wake()

    def wake(self) -> None:
        """Look for requests that may be read again, if any were held back."""
        if self.connection is not None and self.connection.held_back:
            self.connection.wake_later()

    def _report(self) -> None:
        """Tell the log once that it is above a quota: a domain must not fill the log."""
        if not self.reported_hard and self._is_over(self.memory):
            self.reported_hard = True
            log.warning(
                "xenstore: domain %d exceeds its hard quota of memory, and is not listened to",
                self.domid,
            )
        elif not self.reported_soft and self.memory >= limit(self.quotas.memory_soft):
            self.reported_soft = True
            log.warning("xenstore: domain %d exceeds its soft quota of memory", self.domid)
