# SPDX-License-Identifier: GPL-2.0-or-later
"""An image that another process serves by NBD, the network block device protocol.

After a greeting the client asks for an export by name and is told its size and what it can do;
from then on each side sends headers with big-endian numbers, followed by data. We have one request
at a time on a connection, and several connections, if the server promises that a flush on one is
good for all; so a reply is always that of the last request. Data goes straight between the socket
and the guest's pages.

Reference: ``doc/proto.md`` of the nbd project.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from queue import LifoQueue
from typing import Final

from pyxen.backends.block.images import Image, after
from pyxen.errors import PyxenError

CONNECTIONS: Final = 4

_GREETING: Final = struct.Struct(">8s8sH")
_OPTION: Final = struct.Struct(">8sII")
_OPTION_REPLY: Final = struct.Struct(">QIII")
_EXPORT: Final = struct.Struct(">HQH")
_REQUEST: Final = struct.Struct(">IHHQQI")
_REPLY: Final = struct.Struct(">IIQ")

_FIXED_NEWSTYLE_NO_ZEROES: Final = 3
_OPT_GO: Final = 7
_OPTION_REPLY_MAGIC: Final = 0x3E889045565A9
_REP_ACK: Final = 1
_REP_INFO: Final = 3
_INFO_EXPORT: Final = 0
_REQUEST_MAGIC: Final = 0x25609513
_REPLY_MAGIC: Final = 0x67446698
_READ, _WRITE, _DISCONNECT, _FLUSH, _TRIM = 0, 1, 2, 3, 4
_FLAG_READ_ONLY: Final = 1 << 1
_FLAG_FLUSH: Final = 1 << 2
_FLAG_TRIM: Final = 1 << 5
_FLAG_MULTI_CONN: Final = 1 << 8
_LARGEST_INFO: Final = 4096
_LARGEST_TRIM: Final = 1 << 30
_MAX_BUFFERS: Final = 512
_TIMEOUT: Final = 60.0


class NbdConnection:
    """One connection, from which the greeting has been read. ``size`` and ``flags`` are those of
    the export. Raises OSError for a server that breaks the protocol or goes away."""

    def __init__(self, link: socket.socket, export: str) -> None:
        self._link = link
        link.settimeout(_TIMEOUT)
        magic, option_magic, flags = _GREETING.unpack(self._receive(_GREETING.size))
        if magic != b"NBDMAGIC" or option_magic != b"IHAVEOPT" or not flags & 1:
            raise OSError(errno.EPROTO, "this is no NBD server")
        name = export.encode()
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        link.sendall(struct.pack(">I", flags & _FIXED_NEWSTYLE_NO_ZEROES))
        link.sendall(_OPTION.pack(b"IHAVEOPT", _OPT_GO, len(data)) + data)
        self.size, self.flags = self._read_export()

    def _read_export(self) -> tuple[int, int]:
        found = (0, 0)
        while True:
            reply = self._receive(_OPTION_REPLY.size)
            magic, _, kind, length = _OPTION_REPLY.unpack(reply)
            if magic != _OPTION_REPLY_MAGIC or length > _LARGEST_INFO:
                raise OSError(errno.EPROTO, "the NBD server's reply makes no sense")
            data = self._receive(length)
            if kind == _REP_ACK:
                return found
            if kind != _REP_INFO:
                said = data.decode(errors="replace")
                raise OSError(errno.EPROTO, f"the NBD server refuses: {said}")
            if int.from_bytes(data[:2], "big") == _INFO_EXPORT:
                _, size, flags = _EXPORT.unpack(data)
                found = (size, flags)

    def request(
        self,
        command: int,
        offset: int = 0,
        size: int = 0,
        *,
        out: Sequence[memoryview] = (),
        into: Sequence[memoryview] = (),
    ) -> None:
        """Do one command. Raises OSError with the server's error number, or for the end of the
        connection, which then cannot be used any more."""
        header = _REQUEST.pack(_REQUEST_MAGIC, 0, command, 0, offset, size)
        try:
            self._send([memoryview(header), *out])
            magic, error, _ = _REPLY.unpack(self._receive(_REPLY.size))
            if magic != _REPLY_MAGIC:
                raise OSError(errno.EPROTO, "the NBD server's reply makes no sense")
            if not error:
                self._receive_into(into)
        except OSError:
            self._link.close()
            raise
        if error:
            raise OSError(error, os.strerror(error))

    def _send(self, buffers: list[memoryview]) -> None:
        while buffers:
            sent = self._link.sendmsg(buffers[:_MAX_BUFFERS])
            buffers = after(buffers, sent)

    def _receive_into(self, buffers: Sequence[memoryview]) -> None:
        while buffers:
            got = self._link.recvmsg_into(buffers[:_MAX_BUFFERS])[0]
            if not got:
                raise ConnectionResetError(errno.ECONNRESET, "the NBD server has gone")
            buffers = after(buffers, got)

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        self._receive_into([memoryview(data)] if size else [])
        return bytes(data)

    def close(self) -> None:
        with suppress(OSError):
            self._link.sendall(_REQUEST.pack(_REQUEST_MAGIC, 0, _DISCONNECT, 0, 0, 0))
        self._link.close()


class NbdImage(Image):
    """An export of a server, by these connections with it, of which it uses as many as the server
    permits. Raises PyxenError if there is none.

    ``disk`` is what messages call it.
    """

    def __init__(
        self,
        links: Sequence[socket.socket],
        export: str,
        disk: str,
        *,
        readonly: bool = False,
        sector_size: int = 512,
        discards: bool = True,
        writethrough: bool = False,
    ) -> None:
        self.name = disk
        self.sector_size = sector_size
        self._connections: list[NbdConnection] = []
        self._idle: LifoQueue[NbdConnection] = LifoQueue()
        unused = list(links)
        try:
            first = self._connect(unused.pop(0), export)
            while unused and first.flags & _FLAG_MULTI_CONN:
                self._connect(unused.pop(0), export)
        except OSError as error:
            self._disconnect()
            raise PyxenError(f"{disk}: {error.strerror or error}") from None
        finally:
            for link in unused:
                link.close()
        self.size = first.size - first.size % sector_size
        self.readonly = readonly or bool(first.flags & _FLAG_READ_ONLY)
        self.discards = discards and not self.readonly and bool(first.flags & _FLAG_TRIM)
        self.volatile = not writethrough and bool(first.flags & _FLAG_FLUSH)

    def _connect(self, link: socket.socket, export: str) -> NbdConnection:
        try:
            connection = NbdConnection(link, export)
        except BaseException:
            link.close()
            raise
        self._connections.append(connection)
        self._idle.put(connection)
        return connection

    def _request(
        self,
        command: int,
        offset: int = 0,
        size: int = 0,
        *,
        out: Sequence[memoryview] = (),
        into: Sequence[memoryview] = (),
    ) -> None:
        connection = self._idle.get()
        try:
            connection.request(command, offset, size, out=out, into=into)
        finally:
            self._idle.put(connection)

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        self._request(_READ, offset, sum(map(len, buffers)), into=buffers)

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        self._request(_WRITE, offset, sum(map(len, buffers)), out=buffers)

    def flush(self) -> None:
        self._request(_FLUSH)

    def discard(self, offset: int, size: int) -> None:
        for start in range(offset, offset + size, _LARGEST_TRIM):
            self._request(_TRIM, start, min(_LARGEST_TRIM, offset + size - start))

    def _disconnect(self) -> None:
        for connection in self._connections:
            connection.close()
        self._connections.clear()

    def close(self) -> None:
        self._disconnect()
