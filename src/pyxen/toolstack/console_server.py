# SPDX-License-Identifier: GPL-2.0-or-later
"""The console of a domain that has no terminal: on a unix socket, for any number of readers.

The socket carries the console's bytes and nothing else, both ways. Whoever connects is first sent
what the domain has printed so far, from its first byte, and then all that follows. What any of them
sends is typed at the console.

The domain waits for no reader. For one who is slow, and for those who come later, a limited amount
is kept, as ``OutputBuffer`` does: when it is too much, the middle is missing.

The server has a thread of its own and outlives the domains that reboots make.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pyxen.backends.console import sockets
from pyxen.backends.console.buffer import DEFAULT_LIMIT, OutputBuffer
from pyxen.toolstack.threads import IoThread

MAX_READERS: Final = 32
"""More are turned away: each may take as much memory as the limit."""
READ_AHEAD: Final = 64 * 1024
"""How much input may wait for the guest before no more is read."""
_CHUNK: Final = 64 * 1024
_ROOM_INTERVAL: Final = 0.01
_RETRY_SECONDS: Final = 1.0
_CLOSE_SECONDS: Final = 2.0
"""At the end, so long readers may take for the last output."""


class ConsoleServer:
    """See the module: a ``ConsoleEndpoint`` of ``lifecycle.run``, and a context manager.

    Args:
        path: where the socket is made. Only its owner can connect.
        limit: how many bytes are kept for those who come later, and for each reader.

    ``__enter__`` raises PyxenError if the socket cannot be made.
    """

    def __init__(self, path: Path, limit: int = DEFAULT_LIMIT) -> None:
        self.path = path
        self._limit = limit
        self._lock = threading.Lock()
        self._history = OutputBuffer(limit)
        self._readers: list[_Reader] = []
        self._flushing = False
        self._finishing = False
        self._domain: tuple[Callable[[bytes], None], Callable[[], int]] | None = None
        self._left = threading.Event()
        self._wake: Callable[[], object] = lambda: None
        self._io = IoThread()

    def __enter__(self) -> ConsoleServer:
        self._listener = sockets.listen(self.path)
        self._io.__enter__()
        self._loop = self._io.loop
        self._loop.call_soon_threadsafe(self._accept_more)
        return self

    def __exit__(self, *exception: object) -> None:
        self._io.start(self._finish()).result()
        self._io.__exit__(*exception)
        sockets.close(self._listener, self.path)

    @property
    def readers(self) -> int:
        """How many there are."""
        return len(self._readers)

    # As the endpoint of a run

    def output(self, data: bytes) -> None:
        """Keep it, and pass it on to all readers; never waits. Safe in any thread."""
        with self._lock:
            self._history.append(data)
            for reader in self._readers:
                reader.buffer.append(data)
            wanted = bool(self._readers) and not self._flushing
            self._flushing = self._flushing or wanted
        if wanted:
            self._loop.call_soon_threadsafe(self._flush)

    async def serve(
        self, write_input: Callable[[bytes], None], pending_input: Callable[[], int]
    ) -> None:
        """Type what readers send until ``leave``; a reader who goes away ends nothing."""
        woken = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._wake = lambda: loop.call_soon_threadsafe(woken.set)
        self._domain = (write_input, pending_input)
        try:
            if not self._left.is_set():
                await woken.wait()
        finally:
            self._domain = None
            self._wake = lambda: None

    def leave(self) -> None:
        """Make ``serve`` return."""
        self._left.set()
        self._wake()

    # In the server's thread

    def _accept_more(self) -> None:
        if not self._finishing:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # too many open files, say
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_RETRY_SECONDS, self._accept_more)
            return
        if len(self._readers) >= MAX_READERS:
            connection.close()
            return
        connection.setblocking(False)
        reader = _Reader(self, connection, self._limit)
        with self._lock:
            reader.buffer.append(self._history.first(len(self._history)))
            self._readers.append(reader)
        self._loop.add_reader(connection, reader.receive)
        reader.flush()

    def _flush(self) -> None:
        with self._lock:
            self._flushing = False
        for reader in list(self._readers):
            reader.flush()

    def _drop(self, reader: _Reader) -> None:
        with self._lock:
            if reader not in self._readers:
                return
            self._readers.remove(reader)
        self._loop.remove_reader(reader.connection)
        self._loop.remove_writer(reader.connection)
        reader.connection.close()

    def _has_room(self) -> bool:
        """Whether a domain is there that takes input."""
        domain = self._domain
        return domain is not None and domain[1]() < READ_AHEAD

    def _type(self, data: bytes) -> None:
        domain = self._domain
        if domain is not None:
            domain[0](data)

    async def _finish(self) -> None:
        """Accept nobody any more, and let readers have the last output."""
        self._finishing = True
        self._loop.remove_reader(self._listener)
        self._flush()
        deadline = self._loop.time() + _CLOSE_SECONDS
        while any(reader.buffer for reader in self._readers) and self._loop.time() < deadline:
            await asyncio.sleep(_ROOM_INTERVAL)
        for reader in list(self._readers):
            self._drop(reader)


class _Reader:
    """One connection. ``buffer`` is what it has not been sent yet, under the server's lock."""

    def __init__(self, server: ConsoleServer, connection: socket.socket, limit: int) -> None:
        self.connection = connection
        self.buffer = OutputBuffer(limit)
        self._server = server

    def flush(self) -> None:
        """Send what can be sent without waiting."""
        server = self._server
        try:
            with server._lock:
                if self.buffer:
                    sent = self.connection.send(self.buffer.first(_CHUNK))
                    self.buffer.consume(sent)
                rest = len(self.buffer)
        except BlockingIOError:
            rest = len(self.buffer)
        except OSError:
            server._drop(self)
            return
        if rest:
            server._loop.add_writer(self.connection, self.flush)
        else:
            server._loop.remove_writer(self.connection)

    def receive(self) -> None:
        """There is input, or the end of it: then the reader has gone."""
        server = self._server
        room = server._has_room()
        try:
            data = self.connection.recv(_CHUNK if room else 1, 0 if room else socket.MSG_PEEK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            server._drop(self)
        elif room:
            server._type(data)
        else:
            server._loop.remove_reader(self.connection)
            server._loop.call_later(_ROOM_INTERVAL, self._resume)

    def _resume(self) -> None:
        if self in self._server._readers:
            self._server._loop.add_reader(self.connection, self.receive)
