# SPDX-License-Identifier: GPL-2.0-or-later
"""A ring of a network card, seen from the back end.

The page begins with four indices, which run freely and wrap at 2**32, and has 256 slots behind
them; the slot is the index modulo 256::

    req_prod   the front end has written the requests before this one
    req_event  it is to send an event when req_prod reaches this
    rsp_prod   the back end has written the responses before this one
    rsp_event  it is to send an event when rsp_prod reaches this

Each request is answered in its own slot, and all that were taken are answered before the responses
are shown: so one index, ``consumed``, is how far requests have been taken and responses written.
A ``req_prod`` more than 256 ahead of it is nonsense, and the card is given up.

All that the front end writes is read once, a word of 32 bits at a time. The order of our accesses
is the order of the statements: x86 keeps stores in order, and each is one aligned word.

Reference: ``public/io/ring.h``, ``public/io/netif.h``.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.io_netif import NETIF_TX_SRING
from pyxen.backends.xenbus import BackendError

SLOTS: Final = 256
TX_WORDS: Final = 3
RX_WORDS: Final = 2
"""Words of a slot; a response of the ring ``tx`` is one word only."""
_REQ_PROD: Final = NETIF_TX_SRING.offsets["req_prod"] // 4
_REQ_EVENT: Final = NETIF_TX_SRING.offsets["req_event"] // 4
_RSP_PROD: Final = NETIF_TX_SRING.offsets["rsp_prod"] // 4
_RSP_EVENT: Final = NETIF_TX_SRING.offsets["rsp_event"] // 4
_FIRST: Final = NETIF_TX_SRING.offsets["ring"] // 4
_INDEX_MASK: Final = 0xFFFF_FFFF


class Ring:
    """``page`` is a writable view of the ring's page, ``slot_words`` TX_WORDS or RX_WORDS.

    ``words`` is the page as words of 32 bits. Raises BackendError for indices that make no sense.
    """

    def __init__(self, page: memoryview, slot_words: int) -> None:
        self.words = page.cast("I")
        self.slot_words = slot_words
        # A front end may go on with a ring that another back end has served before.
        self.consumed = self.words[_RSP_PROD]
        self.told = self.consumed
        self.waiting()

    def waiting(self) -> int:
        """How many requests the front end has put in that have not been taken."""
        req_prod = self.words[_REQ_PROD]
        waiting = (req_prod - self.consumed) & _INDEX_MASK
        if waiting > SLOTS:
            raise BackendError(
                f"the ring's request index {req_prod:#x} is not within {SLOTS} slots of "
                f"{self.consumed:#x}, up to where requests have been taken"
            )
        return waiting

    def take(self) -> int:
        """The place in ``words`` of the next request, to be read and then overwritten by the
        response; ``waiting`` has said that there is one."""
        place = _FIRST + self.consumed % SLOTS * self.slot_words
        self.consumed = (self.consumed + 1) & _INDEX_MASK
        return place

    def push(self) -> None:
        """Show the responses to the front end."""
        self.words[_RSP_PROD] = self.consumed

    def wants_event(self) -> bool:
        """Whether the front end wants an event for what was shown since it was asked last."""
        old = self.told
        new = self.consumed
        if old == new:
            return False
        self.told = new
        rsp_event = self.words[_RSP_EVENT]
        return (new - rsp_event) & _INDEX_MASK < (new - old) & _INDEX_MASK

    def ask_for_events(self, have: int) -> bool:
        """Let the front end send an event when there are more than ``have`` requests. Whether
        there were, before we asked."""
        self.words[_REQ_EVENT] = (self.consumed + have + 1) & _INDEX_MASK
        return self.waiting() > have
