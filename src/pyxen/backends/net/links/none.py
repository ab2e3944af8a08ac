# SPDX-License-Identifier: GPL-2.0-or-later
"""A card that is connected to nothing."""

from __future__ import annotations

from collections.abc import Sequence

from pyxen.backends.net.link import Frame, Receive


class NoLink:
    """A Link that drops all frames, and from which none come."""

    takes_unfinished = True

    def __init__(self) -> None:
        self._dropped = 0

    def open(self, receive: Receive) -> None:
        pass

    def send(self, frames: Sequence[Frame]) -> None:
        self._dropped += len(frames)

    def resume(self) -> None:
        pass

    def close(self) -> None:
        pass

    def release(self) -> None:
        pass

    def statistics(self) -> dict[str, int]:
        return {"link_tx_dropped": self._dropped}
