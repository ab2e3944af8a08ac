# SPDX-License-Identifier: GPL-2.0-or-later
"""What clients have in common whose watches call functions: back ends' and the tool stack's.

A callback runs in the client's thread, from what it has given to ``post``; never within a request,
nor within another callback.
"""

from __future__ import annotations

import contextlib
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Mapping

from msgspec import Struct

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore.error import StoreError, StoreGone
from pyxen.xenstore.requests import ClientRequests, Requests, pack, unpack
from pyxen.xenstore.wire import Message


class WatchHandle(Struct, frozen=True):
    """A watch, for ``WatchingClient.unwatch``."""

    path: str
    token: str


class WatchingClient(ClientRequests):
    """See the module."""

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        self._post = post
        self._events: deque[Message] = deque()
        self._callbacks: dict[str, Callable[[str], None]] = {}
        self._last_token = 0
        self._telling = False

    @abstractmethod
    def request(self, kind: int, payload: bytes, transaction: int = 0) -> bytes:
        """Make one request of type ``kind``; returns the answer's payload."""

    def write_many(self, values: Mapping[str, bytes | str]) -> None:
        """Write several nodes, all or none; others see them and hear of them all at once."""
        while True:
            number = int(unpack(self.request(abi.XS_TRANSACTION_START, b"\0"))[0])
            try:
                transaction = _Within(self, number)
                for path, value in values.items():
                    transaction.write(path, value)
            except StoreError:
                with contextlib.suppress(StoreError):  # the first one is told
                    self.request(abi.XS_TRANSACTION_END, b"F\0", number)
                raise
            try:
                self.request(abi.XS_TRANSACTION_END, b"T\0", number)
            except StoreError as error:
                if error.name != "EAGAIN":
                    raise
            else:
                return

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

        A second time does nothing, nor does it when there is no server any more.
        """
        if self._callbacks.pop(handle.token, None) is not None:
            with contextlib.suppress(StoreGone):
                self.request(abi.XS_UNWATCH, pack(handle.path, handle.token))

    def _forget_watches(self) -> None:
        self._callbacks.clear()
        self._events.clear()

    def _keep_event(self, message: Message) -> None:
        """Of a subclass: an event has arrived; ``_tell_later`` has it told."""
        self._events.append(message)

    def _tell_later(self) -> None:
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

    def __init__(self, client: WatchingClient, number: int) -> None:
        self._client = client
        self._number = number

    def request(self, kind: int, payload: bytes) -> bytes:
        return self._client.request(kind, payload, self._number)
