# SPDX-License-Identifier: GPL-2.0-or-later
"""A client in the process of the store: what back ends and the tool stack use.

It has the rights of domain 0, and all of it happens at once, in the thread of the store. So a
transaction of its own cannot meet another one halfway.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore.daemon import Xenstored
from pyxen.xenstore.error import StoreError
from pyxen.xenstore.requests import ClientRequests, Requests, pack, unpack
from pyxen.xenstore.wire import Message


def _at_once(work: Callable[[], None]) -> None:
    work()


@dataclass(frozen=True)
class WatchHandle:
    """A watch, for ``LocalClient.unwatch``."""

    path: str
    token: str


class LocalClient(ClientRequests):
    """See the module.

    ``post(work)`` calls ``work`` soon, in the thread of the store: callbacks of watches run in it.
    Without it they run before the request that has caused them returns, though never within
    another callback.
    """

    def __init__(
        self, daemon: Xenstored, post: Callable[[Callable[[], None]], None] = _at_once
    ) -> None:
        self._daemon = daemon
        self._post = post
        self._connection = daemon.connect(self._receive)
        self._answers: list[Message] = []
        self._events: deque[Message] = deque()
        self._callbacks: dict[str, Callable[[str], None]] = {}
        self._last_token = 0
        self._telling = False

    def close(self) -> None:
        """Forget all watches; no callback is called any more."""
        self._callbacks.clear()
        self._events.clear()
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

    def write_many(self, values: Mapping[str, bytes | str]) -> None:
        """Write several nodes, all or none; others see them and hear of them all at once."""
        number = int(unpack(self.request(abi.XS_TRANSACTION_START, b"\0"))[0])
        try:
            transaction = _Within(self, number)
            for path, value in values.items():
                transaction.write(path, value)
        except StoreError:
            self.request(abi.XS_TRANSACTION_END, b"F\0", number)
            raise
        self.request(abi.XS_TRANSACTION_END, b"T\0", number)

    def watch(
        self, path: str, callback: Callable[[str], None], depth: int | None = None
    ) -> WatchHandle:
        """Have ``callback`` called with the path of each change, and once for a start."""
        self._last_token += 1
        handle = WatchHandle(path, str(self._last_token))
        limit = [] if depth is None else [str(depth)]
        self._callbacks[handle.token] = callback
        try:
            self.request(abi.XS_WATCH, pack(handle.path, handle.token, *limit))
        except StoreError:
            del self._callbacks[handle.token]
            raise
        return handle

    def unwatch(self, handle: WatchHandle) -> None:
        """Call its callback no more, not even for what has happened already.

        A second time does nothing.
        """
        if self._callbacks.pop(handle.token, None) is not None:
            self.request(abi.XS_UNWATCH, pack(handle.path, handle.token))

    def _receive(self) -> None:
        connection = self._connection
        while connection.output:
            message = connection.output[0].message
            connection.sent()
            if message.type == abi.XS_WATCH_EVENT:
                self._events.append(message)
            else:
                self._answers.append(message)
        if self._events and not self._telling:
            self._telling = True
            self._post(self._tell)

    def _tell(self) -> None:
        try:
            while self._events:
                path, token = unpack(self._events.popleft().payload)
                callback = self._callbacks.get(token)
                if callback is not None:
                    callback(path)
        finally:
            self._telling = False


class _Within(Requests):
    """Requests within a transaction."""

    def __init__(self, client: LocalClient, number: int) -> None:
        self._client = client
        self._number = number

    def request(self, kind: int, payload: bytes) -> bytes:
        return self._client.request(kind, payload, self._number)
