# SPDX-License-Identifier: GPL-2.0-or-later
"""The store from another process, by calls that wait: over its socket, or a guest's own device.

    with Client() as store:
        store.write("/tool/x", "1")
        with store.transaction() as transaction:
            transaction.write("/tool/y", transaction.read("/tool/x"))
        with store.watch("/tool") as watch:
            for path in watch:
                print(path)

For one thread. Events are read while waiting for answers, too, and kept.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeVar

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore.address import connect, default_socket
from pyxen.xenstore.error import StoreError
from pyxen.xenstore.requests import ClientRequests, Requests, pack, unpack
from pyxen.xenstore.wire import Message, Parser

Result = TypeVar("Result")

_LAST_REQUEST: Final = 0xFFFF_FFFF


class Client(ClientRequests):
    """A connection to the store.

    ``path``: the socket, or a device such as ``/dev/xen/xenbus``. Raises OSError (such as
    ConnectionError) when the store is not there, or no longer. ``timeout``: for how many seconds
    to wait for an answer at most, before TimeoutError is raised.
    """

    def __init__(self, path: Path | str | None = None, *, timeout: float | None = None) -> None:
        self._fd = _open(default_socket() if path is None else Path(path))
        self._timeout = timeout
        self._parser = Parser()
        self._last_request = 0
        self._watches: dict[str, Watch] = {}
        self._last_token = 0
        self._closed = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; the store forgets its watches and transactions."""
        if not self._closed:
            self._closed = True
            os.close(self._fd)

    # Requests

    def request(self, kind: int, payload: bytes, transaction: int = 0) -> bytes:
        if len(payload) > abi.XENSTORE_PAYLOAD_MAX:
            raise StoreError("E2BIG")
        self._last_request = (self._last_request + 1) & _LAST_REQUEST
        data = Message(kind, self._last_request, transaction, payload).pack()
        while data:
            data = data[os.write(self._fd, data) :]
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        while True:
            answer = self._receive(deadline)
            if answer is None:
                raise TimeoutError("xenstore: no answer")
            if answer.type == abi.XS_WATCH_EVENT:
                self._keep_event(answer)
            elif answer.request == self._last_request:
                break
        if answer.type == abi.XS_ERROR:
            raise StoreError(unpack(answer.payload)[0])
        return answer.payload

    def _receive(self, deadline: float | None) -> Message | None:
        """The next message; None after the deadline."""
        while True:
            if deadline is not None:
                poll = select.poll()
                poll.register(self._fd, select.POLLIN)
                if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    return None
            data = os.read(self._fd, self._parser.wanted)
            if not data:
                raise ConnectionResetError("xenstore: the server has ended the connection")
            message = self._parser.feed(data)
            if message is not None:
                return message

    # Transactions

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Requests]:
        """Requests on a snapshot of the store, made known at the end, all or none.

        Raises EAGAIN at the end if somebody has changed what they rely on meanwhile. An exception
        within gives the transaction up.
        """
        number = int(unpack(self.request(abi.XS_TRANSACTION_START, b"\0"))[0])
        try:
            yield _Transaction(self, number)
        except BaseException:
            with contextlib.suppress(StoreError, OSError):
                self.request(abi.XS_TRANSACTION_END, b"F\0", number)
            raise
        self.request(abi.XS_TRANSACTION_END, b"T\0", number)

    def atomically(self, work: Callable[[Requests], Result]) -> Result:
        """Call ``work`` with a transaction, again until it ends without EAGAIN."""
        while True:
            try:
                with self.transaction() as transaction:
                    return work(transaction)
            except StoreError as error:
                if error.name != "EAGAIN":
                    raise

    # Watches

    def watch(self, path: str, depth: int | None = None) -> Watch:
        """Hear of changes; the first comes at once."""
        self._last_token += 1
        watch = Watch(self, path, str(self._last_token))
        limit = [] if depth is None else [str(depth)]
        self._watches[watch.token] = watch
        try:
            self.request(abi.XS_WATCH, pack(path, watch.token, *limit))
        except StoreError:
            del self._watches[watch.token]
            raise
        return watch

    def unwatch(self, watch: Watch) -> None:
        """Hear no more of it. A second time does nothing."""
        if self._watches.pop(watch.token, None) is not None and not self._closed:
            self.request(abi.XS_UNWATCH, pack(watch.path, watch.token))

    def wait_for_event(self, timeout: float | None) -> bool:
        """Wait until an event of any watch is there; False if none has come in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        message = self._receive(deadline)
        if message is None:
            return False
        if message.type == abi.XS_WATCH_EVENT:
            self._keep_event(message)
        return True

    def _keep_event(self, message: Message) -> None:
        path, token = unpack(message.payload)
        watch = self._watches.get(token)
        if watch is not None:
            watch.events.append(path)


def _open(path: Path) -> int:
    if path.exists() and stat.S_ISCHR(path.stat().st_mode):
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    return connect(path).detach()


class _Transaction(Requests):
    """Requests of one transaction."""

    def __init__(self, client: Client, number: int) -> None:
        self._client = client
        self._number = number

    def request(self, kind: int, payload: bytes) -> bytes:
        return self._client.request(kind, payload, self._number)


class Watch:
    """Yields the path of each change, and waits for the next one: an endless iterator."""

    def __init__(self, client: Client, path: str, token: str) -> None:
        self.path = path
        self.token = token
        self.events: deque[str] = deque()
        self._client = client

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_exception: object) -> None:
        self._client.unwatch(self)

    def __iter__(self) -> Watch:
        return self

    def __next__(self) -> str:
        path = self.wait(None)
        assert path is not None
        return path

    def wait(self, timeout: float | None) -> str | None:
        """The path of the next change; None if there is none within so many seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not self.events:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._client.wait_for_event(left):
                return None
        return self.events.popleft()
