# SPDX-License-Identifier: GPL-2.0-or-later
"""A socket to the store for a thread that must not be blocked for long.

Requests wait for their answers, with a time limit. Everything else is read only when it is there:
``when_readable`` has an asyncio loop, in another thread, wait for it. All reading and writing is
done in the client's own thread, so there is nothing to lock.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Callable
from typing import Final

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore.error import StoreError, StoreGone
from pyxen.xenstore.requests import unpack
from pyxen.xenstore.wire import Message, Parser, ProtocolError

TIMEOUT: Final = 10.0
"""Seconds to wait for an answer."""

_LAST_REQUEST: Final = 0xFFFF_FFFF


class StoreSocket:
    """See the module. ``connection`` is its own from now on.

    ``post(work)`` calls ``work`` soon in the client's thread. StoreGone is raised when the server
    has ended, and from then on.
    """

    def __init__(
        self,
        connection: socket.socket,
        loop: asyncio.AbstractEventLoop,
        post: Callable[[Callable[[], None]], None],
        timeout: float = TIMEOUT,
    ) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._loop = loop
        self._post = post
        self._timeout = timeout
        self._parser = Parser()
        self._last_request = 0
        self._closed = False

    def close(self) -> None:
        """From the client's thread. A second time does nothing."""
        if self._closed:
            return
        self._closed = True
        try:
            self._loop.call_soon_threadsafe(self._close)
        except RuntimeError:  # the loop has ended
            self._socket.close()

    def _close(self) -> None:
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreGone("xenstore: the connection is closed")

    # Requests

    def ask(
        self, kind: int, payload: bytes, transaction: int, other: Callable[[Message], None]
    ) -> bytes:
        """Make a request; returns the answer's payload. Events meanwhile are given to ``other``.

        Raises StoreError, StoreGone also when there is no answer in time.
        """
        if len(payload) > abi.XENSTORE_PAYLOAD_MAX:
            raise StoreError("E2BIG")
        self._check_open()
        self._last_request = (self._last_request + 1) & _LAST_REQUEST
        deadline = time.monotonic() + self._timeout
        data = Message(kind, self._last_request, transaction, payload).pack()
        while data := data[self.send(data) :]:
            self._wait(select.POLLOUT, deadline)
        while True:
            answer = self.receive()
            if answer is None:
                self._wait(select.POLLIN, deadline)
            elif answer.type == abi.XS_WATCH_EVENT:
                other(answer)
            elif answer.request == self._last_request:
                break
        if answer.type == abi.XS_ERROR:
            raise StoreError(unpack(answer.payload)[0])
        return answer.payload

    def _wait(self, event: int, deadline: float) -> None:
        poll = select.poll()
        poll.register(self._socket, event)
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            self.close()  # an answer that comes too late would be taken for another one's
            raise StoreGone(f"xenstore: the server has not answered within {self._timeout:g} s")

    # What does not wait

    def send(self, data: bytes) -> int:
        """Send what there is room for; returns how much that was."""
        self._check_open()
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._lose()
            return 0

    def receive(self) -> Message | None:
        """The next message, if all of it is there."""
        self._check_open()
        while True:
            try:
                data = self._socket.recv(self._parser.wanted)
            except BlockingIOError:
                return None
            except OSError:
                data = b""
            if not data:
                self._lose()
            try:
                message = self._parser.feed(data)
            except ProtocolError as error:
                self.close()
                raise StoreGone(f"xenstore: the server has sent {error}") from None
            if message is not None:
                return message

    def _lose(self) -> None:
        self.close()
        raise StoreGone("xenstore: the server has ended the connection")

    # Waiting for it elsewhere

    def when_readable(self, work: Callable[[], None]) -> None:
        """Have ``work`` posted, once, when something can be read, or the server has ended."""
        self._wait_elsewhere(self._loop.add_reader, self._loop.remove_reader, work)

    def when_writable(self, work: Callable[[], None]) -> None:
        """The same for sending."""
        self._wait_elsewhere(self._loop.add_writer, self._loop.remove_writer, work)

    def _wait_elsewhere(
        self,
        add: Callable[..., None],
        remove: Callable[[socket.socket], bool],
        work: Callable[[], None],
    ) -> None:
        def ready() -> None:
            remove(self._socket)
            self._post(work)

        def wait() -> None:
            if not self._closed:
                add(self._socket, ready)

        if not self._closed:
            with contextlib.suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(wait)
