# SPDX-License-Identifier: GPL-2.0-or-later
"""A client in the process of the store: what back ends and the tool stack use.

It has the rights of domain 0, and all of it happens at once, in the thread of the store. So a
transaction of its own cannot meet another one halfway.
"""

from __future__ import annotations

from collections.abc import Callable

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore.daemon import Xenstored
from pyxen.xenstore.error import StoreError
from pyxen.xenstore.requests import unpack
from pyxen.xenstore.watching import WatchingClient
from pyxen.xenstore.wire import Message


def _at_once(work: Callable[[], None]) -> None:
    work()


class LocalClient(WatchingClient):
    """See the module.

    ``post(work)`` calls ``work`` soon, in the thread of the store: callbacks of watches run in it.
    Without it they run before the request that has caused them returns, though never within
    another callback.
    """

    def __init__(
        self, daemon: Xenstored, post: Callable[[Callable[[], None]], None] = _at_once
    ) -> None:
        super().__init__(post)
        self._daemon = daemon
        self._connection = daemon.connect(self._receive)
        self._answers: list[Message] = []

    def close(self) -> None:
        """Forget all watches; no callback is called any more."""
        self._forget_watches()
        self._daemon.disconnect(self._connection)

    def request(self, kind: int, payload: bytes, transaction: int = 0) -> bytes:
        if self._connection.ignored:
            raise StoreError("EINVAL")
        if len(payload) > abi.XENSTORE_PAYLOAD_MAX:
            raise StoreError("E2BIG")
        self._daemon.serve(self._connection, Message(kind, 0, transaction, payload))
        answer = self._answers.pop()  # a callback's own requests are done by now
        if answer.type == abi.XS_ERROR:
            raise StoreError(unpack(answer.payload)[0])
        return answer.payload

    def _receive(self) -> None:
        connection = self._connection
        while connection.output:
            message = connection.output[0].message
            connection.sent()
            if message.type == abi.XS_WATCH_EVENT:
                self._keep_event(message)
            else:
                self._answers.append(message)
        self._tell_later()
