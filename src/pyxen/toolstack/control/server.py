# SPDX-License-Identifier: GPL-2.0-or-later
"""The domain's side of the control socket. It runs in the I/O thread."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyxen.backends.console import sockets
from pyxen.errors import PyxenError
from pyxen.toolstack.control.messages import LINE_LIMIT, Done, Event, Request, Subscribe
from pyxen.toolstack.control.wire import answer_line, error_line, event_line, read_request

log = logging.getLogger("pyxen")

Handler = Callable[[Request[Any]], Awaitable[Any]]


class ControlServer:
    """A context manager, entered and left in any thread but that of the loop.

    Args:
        path: where the socket is made; only its owner can connect.
        loop: the loop in which requests are handled.
        handle: does a request, and returns its answer. What it raises as PyxenError is the answer.
    """

    def __init__(self, path: Path, loop: asyncio.AbstractEventLoop, handle: Handler) -> None:
        self._path = path
        self._loop = loop
        self._handle = handle
        self._subscribers: set[asyncio.StreamWriter] = set()
        self._clients: set[asyncio.Task[None]] = set()

    def __enter__(self) -> ControlServer:
        self._listener = sockets.listen(self._path)
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result()
        return self

    def __exit__(self, *exception: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result()
        sockets.close(self._listener, self._path)

    def tell(self, event: Event) -> None:
        """Send an event to all that have subscribed. Safe in any thread."""
        self._loop.call_soon_threadsafe(self._tell, event_line(event))

    def _tell(self, line: bytes) -> None:
        for writer in self._subscribers:
            writer.write(line)

    async def _start(self) -> None:
        self._server = await asyncio.start_unix_server(
            self._serve, sock=self._listener, limit=LINE_LIMIT
        )

    async def _stop(self) -> None:
        self._server.close()
        for task in self._clients:
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            with suppress(ConnectionError, asyncio.CancelledError):
                await self._answer_all(reader, writer)
        finally:
            self._clients.discard(task)
            self._subscribers.discard(writer)
            writer.close()

    async def _answer_all(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            try:
                line = await reader.readline()
            except ValueError:  # beyond the limit; where the next line begins is not known
                writer.write(error_line(f"a request is longer than {LINE_LIMIT} bytes"))
                return
            if not line:
                return
            writer.write(await self._answer(line, writer))
            await writer.drain()

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> bytes:
        try:
            request = read_request(line)
            if isinstance(request, Subscribe):
                self._subscribers.add(writer)
                return answer_line(Done())
            return answer_line(await self._handle(request))
        except PyxenError as error:
            return error_line(str(error))
        except Exception as error:  # one client's request must not end the domain
            log.exception("control socket: a request failed")
            return error_line(f"this is a bug in pyxen: {type(error).__name__}: {error}")
