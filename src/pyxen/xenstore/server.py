# SPDX-License-Identifier: GPL-2.0-or-later
"""The transport of processes: a unix socket. All who may open it have domain 0's rights."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING, cast

from pyxen.errors import PyxenError
from pyxen.xenstore.wire import ProtocolError

if TYPE_CHECKING:
    from pyxen.xenstore.daemon import Xenstored

log = logging.getLogger(__name__)


class SocketServer:
    """Serves a store on a unix socket, in the thread of the event loop that ``start`` is called in.

    The socket is for its owner alone. One that a dead server has left behind is replaced.
    """

    def __init__(self, daemon: Xenstored, path: Path) -> None:
        self.path = path
        self._daemon = daemon
        self._server: asyncio.Server | None = None
        self._clients: set[_SocketClient] = set()

    async def start(self) -> None:
        """Raises PyxenError if the socket cannot be made, or another server has it."""
        self._remove_leftover()
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(str(self.path))
            self.path.chmod(0o600)  # nobody can connect before it listens
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(
                lambda: _SocketClient(self._daemon, self._clients), sock=listener
            )
        except OSError as error:
            listener.close()
            raise PyxenError(f"{self.path}: {error.strerror or error}") from None

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
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for client in list(self._clients):
            client.close()
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()


class _SocketClient(asyncio.Protocol):
    """One process. What it does not read stays in the connection's output."""

    def __init__(self, daemon: Xenstored, clients: set[_SocketClient]) -> None:
        self._daemon = daemon
        self._clients = clients
        self._connection = daemon.connect(self._send)
        self._writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._clients.add(self)

    def data_received(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest and (wanted := self._connection.wanted):
                piece, rest = rest[:wanted], rest[wanted:]
                self._connection.receive(piece)
        except ProtocolError as error:
            log.warning("xenstore: a client is dropped: %s", error)
            self.close()

    def _send(self) -> None:
        output = self._connection.output
        packed = []
        while output and self._writable:
            packed.append(output[0].message.pack())
            self._connection.sent()
        if packed:
            self._transport.write(b"".join(packed))

    def pause_writing(self) -> None:
        """The process does not read: take no more requests of it, either."""
        self._writable = False
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._writable = True
        self._send()
        if self._writable and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._daemon.disconnect(self._connection)
        self._clients.discard(self)

    def close(self) -> None:
        self._transport.close()
