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
import json
import logging
import os
import select
import socket
import stat
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyxen.errors import PyxenError
from pyxen.xenstore import paths
from pyxen.xenstore.confinement import Confinement
from pyxen.xenstore.connection import Connection
from pyxen.xenstore.live_update import LiveUpdate
from pyxen.xenstore.migration import dump, restore
from pyxen.xenstore.operations import remove_tree
from pyxen.xenstore.start import StartLock
from pyxen.xenstore.stream import ConnectionState, StreamError, pack, unpack
from pyxen.xenstore.wire import ProtocolError

if TYPE_CHECKING:
    from pyxen.xenstore.daemon import Xenstored

log = logging.getLogger(__name__)

_CHUNK: Final = 16384
UPDATED: Final = "-U"
"""The argument of a program that goes on in the place of a server."""

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
        self.daemon.live_update = LiveUpdate(self.daemon, self._execute)
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
        SocketClient(self, connection).speak_for(self.daemon.connect())

    def _accept_again(self) -> None:
        if self._listener is not None:
            self.loop.add_reader(self._listener, self._accept)

    # Live update

    @property
    def state_file(self) -> Path:
        """Where a server leaves its state for the program that goes on."""
        return self.path.with_name(f"{self.path.name}.state")

    def _execute(self, program: str, arguments: list[str] | None) -> None:
        """Become another program, which keeps all sockets. Raises OSError."""
        assert self._listener is not None
        arguments = sys.argv[1:] if arguments is None else arguments
        if UPDATED not in arguments:
            arguments = [*arguments, UPDATED]
        sockets = [self._listener, *(client.socket for client in self.clients)]
        try:
            write_private(self.state_file, self._save())
            for each in sockets:
                each.set_inheritable(True)
            os.execvp(program, [program, *arguments])
        finally:  # only if it has failed
            for each in sockets:
                each.set_inheritable(False)
            self.state_file.unlink(missing_ok=True)

    def _save(self) -> bytes:
        """The stream, and behind it what is not Xen's: guests' sockets, clients that are confined,
        domains that have stopped, the log."""
        assert self._listener is not None
        state, entries = dump(self.daemon)
        state.listener = self._listener.fileno()
        guests = []
        for client in self.clients:
            entry = None if client.connection is None else entries.get(client.connection)
            if entry is not None:
                entry.unread += client.input
                entry.fd = client.socket.fileno()
            if client.domid is not None:
                unread = client.input if entry is None else b""
                guests.append(
                    [client.domid, client.socket.fileno(), list(client.removes), unread.hex()]
                )
        confined = [
            [client.socket.fileno(), each.domid, each.places]
            for client in self.clients
            if client.connection is not None and (each := client.connection.confined) is not None
        ]
        stopped = [each.domid for each in self.daemon.domains.values() if each.shut_down]
        trace = self.daemon.log
        more = {
            "guests": guests,
            "confined": confined,
            "stopped": stopped,
            "log": None if trace.path is None else str(trace.path),
            "logging": trace.on,
        }
        return pack(state) + json.dumps(more).encode()

    def resume(self) -> None:
        """Go on with the state that another server has left. Raises PyxenError."""
        try:
            data = self.state_file.read_bytes()
            self.state_file.unlink()
        except OSError as error:
            raise PyxenError(f"{self.state_file}: {error.strerror}") from None
        try:
            state, rest = unpack(data)
            more = json.loads(rest)
            listener = socket.socket(fileno=state.listener)
            listener.set_inheritable(False)
            self.listen(listener)
            connections = restore(self.daemon, state)
            entries = {entry.domid: entry for entry in state.connections}
            for domid, fd, removes, unread in more["guests"]:
                client = SocketClient(self, _inherited(fd))
                client.make_guest(domid, removes)
                client.input = bytes.fromhex(unread)
                if domid in entries:
                    _go_on(client, connections, entries[domid])
            confined = {
                fd: Confinement(domid, tuple(places))
                for fd, domid, places in more.get("confined", ())  # an older server has none
            }
            for entry in state.connections:
                if entry.domid is None:
                    connections[entry.number].confined = confined.get(entry.fd)
                    _go_on(SocketClient(self, _inherited(entry.fd)), connections, entry)
        except (StreamError, ProtocolError, OSError, ValueError, KeyError) as error:
            raise PyxenError(f"{self.state_file}: {error}") from None
        for domid in more["stopped"]:
            self.daemon.domains[domid].shut_down = True
        if more["log"] is not None:
            self.daemon.log.path = Path(more["log"])
            if more["logging"]:
                self.daemon.log.open()
        for client in list(self.clients):
            client.serve()
        self.daemon.wake_clients()

    # Domains

    def _attach(self, connection: Connection, gfn: int, port: int) -> None:
        """A domain is introduced. Without a socket of its own it will say nothing."""
        client = self.guests.get(connection.domid)
        if client is not None:
            client.speak_for(connection)
            self.loop.call_soon(client.serve)

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


def write_private(path: Path, data: bytes) -> None:
    """Make a file that only its owner may read. Raises OSError."""
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(data)


def _go_on(
    client: SocketClient, connections: dict[int, Connection], entry: ConnectionState
) -> None:
    client.speak_for(connections[entry.number])
    client.input = entry.unread


def _inherited(fd: int) -> socket.socket:
    connected = socket.socket(fileno=fd)
    connected.set_inheritable(False)
    return connected


class SocketClient:
    """One process, or the domain that it speaks for. ``domid`` and ``removes`` are of the latter;
    ``input``: what has been read and could not be served yet."""

    def __init__(self, server: SocketServer, connected: socket.socket) -> None:
        connected.setblocking(False)
        self.socket = connected
        self.domid: int | None = None
        self.removes: Sequence[str] = ()
        self.input = b""
        self.connection: Connection | None = None
        self._server = server
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

    def speak_for(self, connection: Connection) -> None:
        """This is its connection from now on: one of domain 0, or that of its domain."""
        connection.set_wake(self.serve)
        connection.in_stream = True
        if self.domid is None:
            connection.become_guest = self._become_guest
        self.connection = connection

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
        self.make_guest(domid, removes)
        record = self._server.daemon.domains.get(domid)
        if record is not None and record.connection is not None:
            record.connection.begin_anew()
            self.speak_for(record.connection)

    def make_guest(self, domid: int, removes: Sequence[str]) -> None:
        """It speaks for a domain, and for nobody else, from now on."""
        self.domid = domid
        self.removes = removes
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _GUEST_BUFFER)
        self._server.add_guest(self, domid)

    # Bytes

    def _read(self) -> None:
        try:
            self.input += self.socket.recv(_CHUNK)
        except BlockingIOError:
            return
        except OSError:
            self.input = b""
        if not self.input:
            self.close()
            return
        self.serve()
        self._server.daemon.wake_clients()  # those who waited for what this one has taken now

    def serve(self) -> None:
        """Send what waits and take what is there, as long as either goes on."""
        if self._serving:
            return
        self._serving = True
        try:
            self._send()
            self._take()
            self._read_on(not self.input)
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
        rest = memoryview(self.input)
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
            self.input = bytes(rest)

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
        self.serve()
        self._server.daemon.wake_clients()
