# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest's connection with a store in another process: what a ``GuestRing`` is filled from.

A domain lives in a process, and the store that it shares with other domains in another one. The
domain's process opens one more socket and makes it the connection of its domain: what travels there
has that domain's rights and quotas, and nothing that a guest says changes whose socket it is. The
ring's page stays in the domain's process: ``GuestRing`` carries bytes between it and this
connection, exactly as it does with a store in the same process.

When the socket closes, however the process ended, the store releases the domain.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore.connection import Output
from pyxen.xenstore.error import StoreError, StoreGone
from pyxen.xenstore.requests import pack, unpack
from pyxen.xenstore.store_socket import TIMEOUT, StoreSocket
from pyxen.xenstore.wire import Parser

log = logging.getLogger(__name__)

_BUFFER: Final = 4096
"""What a guest has said and the store does not take is to stay in its ring."""


class GuestConnection:
    """See the module. For one thread, as ``SocketStore``.

    Once it is there the domain exists for the store; then write its nodes, INTRODUCE it, and make
    its ``GuestRing`` of this connection. ``removes``: nodes that go with the domain, however it
    ends; ``*`` stands for any one name.

    It holds one message in each direction; what does not fit waits in the ring or in the store.
    """

    def __init__(
        self,
        connect: Callable[[], socket.socket],
        domid: int,
        post: Callable[[Callable[[], None]], None],
        loop: asyncio.AbstractEventLoop,
        *,
        removes: Sequence[str] = (),
        timeout: float = TIMEOUT,
    ) -> None:
        """``connect`` makes a connection with the server, each time that the guest begins anew.
        Raises StoreGone if there is no server, StoreError if it refuses."""
        self.domid = domid
        self.output: deque[Output] = deque()
        self.ignored = False
        self._wake: Callable[[], None] = lambda: None
        self._connect = connect
        self._post = post
        self._loop = loop
        self._removes = removes
        self._timeout = timeout
        self._open()

    def _open(self) -> None:
        """The domain's connection begins anew, with a socket of its own."""
        try:
            connection = self._connect()
        except OSError as error:
            raise StoreGone(f"xenstore: {error.strerror or error}") from None
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        new = StoreSocket(connection, self._loop, self._post, self._timeout)
        try:
            words = pack("guest-connect", str(self.domid), *self._removes)
            answer = new.ask(abi.XS_CONTROL, words, 0, lambda event: None)
        except StoreError:
            new.close()
            raise
        self.features = int(unpack(answer)[0])
        self._socket = new
        self._parser = Parser()
        self._unsent = b""
        self._lost = False
        self._listen(new)

    def close(self) -> None:
        """The domain has gone: the store releases it."""
        self._lost = True
        self.set_wake(lambda: None)
        self._socket.close()

    def set_wake(self, wake: Callable[[], None]) -> None:
        """Have this called when there is something to send, or room for more requests."""
        self._wake = wake

    # Requests

    @property
    def wanted(self) -> int:
        """How many bytes to read next, 0 while there is no room for them."""
        return 0 if self.ignored or self._lost or self._unsent else self._parser.wanted

    def receive(self, data: bytes | memoryview) -> None:
        """Take bytes, at most ``wanted``. Raises ProtocolError."""
        message = self._parser.feed(data)
        if message is not None:
            self._unsent = message.pack()
            self._send()

    def _send(self) -> None:
        try:
            self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except StoreGone as error:
            self._lose(error)
            return
        if self._unsent:
            on = self._socket
            on.when_writable(lambda: self._send_rest(on))

    def _send_rest(self, on: StoreSocket) -> None:
        if on is self._socket and not self._lost:
            self._send()
            self._wake()

    # Answers and events

    def _listen(self, on: StoreSocket) -> None:
        on.when_readable(lambda: self._take(on))

    def _take(self, on: StoreSocket) -> None:
        if on is self._socket and not self._lost and self._fill():
            self._wake()

    def _fill(self) -> bool:
        """Fetch the next message for the guest; whether there was one."""
        try:
            message = self._socket.receive()
        except StoreGone as error:
            self._lose(error)
            return False
        if message is None:
            self._listen(self._socket)
            return False
        self.output.append(Output(message, None))
        return True

    def sent(self) -> None:
        """The first of ``output`` has left."""
        self.output.popleft()
        if not self._lost:
            self._fill()

    # The guest begins anew, or is not listened to

    def reset(self) -> None:
        """Forget watches, transactions and what was under way, as for a new client."""
        old = self._socket
        self.output.clear()
        try:
            self._open()
        except StoreError as error:
            self._lose(error)
        old.close()  # not earlier: without any socket the domain is released

    def ignore(self) -> None:
        """Listen no more; the domain is still there. As it has no watches now, it hears nothing."""
        self.ignored = True
        self.reset()

    def _lose(self, error: StoreError) -> None:
        if not self._lost:
            self._lost = True
            log.error("xenstore: domain %d has no store any more: %s", self.domid, error)
