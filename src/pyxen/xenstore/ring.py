# SPDX-License-Identifier: GPL-2.0-or-later
"""The transport of a guest: one shared page and one event channel (``xenstore-ring.txt``).

The page has a ring of 1024 bytes for requests and one for answers and events, each with two freely
running indexes, as in the console's page:

    byte      0  req[1024]     guest to store
           1024  rsp[1024]     store to guest
           2048  req_cons      32 bits each; the consumer and the producer
           2052  req_prod      of each ring
           2056  rsp_cons
           2060  rsp_prod
           2064  server_features
           2068  connection
           2072  error

A guest that wants to begin anew, such as a boot loader's successor, sets ``connection`` to 1 and
waits until the store has emptied both rings, forgotten its watches and transactions, and set it to
0 again. A guest that breaks the rings or the protocol finds the reason in ``error``, and is not
listened to until it asks to begin anew.

The page belongs to the guest, which may write anything to it at any time. Each index is therefore
read once, checked, and used from our copy. Messages are larger than the rings: both directions go
on in pieces, as there is data and room.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from pyxen.abi.io_xs_wire import (
    XENSTORE_CONNECTED,
    XENSTORE_DOMAIN_INTERFACE,
    XENSTORE_ERROR_NONE,
    XENSTORE_ERROR_PROTO,
    XENSTORE_ERROR_RINGIDX,
    XENSTORE_RECONNECT,
    XENSTORE_RING_SIZE,
    XENSTORE_SERVER_FEATURE_RECONNECTION,
)
from pyxen.xenstore.connection import Output
from pyxen.xenstore.wire import ProtocolError

log = logging.getLogger(__name__)

PAGE_SIZE: Final = 4096
_INDEX_MASK: Final = 0xFFFF_FFFF

_REQ: Final = XENSTORE_DOMAIN_INTERFACE.offsets["req"]
_RSP: Final = XENSTORE_DOMAIN_INTERFACE.offsets["rsp"]

# Places in the page seen as 32-bit words.
_REQ_CONS: Final = XENSTORE_DOMAIN_INTERFACE.offsets["req_cons"] // 4
_REQ_PROD: Final = XENSTORE_DOMAIN_INTERFACE.offsets["req_prod"] // 4
_RSP_CONS: Final = XENSTORE_DOMAIN_INTERFACE.offsets["rsp_cons"] // 4
_RSP_PROD: Final = XENSTORE_DOMAIN_INTERFACE.offsets["rsp_prod"] // 4
_FEATURES: Final = XENSTORE_DOMAIN_INTERFACE.offsets["server_features"] // 4
_CONNECTION: Final = XENSTORE_DOMAIN_INTERFACE.offsets["connection"] // 4
_ERROR: Final = XENSTORE_DOMAIN_INTERFACE.offsets["error"] // 4


class _BrokenRing(Exception):
    """The indexes make no sense."""


class RingConnection(Protocol):
    """What a ring is the transport of: a ``Connection``, or a ``GuestConnection`` with a store in
    another process. See there."""

    domid: int
    output: deque[Output]
    ignored: bool

    @property
    def features(self) -> int: ...

    @property
    def wanted(self) -> int: ...

    def set_wake(self, wake: Callable[[], None]) -> None: ...

    def receive(self, data: bytes | memoryview) -> None: ...

    def sent(self) -> None: ...

    def reset(self) -> None: ...

    def ignore(self) -> None: ...


class GuestRing:
    """Connects a domain's connection with its page.

    ``page``: a writable view of 4096 bytes. ``notify`` raises the guest's event channel. Call
    ``serve`` when the guest has raised ours. All in the thread of the store.

    From the beginning the page has what the guest is to find: both rings empty, the features of
    its domain, no error.
    """

    def __init__(
        self, connection: RingConnection, page: memoryview, notify: Callable[[], None]
    ) -> None:
        if page.nbytes != PAGE_SIZE or page.readonly:
            raise ValueError(f"xenstore ring: a writable page of {PAGE_SIZE} bytes is expected")
        self._connection = connection
        self._features = connection.features
        self._bytes = page.cast("B")
        self._words = self._bytes.cast("I")
        self._notify = notify
        self._serving = False
        self._failed = False
        connection.set_wake(self.serve)
        self._words[_FEATURES] = self._features
        self._begin()

    def _begin(self) -> None:
        """Both rings are empty now, and the guest knows."""
        for word in (_REQ_CONS, _REQ_PROD, _RSP_CONS, _RSP_PROD):
            self._words[word] = 0
        self._words[_ERROR] = XENSTORE_ERROR_NONE
        self._words[_CONNECTION] = XENSTORE_CONNECTED
        self._connection.ignored = False
        self._notify()

    def close(self) -> None:
        """Touch the page no more."""
        self._connection.set_wake(lambda: None)
        self._words.release()
        self._bytes.release()

    def serve(self) -> None:
        """Send what waits and take what is there, as long as either goes on."""
        if self._serving:
            return
        self._serving = True
        try:
            self._serve()
        finally:
            self._serving = False

    def _serve(self) -> None:
        reconnects = self._features & XENSTORE_SERVER_FEATURE_RECONNECTION
        if reconnects and self._words[_CONNECTION] == XENSTORE_RECONNECT:
            self._connection.reset()
            self._begin()
            return
        moved = False
        try:
            while not self._connection.ignored and (self._send() or self._take()):
                moved = True
        except _BrokenRing:
            self._fail(XENSTORE_ERROR_RINGIDX, "the indexes of its ring make no sense")
        except ProtocolError as error:
            self._fail(XENSTORE_ERROR_PROTO, str(error))
        if moved:
            self._notify()

    def _fail(self, error: int, reason: str) -> None:
        if not self._failed:  # told once: a guest must not fill the log
            log.warning("xenstore: domain %d is not served: %s", self._connection.domid, reason)
        self._failed = True
        self._words[_ERROR] = error
        self._connection.ignore()

    def _take(self) -> bool:
        """Move bytes from the request ring to the connection; whether there were any."""
        wanted = self._connection.wanted
        cons = self._words[_REQ_CONS]
        there = (self._words[_REQ_PROD] - cons) & _INDEX_MASK
        if there > XENSTORE_RING_SIZE:
            raise _BrokenRing
        start = cons % XENSTORE_RING_SIZE
        size = min(there, wanted, XENSTORE_RING_SIZE - start)
        if not size:
            return False
        data = bytes(self._bytes[_REQ + start : _REQ + start + size])
        self._words[_REQ_CONS] = (cons + size) & _INDEX_MASK
        self._connection.receive(data)
        return True

    def _send(self) -> bool:
        """Move bytes from the connection to the response ring; whether any were moved."""
        if not self._connection.output:
            return False
        output = self._connection.output[0]
        prod = self._words[_RSP_PROD]
        used = (prod - self._words[_RSP_CONS]) & _INDEX_MASK
        if used > XENSTORE_RING_SIZE:
            raise _BrokenRing
        start = prod % XENSTORE_RING_SIZE
        room = min(XENSTORE_RING_SIZE - used, XENSTORE_RING_SIZE - start)
        data = output.message.pack()[output.sent : output.sent + room]
        if not data:
            return False
        self._bytes[_RSP + start : _RSP + start + len(data)] = data
        self._words[_RSP_PROD] = (prod + len(data)) & _INDEX_MASK
        output.sent += len(data)
        if output.sent == output.size:
            self._connection.sent()
        return True
