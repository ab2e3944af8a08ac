# SPDX-License-Identifier: GPL-2.0-or-later
"""Which frames to groups a guest wants.

A front end that asks for it (``request-multicast-control``) gets frames to those groups only that
it has named by extra infos in the ring ``tx``. It may name some before it asks, too.
"""

from __future__ import annotations

from typing import Final

MAX_ADDRESSES: Final = 64
_BROADCAST: Final = b"\xff" * 6


class MulticastFilter:
    """``enabled`` is what the front end has asked for."""

    def __init__(self) -> None:
        self.enabled = False
        self._addresses: list[bytes] = []

    def add(self, address: bytes) -> bool:
        """Whether there was room. An address may be there more than once."""
        if len(self._addresses) >= MAX_ADDRESSES:
            return False
        self._addresses.append(address)
        return True

    def remove(self, address: bytes) -> None:
        """Take it away once; nothing happens if it is not there."""
        if address in self._addresses:
            self._addresses.remove(address)

    def passes(self, data: bytes) -> bool:
        """Whether a frame is for this guest."""
        if not self.enabled or not data[0] & 1:
            return True
        address = data[:6]
        return address == _BROADCAST or address in self._addresses
