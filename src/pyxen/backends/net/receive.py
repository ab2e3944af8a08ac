# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring ``rx``: from frames for the guest to slots.

The front end puts in empty pages, one in each slot. A frame takes as many as it has pages, and one
more for an extra info if it is a large segment. What finds no slots waits, up to a limit.

Even if there are slots, not all of what waits is put in at once. A guest stands still while we do
that, and would find hundreds of packets in the next moment, more than its sockets take while their
program reads. So after ``ROUND`` slots the guest is to do something first: to put in new slots, as
front ends do when they have looked at the ring.

What the front end cannot take as it is, a frame without a checksum or a large segment, is finished
first (``offload``).

Reference: ``public/io/netif.h``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from pyxen.abi.io_netif import (
    NETIF_RSP_ERROR,
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6,
    XEN_NETIF_MAX_TX_SIZE,
    NETRXF_csum_blank,
    NETRXF_data_validated,
    NETRXF_extra_info,
    NETRXF_more_data,
)
from pyxen.backends.net.link import ETHERNET_HEADER, GSO_NONE, GSO_TCPV4, GSO_TCPV6, Frame
from pyxen.backends.net.offload import fill_checksum, is_ipv6, segment
from pyxen.backends.net.ring import RX_WORDS, Ring
from pyxen.hypervisor.grants import GrantError
from pyxen.hypervisor.page_flags import PAGE_SIZE

if TYPE_CHECKING:
    from pyxen.hypervisor.grant_access import GrantAccess

ROUND: Final = 64
"""Slots; a small frame counts as two, since each has a price of its own."""
MAX_WAITING: Final = 4 << 20
"""Bytes of frames that wait for slots; what comes then is dropped."""
ENOUGH_WAITING: Final = 1 << 19
"""With so many links are asked to hold back."""
_MOST: Final = MAX_WAITING
_ROUND: Final = ROUND
_INDEX_MASK: Final = 0xFFFF_FFFF
_LARGEST: Final = XEN_NETIF_MAX_TX_SIZE
_CSUM_BLANK: Final = NETRXF_csum_blank
_DATA_VALIDATED: Final = NETRXF_data_validated
_MORE_DATA: Final = NETRXF_more_data
_EXTRA_INFO: Final = NETRXF_extra_info
_GSO_EXTRA: Final = XEN_NETIF_EXTRA_TYPE_GSO
_TCPV4: Final = XEN_NETIF_GSO_TYPE_TCPV4
_TCPV6: Final = XEN_NETIF_GSO_TYPE_TCPV6
_ERROR: Final = NETIF_RSP_ERROR & 0xFFFF


class Abilities:
    """What a front end takes: frames of several slots (``sg``), large segments by the number of
    their kind (``gso``), frames without a checksum."""

    def __init__(
        self,
        *,
        sg: bool = False,
        gso: Sequence[int] = (),
        ipv4_checksum: bool = True,
        ipv6_checksum: bool = False,
    ) -> None:
        self.sg = sg
        self.gso_v4 = GSO_TCPV4 in gso
        self.gso_v6 = GSO_TCPV6 in gso
        self.ipv4_checksum = ipv4_checksum
        self.ipv6_checksum = ipv6_checksum


class Receiver:
    """``ring`` is on ``page``. Counters: frames and bytes that were given, and what was
    ``dropped`` or given in vain (``failed``: the front end's grant was refused)."""

    def __init__(self, page: memoryview, grants: GrantAccess, abilities: Abilities) -> None:
        self.ring = Ring(page, RX_WORDS)
        self.packets = 0
        self.bytes = 0
        self.dropped = 0
        self.failed = 0
        self.waiting_bytes = 0
        self.paused = False
        self._left = ROUND
        self._slots_seen = 0
        self._waiting: deque[Frame] = deque()
        self._grants = grants
        self._abilities = abilities

    def add(self, frame: Frame) -> None:
        """Let a frame wait for ``deliver``."""
        data = frame.data
        size = len(data)
        if not ETHERNET_HEADER <= size <= _LARGEST or self.waiting_bytes > _MOST:
            self.dropped += 1
            return
        abilities = self._abilities
        if frame.gso != GSO_NONE:
            if not (abilities.gso_v6 if frame.gso == GSO_TCPV6 else abilities.gso_v4):
                for each in segment(frame):
                    self._add(each)
                return
        elif frame.checksum_start and not (
            abilities.ipv6_checksum if is_ipv6(data) else abilities.ipv4_checksum
        ):
            frame = fill_checksum(frame)
        self._add(frame)

    def _add(self, frame: Frame) -> None:
        size = len(frame.data)
        if size > PAGE_SIZE and not self._abilities.sg:
            self.dropped += 1
            return
        self._waiting.append(frame)
        self.waiting_bytes += size

    def deliver(self) -> None:
        """Put in what waits, as far as there are slots in this round; the front end sees it after
        ``push`` of the ring. For the rest the next slots send an event; ``paused`` says that there
        are slots nevertheless. Raises BackendError for a broken ring."""
        ring = self.ring
        waiting = self._waiting
        free = ring.waiting()
        seen = (ring.consumed + free) & _INDEX_MASK
        if seen != self._slots_seen:
            self._slots_seen = seen
            self.begin_round()
        while waiting:
            frame = waiting[0]
            size = len(frame.data)
            needed = (size + PAGE_SIZE - 1) // PAGE_SIZE
            if frame.gso != GSO_NONE:
                needed += 1
            while free < needed or self._left <= 0:
                if not ring.ask_for_events(free):
                    self.paused = free >= needed
                    return
                free = ring.waiting()
                self.begin_round()
            waiting.popleft()
            self.waiting_bytes -= size
            free -= needed
            self._left -= max(needed, 2)
            self._put(frame, size)

    def begin_round(self) -> None:
        """The front end has had its turn."""
        self._left = _ROUND
        self.paused = False

    def _put(self, frame: Frame, size: int) -> None:
        ring = self.ring
        words = ring.words
        flags = 0
        if frame.checksum_start:
            flags = _CSUM_BLANK | _DATA_VALIDATED
        elif frame.checksum_valid:
            flags = _DATA_VALIDATED
        gso = frame.gso
        if gso != GSO_NONE:
            flags |= _EXTRA_INFO
        view = memoryview(frame.data)
        done = 0
        failed = False
        while done < size:
            length = min(size - done, PAGE_SIZE)
            place = ring.take()
            identity = words[place] & 0xFFFF
            reference = words[place + 1]
            status = length
            try:
                self._grants.copy_to(reference, 0, view[done : done + length])
            except GrantError:
                failed = True
                status = _ERROR
            done += length
            if done < size:
                flags |= _MORE_DATA
            words[place] = identity
            words[place + 1] = flags | status << 16
            if flags & _EXTRA_INFO:
                place = ring.take()
                words[place] = _GSO_EXTRA | frame.segment_size << 16
                words[place + 1] = _TCPV6 if gso == GSO_TCPV6 else _TCPV4
            flags = 0
        if failed:
            self.failed += 1
        else:
            self.packets += 1
            self.bytes += size
