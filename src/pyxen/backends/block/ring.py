# SPDX-License-Identifier: GPL-2.0-or-later
"""A ring of block requests, seen from the back end.

The front end's pages, one after the other, begin with four indices and have an array of slots of
112 bytes behind them, as many as a power of two allows. The indices run freely and wrap at 2**32;
the slot is the index modulo the number of slots::

    req_prod   the front end has written the requests before this one
    req_event  it is to send an event when req_prod reaches this
    rsp_prod   the back end has written the responses before this one
    rsp_event  it is to send an event when rsp_prod reaches this

How far each side has read is known to itself alone. A response goes into a slot whose request has
been taken, so there can be no more requests ahead of ``rsp_prod`` than the ring has slots: a
``req_prod`` that is further away is nonsense, and the ring is given up.

All that the front end writes is read once, and copied. The order of our accesses is the order of
the statements: x86 keeps stores in order, and each access of the memoryview is one aligned word.

Reference: ``public/io/ring.h``, ``public/io/blkif.h``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pyxen.abi.io_blkif import BLKIF_REQUEST, BLKIF_RESPONSE, BLKIF_SRING
from pyxen.backends.xenbus import BackendError
from pyxen.hypervisor.page_flags import PAGE_SIZE

_REQ_PROD: Final = BLKIF_SRING.offsets["req_prod"] // 4
_REQ_EVENT: Final = BLKIF_SRING.offsets["req_event"] // 4
_RSP_PROD: Final = BLKIF_SRING.offsets["rsp_prod"] // 4
_RSP_EVENT: Final = BLKIF_SRING.offsets["rsp_event"] // 4
_SLOTS: Final = BLKIF_SRING.offsets["ring"]
_SLOT_SIZE: Final = BLKIF_REQUEST.size
_INDEX_MASK: Final = 0xFFFF_FFFF


class Ring:
    """Takes requests and gives responses; ``pages`` are writable views of 4096 bytes each.

    ``slots`` is the number of slots. Raises BackendError for indices that make no sense.
    """

    def __init__(self, pages: Sequence[memoryview]) -> None:
        self.slots = 1 << ((len(pages) * PAGE_SIZE - _SLOTS) // _SLOT_SIZE).bit_length() - 1
        self._pages = list(pages)
        self._words = pages[0].cast("I")
        # A front end that goes on with a ring which another back end has served before.
        self._rsp_prod = self._words[_RSP_PROD]
        self._told = self._rsp_prod
        self._req_cons = self._rsp_prod
        self.waiting()

    def waiting(self) -> int:
        """How many requests the front end has put in that have not been taken."""
        req_prod = self._words[_REQ_PROD]
        if (req_prod - self._rsp_prod) & _INDEX_MASK > self.slots:
            raise BackendError(
                f"the ring's request index {req_prod:#x} is more than {self.slots} slots ahead "
                f"of its responses, {self._rsp_prod:#x}"
            )
        waiting = (req_prod - self._req_cons) & _INDEX_MASK
        if waiting > self.slots:
            raise BackendError(
                f"the ring's request index went back from {self._req_cons:#x} to {req_prod:#x}"
            )
        return waiting

    def take(self) -> bytes:
        """A copy of the next request; ``waiting`` has said that there is one."""
        place = _SLOTS + self._req_cons % self.slots * _SLOT_SIZE
        page, offset = place // PAGE_SIZE, place % PAGE_SIZE
        self._req_cons = (self._req_cons + 1) & _INDEX_MASK
        request = bytes(self._pages[page][offset : offset + _SLOT_SIZE])
        if len(request) < _SLOT_SIZE:
            request += bytes(self._pages[page + 1][: _SLOT_SIZE - len(request)])
        return request

    def respond(self, identity: int, operation: int, status: int) -> None:
        """Put a response in; the front end sees it after ``push``."""
        place = _SLOTS + self._rsp_prod % self.slots * _SLOT_SIZE
        page, offset = place // PAGE_SIZE, place % PAGE_SIZE
        self._rsp_prod = (self._rsp_prod + 1) & _INDEX_MASK
        first = PAGE_SIZE - offset
        if first >= BLKIF_RESPONSE.size:
            BLKIF_RESPONSE.pack_into(self._pages[page], offset, identity, operation, status)
        else:
            response = BLKIF_RESPONSE.pack(identity, operation, status)
            self._pages[page][offset:] = response[:first]
            self._pages[page + 1][: len(response) - first] = response[first:]

    def push(self) -> bool:
        """Show the responses to the front end. Whether it wants an event for them."""
        old, new = self._told, self._rsp_prod
        if old == new:
            return False
        self._words[_RSP_PROD] = new
        self._told = new
        rsp_event = self._words[_RSP_EVENT]
        return (new - rsp_event) & _INDEX_MASK < (new - old) & _INDEX_MASK

    def ask_for_events(self) -> bool:
        """Let the next request send an event. Whether one has come before we asked."""
        self._words[_REQ_EVENT] = (self._req_cons + 1) & _INDEX_MASK
        return self.waiting() > 0
