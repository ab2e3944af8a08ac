# SPDX-License-Identifier: GPL-2.0-or-later
"""What a network card is connected to, as the back end sees it: something that takes and gives
Ethernet frames.

A frame may be unfinished, as between a driver and a card that helps it: its checksum is to be
filled in, or it is one large TCP segment that is to be cut into many. Links that lead to somebody
who can do that himself (a tap device, another guest) take such frames as they are; for the others
the back end finishes them first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

ETHERNET_HEADER: Final = 14
GSO_NONE: Final = 0
GSO_TCPV4: Final = 1
GSO_TCPV6: Final = 2


class Frame(NamedTuple):
    """An Ethernet frame without its check sequence.

    ``checksum_start`` and ``checksum_offset`` say where the sum over the rest begins and where,
    counted from there, it belongs; 0 and 0 for a frame that is complete. ``checksum_valid`` says
    that somebody has checked it already, or that it never was on a wire. ``segment_size`` is the
    payload of each packet that a large segment (``gso`` not GSO_NONE) is to be cut into.
    """

    data: bytes
    checksum_start: int = 0
    checksum_offset: int = 0
    checksum_valid: bool = False
    gso: int = GSO_NONE
    segment_size: int = 0


Receive = Callable[[Sequence[Frame]], bool]
"""Takes frames that have come from outside, in the thread of the vCPUs. False: the guest cannot
take more at present; the link may hold the following ones back until ``resume``, or drop them."""


class Link(Protocol):
    """See the module. All methods are called in the thread of the vCPUs and never block."""

    @property
    def takes_unfinished(self) -> bool:
        """Frames with GSO or without a checksum may be sent as they are."""

    def open(self, receive: Receive) -> None:
        """The card is connected: frames may come from now on. Raises PyxenError."""

    def send(self, frames: Sequence[Frame]) -> None:
        """Frames of the guest, of at most 65535 bytes each. What the outside cannot take is
        dropped and counted."""

    def resume(self) -> None:
        """The guest can take frames again."""

    def close(self) -> None:
        """No frame comes after this; idempotent. A closed link can be opened again."""

    def release(self) -> None:
        """Give back what the link has of the host: processes, devices, sockets; idempotent."""

    def statistics(self) -> dict[str, int]:
        """Counters since the start, such as what was dropped."""
