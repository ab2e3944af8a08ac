# SPDX-License-Identifier: GPL-2.0-or-later
"""Rate limits of a disk: how many operations and bytes it may do in a time."""

from __future__ import annotations

from pyxen.backends.allowance import Allowance


class Limits:
    """The allowances of one disk, None where there is no limit."""

    def __init__(
        self, operations: Allowance | None = None, transferred: Allowance | None = None
    ) -> None:
        self._operations = operations
        self._transferred = transferred

    def wait(self) -> float:
        """Seconds until the next request may begin."""
        delay = 0.0
        if self._operations is not None:
            delay = self._operations.wait()
        if self._transferred is not None:
            delay = max(delay, self._transferred.wait())
        return delay

    def spend(self, size: int) -> None:
        """A request begins that moves so many bytes."""
        if self._operations is not None:
            self._operations.spend(1)
        if self._transferred is not None:
            self._transferred.spend(size)
