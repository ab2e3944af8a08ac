# SPDX-License-Identifier: GPL-2.0-or-later
"""The store in another process, as back ends and the tool stack use it.

It has the same calls as ``LocalClient``. They wait for their answers in the thread that uses it;
an asyncio loop in another thread waits for events, whose callbacks are posted.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path

from pyxen.xenstore.address import connect
from pyxen.xenstore.error import StoreGone
from pyxen.xenstore.store_socket import TIMEOUT, StoreSocket
from pyxen.xenstore.watching import WatchingClient

log = logging.getLogger(__name__)


class SocketStore(WatchingClient):
    """See the module: a connection with domain 0's rights, for one thread.

    ``server``: where the store listens, or a socket that is connected with it already.
    ``post(work)`` calls ``work`` soon in the thread that uses this client, and may be called from
    any. ``lost`` is called there when the server has ended; each request then raises StoreGone.
    ``timeout``: for how many seconds an answer is waited for.
    """

    def __init__(
        self,
        server: Path | socket.socket,
        post: Callable[[Callable[[], None]], None],
        loop: asyncio.AbstractEventLoop,
        *,
        lost: Callable[[], None] = lambda: None,
        timeout: float = TIMEOUT,
    ) -> None:
        """Raises StoreGone if there is no server."""
        super().__init__(post)
        if isinstance(server, Path):
            try:
                server = connect(server)
            except OSError as error:
                raise StoreGone(f"{server}: {error.strerror or error}") from None
        self._socket = StoreSocket(server, loop, post, timeout)
        self._lost = lost
        self._closed = False
        self._socket.when_readable(self._take_events)

    def close(self) -> None:
        """The store forgets its watches; no callback is called any more."""
        self._closed = True
        self._forget_watches()
        self._socket.close()

    def request(self, kind: int, payload: bytes, transaction: int = 0) -> bytes:
        try:
            return self._socket.ask(kind, payload, transaction, self._keep_event)
        except StoreGone:
            self._lose()
            raise
        finally:
            self._tell_later()

    def _take_events(self) -> None:
        if self._closed:
            return
        try:
            while (message := self._socket.receive()) is not None:
                self._keep_event(message)
        except StoreGone as error:
            log.error("%s", error)
            self._lose()
        else:
            self._socket.when_readable(self._take_events)
        self._tell_later()

    def _lose(self) -> None:
        if not self._closed:
            self._closed = True
            self._post(self._lost)
