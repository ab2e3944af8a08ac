# SPDX-License-Identifier: GPL-2.0-or-later
"""The transport of processes: a unix socket. All who may open it have domain 0's rights.

A process in which a domain lives opens one socket more, and makes it that domain's connection by
the CONTROL command ``guest-connect DOMID [PATH...]``. From its answer on, what travels there is
what the guest says and hears, with the guest's rights; there is no way back. The domain exists as
long as the socket is open. When it closes, the domain is released, and the nodes of these paths are
removed (``*`` stands for any one name). The command for a domain that has a socket already replaces
that one: the domain begins anew, and nothing is released.

Bytes are sent and taken here without buffers of others in between, so that ``output`` is all that a
client has not got yet, and what a client does not take counts for its quotas.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
import stat
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyxen.errors import PyxenError
from pyxen.xenstore import paths
from pyxen.xenstore.connection import Connection
from pyxen.xenstore.operations import remove_tree
from pyxen.xenstore.start import StartLock
from pyxen.xenstore.wire import ProtocolError

if TYPE_CHECKING:
    from pyxen.xenstore.daemon import Xenstored

log = logging.getLogger(__name__)

_CHUNK: Final = 16384
_AT_ONCE: Final = 8
"""Messages for one system call."""
_BACKLOG: Final = 100
_GUEST_BUFFER: Final = 4096
"""Of a guest's socket: what is in the kernel's buffers does not count for quotas."""
_ANY: Final = "*"
_ACCEPT_AGAIN: Final = 1.0
"""Seconds to wait when there are no file descriptors left."""


class SocketServer:
    """Serves a store on a unix socket, in the thread of the event loop that ``start`` is called in.

    The socket is for its owner alone. One that a dead server has left behind is replaced.
    """

    def __init__(self, daemon: Xenstored, path: Path) -> None:
        self.path = path
        self.daemon = daemon
        self.guests: dict[int, SocketClient] = {}
        self.clients: set[SocketClient] = set()
        self.changed = asyncio.Event()
        """Set when a client has come or gone."""
        self._listener: socket.socket | None = None
        self._hangups = select.epoll()

    async def start(self) -> None:
        """Raises PyxenError if the socket cannot be made, or another server has it."""
        self._remove_leftover()
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(str(self.path))
            self.path.chmod(0o600)  # nobody can connect before it listens
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise PyxenError(f"{self.path}: {error.strerror or error}") from None
        self.listen(listener)

    def listen(self, listener: socket.socket) -> None:
        """Serve with a socket that listens already."""
        self.loop = asyncio.get_running_loop()
        listener.setblocking(False)
        self._listener = listener
        self.daemon.attach = self._attach
        self.daemon.later = self.loop.call_later
        self.loop.add_reader(listener, self._accept)
        self.loop.add_reader(self._hangups, self._hung_up)

    def _remove_leftover(self) -> None:
        try:
            if not stat.S_ISSOCK(self.path.stat().st_mode):
                raise PyxenError(f"{self.path}: exists and is no socket")
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(self.path))
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise PyxenError(f"{self.path}: {error.strerror or error}") from None
        else:
            raise PyxenError(f"{self.path}: another server listens there")

    async def close(self) -> None:
        """Close all connections and remove the socket. A second time does nothing."""
        listener, self._listener = self._listener, None
        if listener is None:
            return
        self.loop.remove_reader(listener)
        listener.close()
        for client in list(self.clients):
            client.close()
        self.loop.remove_reader(self._hangups)
        self._hangups.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    async def close_when_idle(self, seconds: float) -> None:
        """Close when there has been no client for so long."""
        while True:
            self.changed.clear()
            try:
                await asyncio.wait_for(self.changed.wait(), None if self.clients else seconds)
            except TimeoutError:
                if await self._close_unused():
                    return

    async def _close_unused(self) -> bool:
        """False if somebody is about to connect, or has just done so."""
        lock = StartLock(self.path)
        fd = lock.take()
        if fd is None:
            return False
        try:
            self._accept()
            if self.clients:
                return False
            await self.close()
            lock.path.unlink(missing_ok=True)
            return True
        finally:
            os.close(fd)

    def _accept(self) -> None:
        listener = self._listener
        assert listener is not None
        try:
            connection, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return
        except OSError as error:
            log.error("xenstore: a client cannot be accepted: %s", error.strerror)
            self.loop.remove_reader(listener)
            self.loop.call_later(_ACCEPT_AGAIN, self._accept_again)
            return
        SocketClient(self, connection)

    def _accept_again(self) -> None:
        if self._listener is not None:
            self.loop.add_reader(self._listener, self._accept)

    # Domains

    def _attach(self, connection: Connection, gfn: int, port: int) -> None:
        """A domain is introduced. Without a socket of its own it will say nothing."""
        client = self.guests.get(connection.domid)
        if client is not None:
            client.speak_for(connection)

    def add_guest(self, client: SocketClient, domid: int) -> None:
        """This client is a domain's from now on. Another one that was is closed."""
        old = self.guests.get(domid)
        self.guests[domid] = client
        if old is not None:
            old.close()
        self._hangups.register(client.socket, select.EPOLLRDHUP)

    def remove_guest(self, client: SocketClient, domid: int) -> None:
        """The client is about to be closed."""
        self._hangups.unregister(client.socket)
        if self.guests.get(domid) is not client:
            return
        del self.guests[domid]
        self.daemon.release(domid)
        internal = Connection(self.daemon)
        for pattern in client.removes:
            for path in list(self._matching(pattern)):
                if self.daemon.database.get(path) is not None:
                    remove_tree(self.daemon, internal, path, self.daemon.database)
        self.daemon.wake_clients()

    def _hung_up(self) -> None:
        """A domain's process has gone, perhaps while nothing of it was read."""
        by_number = {client.socket.fileno(): client for client in self.clients}
        for number, _ in self._hangups.poll(0):
            if number in by_number:
                by_number[number].close()

    def _matching(self, pattern: str) -> Iterator[str]:
        """The nodes that a path means in which a name may be ``*``."""
        found = [paths.ROOT]
        for name in pattern.split("/")[1:]:
            below = []
            for path in found:
                node = self.daemon.database.get(path)
                names = node.child_names if node is not None else []
                below += [paths.child_of(path, n) for n in names if name in (_ANY, n)]
            found = below
        yield from found


class SocketClient:
    """One process, or the domain that it speaks for."""

    def __init__(self, server: SocketServer, connected: socket.socket) -> None:
        connected.setblocking(False)
        self.socket = connected
        self.removes: Sequence[str] = ()
        self.domid: int | None = None
        """Of the domain that it speaks for."""
        self.connection: Connection | None = server.daemon.connect(self._serve)
        self.connection.become_guest = self._become_guest
        self._server = server
        self._input = b""
        self._blocked = False
        """It does not read: take no more requests of it, either."""
        self._serving = False
        self._reading = True
        server.clients.add(self)
        server.changed.set()
        server.loop.add_reader(connected, self._read)

    def close(self) -> None:
        """Its end; a second time nothing happens."""
        if self not in self._server.clients:
            return
        self._server.clients.discard(self)
        self._server.loop.remove_reader(self.socket)
        self._server.loop.remove_writer(self.socket)
        if self.domid is not None:
            self._server.remove_guest(self, self.domid)
        elif self.connection is not None:
            self._server.daemon.disconnect(self.connection)
        self.connection = None
        self.socket.close()
        self._server.changed.set()

    # A domain's

    def _become_guest(self, domid: int, removes: Sequence[str]) -> None:
        """The answer of the request that asked for it is in the output."""
        assert self.connection is not None
        self._send()
        if self.connection.output:
            self.close()  # it has asked for more than it has taken
            return
        self._server.daemon.disconnect(self.connection)
        self.connection = None
        self.domid = domid
        self.removes = removes
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _GUEST_BUFFER)
        self._server.add_guest(self, domid)
        record = self._server.daemon.domains.get(domid)
        if record is not None and record.connection is not None:
            record.connection.in_stream = False
            record.connection.reset()
            record.connection.ignored = False
            self.speak_for(record.connection)

    def speak_for(self, connection: Connection) -> None:
        """The domain is introduced: this is its connection."""
        connection.set_wake(self._serve)
        connection.in_stream = True
        self.connection = connection
        self._serve()

    # Bytes

    def _read(self) -> None:
        try:
            self._input += self.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self._input = b""
        if not self._input:
            self.close()
            return
        self._serve()
        self._server.daemon.wake_clients()  # those who waited for what this one has taken now

    def _serve(self) -> None:
        """Send what waits and take what is there, as long as either goes on."""
        if self._serving:
            return
        self._serving = True
        try:
            self._send()
            self._take()
            self._read_on(not self._input)
        except ProtocolError as error:
            log.warning("xenstore: a client is dropped: %s", error)
            self.close()
        finally:
            self._serving = False

    def _read_on(self, wanted: bool) -> None:
        """Whether to look for more."""
        if wanted != self._reading and self in self._server.clients:
            self._reading = wanted
            if wanted:
                self._server.loop.add_reader(self.socket, self._read)
            else:
                self._server.loop.remove_reader(self.socket)

    def _take(self) -> None:
        rest = memoryview(self._input)
        try:
            while rest and not self._blocked:
                connection = self.connection
                if connection is None or not (wanted := connection.wanted):
                    break
                piece, rest = rest[:wanted], rest[wanted:]
                connection.receive(piece)
                if connection.output:
                    self._send()
        finally:
            self._input = bytes(rest)

    def _send(self) -> None:
        """Send as much as there is room for."""
        connection = self.connection
        if connection is None:
            return
        output = connection.output
        while output and not self._blocked:
            data = b"".join(each.message.pack() for each in islice(output, _AT_ONCE))
            data = data[output[0].sent :]
            try:
                size = self.socket.send(data)
            except BlockingIOError:
                size = 0
            except OSError:
                self._server.loop.call_soon(self.close)
                self._blocked = True
                return
            if size < len(data):
                self._blocked = True
                self._server.loop.add_writer(self.socket, self._writable)
            while size:
                first = output[0]
                part = min(size, first.size - first.sent)
                first.sent += part
                size -= part
                if first.sent == first.size:
                    connection.sent()

    def _writable(self) -> None:
        self._server.loop.remove_writer(self.socket)
        self._blocked = False
        self._serve()
        self._server.daemon.wake_clients()
