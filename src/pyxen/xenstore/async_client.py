# SPDX-License-Identifier: GPL-2.0-or-later
"""The store from another process, for asyncio: as ``client``, with ``await``.

async with AsyncClient.connected() as store:
    await store.write("/tool/x", "1")
    async with store.transaction() as transaction:
        await transaction.write("/tool/y", await transaction.read("/tool/x"))
    async with store.watch("/tool") as watch:
        async for path in watch:
            print(path)
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final, TypeVar

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore.address import default_socket
from pyxen.xenstore.error import StoreError
from pyxen.xenstore.requests import DirectoryParts, pack, unpack, value_bytes
from pyxen.xenstore.wire import Message, Parser, ProtocolError

Result = TypeVar("Result")

_LAST_REQUEST: Final = 0xFFFF_FFFF


class AsyncRequests(ABC):
    """The operations on nodes, of a client or within one of its transactions; see ``Requests``."""

    @abstractmethod
    async def request(self, kind: int, payload: bytes) -> bytes:
        """Make one request of type ``kind``; returns the answer's payload."""

    async def read(self, path: str) -> bytes:
        return await self.request(abi.XS_READ, pack(path))

    async def write(self, path: str, value: bytes | str) -> None:
        await self.request(abi.XS_WRITE, pack(path) + value_bytes(value))

    async def mkdir(self, path: str) -> None:
        await self.request(abi.XS_MKDIR, pack(path))

    async def remove(self, path: str) -> None:
        await self.request(abi.XS_RM, pack(path))

    async def directory(self, path: str) -> list[str]:
        try:
            return unpack(await self.request(abi.XS_DIRECTORY, pack(path)))
        except StoreError as error:
            if error.name != "E2BIG":
                raise
        parts = DirectoryParts()
        while not parts.complete:
            place = pack(path, str(parts.size))
            parts.add(await self.request(abi.XS_DIRECTORY_PART, place))
        return parts.names()

    async def exists(self, path: str) -> bool:
        try:
            await self.read(path)
        except StoreError as error:
            if error.name in ("ENOENT", "EACCES"):
                return False
            raise
        return True

    async def permissions(self, path: str) -> list[str]:
        return unpack(await self.request(abi.XS_GET_PERMS, pack(path)))

    async def set_permissions(self, path: str, permissions: Sequence[str]) -> None:
        await self.request(abi.XS_SET_PERMS, pack(path, *permissions))


class AsyncClient(AsyncRequests):
    """A connection to the store; requests of several tasks may be under way at once.

    Raises OSError (such as ConnectionError) when the store is not there, or no longer.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[Message]] = {}
        self._watches: dict[str, AsyncWatch] = {}
        self._last_request = 0
        self._last_token = 0
        self._receiver = asyncio.create_task(self._receive())

    @classmethod
    @contextlib.asynccontextmanager
    async def connected(cls, path: Path | str | None = None) -> AsyncIterator[AsyncClient]:
        """A client as long as the context lasts; ``path``: the socket."""
        address = default_socket() if path is None else path
        client = cls(*await asyncio.open_unix_connection(str(address)))
        try:
            yield client
        finally:
            await client.close()

    async def close(self) -> None:
        """End the connection; whoever waits gets a ConnectionError."""
        self._receiver.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._receiver
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    # Requests

    async def request(self, kind: int, payload: bytes, transaction: int = 0) -> bytes:
        if len(payload) > abi.XENSTORE_PAYLOAD_MAX:
            raise StoreError("E2BIG")
        if self._receiver.done():
            raise ConnectionResetError("xenstore: the connection has ended")
        self._last_request = number = (self._last_request + 1) & _LAST_REQUEST
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            self._writer.write(Message(kind, number, transaction, payload).pack())
            await self._writer.drain()
            answer = await future
        finally:
            del self._waiting[number]
        if answer.type == abi.XS_ERROR:
            raise StoreError(unpack(answer.payload)[0])
        return answer.payload

    async def _receive(self) -> None:
        """Hand out what comes, until the connection ends."""
        parser = Parser()
        try:
            while True:
                message = parser.feed(await self._reader.readexactly(parser.wanted))
                if message is None:
                    continue
                if message.type == abi.XS_WATCH_EVENT:
                    self._tell(message)
                    continue
                future = self._waiting.get(message.request)
                if future is not None and not future.done():
                    future.set_result(message)
        except (OSError, EOFError, ProtocolError):
            pass  # told to all below
        finally:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(ConnectionResetError("xenstore: the connection has ended"))
            for watch in self._watches.values():
                watch.events.put_nowait(None)

    def _tell(self, message: Message) -> None:
        path, token = unpack(message.payload)
        watch = self._watches.get(token)
        if watch is not None:
            watch.events.put_nowait(path)

    # Transactions

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncRequests]:
        """See ``Client.transaction``."""
        number = int(unpack(await self.request(abi.XS_TRANSACTION_START, b"\0"))[0])
        try:
            yield _Transaction(self, number)
        except BaseException:
            with contextlib.suppress(StoreError, OSError):
                await self.request(abi.XS_TRANSACTION_END, b"F\0", number)
            raise
        await self.request(abi.XS_TRANSACTION_END, b"T\0", number)

    async def atomically(self, work: Callable[[AsyncRequests], Awaitable[Result]]) -> Result:
        """Call ``work`` with a transaction, again until it ends without EAGAIN."""
        while True:
            try:
                async with self.transaction() as transaction:
                    return await work(transaction)
            except StoreError as error:
                if error.name != "EAGAIN":
                    raise

    # Watches

    @contextlib.asynccontextmanager
    async def watch(self, path: str, depth: int | None = None) -> AsyncIterator[AsyncWatch]:
        """Hear of changes as long as the context lasts; the first comes at once."""
        self._last_token += 1
        token = str(self._last_token)
        limit = [] if depth is None else [str(depth)]
        watch = self._watches[token] = AsyncWatch()
        try:
            await self.request(abi.XS_WATCH, pack(path, token, *limit))
            try:
                yield watch
            finally:
                with contextlib.suppress(OSError):
                    await self.request(abi.XS_UNWATCH, pack(path, token))
        finally:
            del self._watches[token]


class _Transaction(AsyncRequests):
    """Requests of one transaction."""

    def __init__(self, client: AsyncClient, number: int) -> None:
        self._client = client
        self._number = number

    async def request(self, kind: int, payload: bytes) -> bytes:
        return await self._client.request(kind, payload, self._number)


class AsyncWatch:
    """Yields the path of each change; ends with the connection."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[str | None] = asyncio.Queue()

    def __aiter__(self) -> AsyncWatch:
        return self

    async def __anext__(self) -> str:
        path = await self.events.get()
        if path is None:
            raise StopAsyncIteration
        return path
