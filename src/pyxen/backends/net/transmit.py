# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring ``tx``: from its slots to frames that the guest sends.

A packet is one slot, then its extra infos, then further pieces, each a grant of a page and a place
in it. The first slot has the size of the whole; what the others have of it is left for the first
piece. The data is copied at once, so that each slot can be answered at once.

What makes no sense as a ring (slots that are missing, an unknown extra info, a piece beyond its
page) closes the card, as Linux's back end does; a packet that cannot be sent is answered with an
error.

Reference: ``public/io/netif.h``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyxen.abi.io_netif import (
    NETIF_RSP_ERROR,
    NETIF_RSP_NULL,
    NETIF_RSP_OKAY,
    XEN_NETIF_EXTRA_FLAG_MORE,
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_EXTRA_TYPE_MAX,
    XEN_NETIF_EXTRA_TYPE_MCAST_ADD,
    XEN_NETIF_EXTRA_TYPE_MCAST_DEL,
    XEN_NETIF_EXTRA_TYPE_NONE,
    XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_GSO_TYPE_TCPV6,
    XEN_NETIF_NR_SLOTS_MIN,
    NETTXF_csum_blank,
    NETTXF_data_validated,
    NETTXF_extra_info,
    NETTXF_more_data,
)
from pyxen.backends.net.link import (
    ETHERNET_HEADER,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    Frame,
)
from pyxen.backends.net.offload import find_checksum, is_segment, set_pseudo_sum
from pyxen.backends.net.ring import TX_WORDS, Ring
from pyxen.backends.xenbus import BackendError
from pyxen.hypervisor.grants import GrantError
from pyxen.hypervisor.page_flags import PAGE_SIZE

if TYPE_CHECKING:
    from pyxen.backends.allowance import Allowance
    from pyxen.backends.net.multicast import MulticastFilter
    from pyxen.hypervisor.grant_access import GrantAccess

MAX_PIECES: Final = XEN_NETIF_NR_SLOTS_MIN
"""Behind the first; a packet with more is not sent."""
MALICIOUS_PIECES: Final = 20
"""With more the front end is not in its right mind."""
# Here under names that can be C constants.
_DATA_VALIDATED: Final = NETTXF_data_validated
_CSUM_BLANK: Final = NETTXF_csum_blank
_EXTRA_INFO: Final = NETTXF_extra_info
_MORE_DATA: Final = NETTXF_more_data
_MORE_EXTRA: Final = XEN_NETIF_EXTRA_FLAG_MORE
_NONE: Final = XEN_NETIF_EXTRA_TYPE_NONE
_GSO: Final = XEN_NETIF_EXTRA_TYPE_GSO
_MCAST_ADD: Final = XEN_NETIF_EXTRA_TYPE_MCAST_ADD
_MCAST_DEL: Final = XEN_NETIF_EXTRA_TYPE_MCAST_DEL
_TCPV4: Final = XEN_NETIF_GSO_TYPE_TCPV4
_TCPV6: Final = XEN_NETIF_GSO_TYPE_TCPV6
_TYPES: Final = XEN_NETIF_EXTRA_TYPE_MAX
_OKAY: Final = NETIF_RSP_OKAY << 16
_ERROR: Final = (NETIF_RSP_ERROR & 0xFFFF) << 16
_NULL: Final = NETIF_RSP_NULL << 16


class BadPacket(Exception):
    """A packet that cannot be sent."""


class Transmitter:
    """``ring`` is on ``page``; ``rate`` limits the bytes, if there is one. Counters: packets and
    bytes that were taken, packets that were ``refused``; ``reason`` says why the last one was."""

    def __init__(
        self,
        page: memoryview,
        grants: GrantAccess,
        multicast: MulticastFilter,
        rate: Allowance | None,
    ) -> None:
        self.ring = Ring(page, TX_WORDS)
        self.delay = 0.0
        self.packets = 0
        self.bytes = 0
        self.refused = 0
        self.reason = ""
        self._grants = grants
        self._multicast = multicast
        self._rate = rate
        # Of the packet that is being taken.
        self._left = 0
        self._places: list[int] = []
        self._identities: list[int] = []
        self._gso = GSO_NONE
        self._segment_size = 0
        self._group = b""
        self._operation = 0

    def take_all(self) -> list[Frame]:
        """Take all packets and answer them; the front end sees the answers after ``push`` of the
        ring. ``delay`` is how many seconds the rate makes the rest wait. Raises BackendError for a
        broken ring."""
        frames: list[Frame] = []
        rate = self._rate
        self.delay = 0.0
        while True:
            self._left = self.ring.waiting()
            if not self._left:
                return frames
            if rate is not None:
                self.delay = rate.wait()
                if self.delay:
                    return frames
            frame = self._take_next()
            if frame is not None:
                frames.append(frame)
                if rate is not None:
                    rate.spend(len(frame.data))

    def _take_next(self) -> Frame | None:
        """Take a packet and answer it. None comes of one that is refused, or that is no packet but
        a change of the multicast filter."""
        self._places.clear()
        self._identities.clear()
        frame = None
        status = _OKAY
        try:
            frame = self._take()
        except BadPacket as error:
            status = _ERROR
            self._refuse(str(error))
        except GrantError as error:
            status = _ERROR
            self._refuse(f"a grant is refused: {error}")
        words = self.ring.words
        for index in range(len(self._places)):
            place = self._places[index]
            identity = self._identities[index]
            words[place] = identity | status
        return frame

    def _refuse(self, reason: str) -> None:
        self.refused += 1
        self.reason = reason

    def _take(self) -> Frame | None:
        words = self.ring.words
        place = self._next()
        reference = words[place]
        word = words[place + 1]
        offset = word & 0xFFFF
        flags = word >> 16
        word = words[place + 2]
        size = word >> 16
        self._places.append(place)
        self._identities.append(word & 0xFFFF)
        self._gso = GSO_NONE
        if flags & _EXTRA_INFO:
            self._operation = 0
            self._take_extras()
            if self._operation:
                self._change_filter()
                return None
        pieces = [(reference, offset, size)]
        if flags & _MORE_DATA:
            rest = self._take_pieces(pieces, size)
            pieces[0] = (reference, offset, rest)
        else:
            rest = size
        if rest < ETHERNET_HEADER:
            raise BadPacket("its first piece is shorter than an Ethernet header")
        if offset + rest > PAGE_SIZE:
            raise BackendError(_beyond(offset, rest))
        return self._make_frame(self._grants.read(pieces), flags)

    def _next(self) -> int:
        """The place of the next slot of this packet."""
        if not self._left:
            raise BackendError("the ring tx: the last packet is not whole")
        self._left -= 1
        return self.ring.take()

    def _take_extras(self) -> None:
        """The extra infos. Their slots have no identity, and are answered at once."""
        words = self.ring.words
        more = 1
        while more:
            place = self._next()
            head = words[place]
            body = words[place + 1]
            words[place] = _NULL
            kind = head & 0xFF
            more = head >> 8 & _MORE_EXTRA
            if kind == _GSO:
                self._set_gso(body & 0xFF, head >> 16)
            elif kind in (_MCAST_ADD, _MCAST_DEL):
                self._operation = kind
                self._group = (head >> 16).to_bytes(2, "little") + body.to_bytes(4, "little")
            elif kind == _NONE or kind >= _TYPES:
                raise BackendError(f"the ring tx: an extra info of type {kind}")

    def _set_gso(self, kind: int, size: int) -> None:
        if kind == _TCPV4:
            self._gso = GSO_TCPV4
        elif kind == _TCPV6:
            self._gso = GSO_TCPV6
        else:
            raise BackendError(f"the ring tx: a GSO type {kind}")
        if not size:
            raise BackendError("the ring tx: a GSO size of 0")
        self._segment_size = size

    def _change_filter(self) -> None:
        if self._operation == _MCAST_DEL:
            self._multicast.remove(self._group)
        elif not self._multicast.add(self._group):
            raise BadPacket("no more groups can be named")

    def _take_pieces(self, pieces: list[tuple[int, int, int]], size: int) -> int:
        """The pieces behind the first. Returns what is left of ``size`` for that."""
        words = self.ring.words
        count = 0
        rest = size
        more = 1
        while more:
            if count >= MALICIOUS_PIECES:
                raise BackendError(f"the ring tx: more than {MALICIOUS_PIECES + 1} pieces")
            place = self._next()
            reference = words[place]
            word = words[place + 1]
            offset = word & 0xFFFF
            more = word >> 16 & _MORE_DATA
            word = words[place + 2]
            length = word >> 16
            self._places.append(place)
            self._identities.append(word & 0xFFFF)
            count += 1
            if offset + length > PAGE_SIZE:
                raise BackendError(_beyond(offset, length))
            if length > rest:
                rest = -1  # see below, when all of it has been taken
            if rest >= 0:
                rest -= length
                pieces.append((reference, offset, length))
        if count > MAX_PIECES:
            raise BadPacket(f"it has more than {MAX_PIECES + 1} pieces")
        if rest < 0:
            raise BadPacket("its pieces are larger than all of it")
        return rest

    def _make_frame(self, data: bytes, flags: int) -> Frame:
        self.packets += 1
        self.bytes += len(data)
        if not flags & _CSUM_BLANK and self._gso == GSO_NONE:
            return Frame(data, checksum_valid=bool(flags & _DATA_VALIDATED))
        start, place = find_checksum(data)
        if not start:
            raise BadPacket("its checksum is to be filled in, and it is neither TCP nor UDP")
        if self._gso == GSO_NONE:
            return Frame(data, start, place, True)
        if not is_segment(data, place, self._gso):
            raise BadPacket("it is to be segmented, and is no TCP packet of this kind")
        if not flags & _CSUM_BLANK:
            data = set_pseudo_sum(data, start)
        return Frame(data, start, place, True, self._gso, self._segment_size)


def _beyond(offset: int, length: int) -> str:
    return f"the ring tx: a piece of {length} bytes at {offset} of its page"
