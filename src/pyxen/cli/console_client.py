# SPDX-License-Identifier: GPL-2.0-or-later
"""The user's terminal at the console of a domain that runs in another process.

The other end of the socket is a ``toolstack.console_server.ConsoleServer``. Ctrl-] leaves the
console; the domain goes on.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pyxen.cli.terminal import Terminal
from pyxen.errors import PyxenError

NOTICE: Final = "Ctrl-] leaves the console; the domain goes on"
"""For the ``Terminal``."""
_CHUNK: Final = 64 * 1024


def attach(path: Path, terminal: Terminal, connected: Callable[[], None] = lambda: None) -> bool:
    """Show the console until the user leaves or the domain ends; in the main thread.

    ``connected`` is called when nothing can be missed any more. Returns whether the domain ended.
    Raises PyxenError if nobody serves the socket.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(str(path))
    except OSError as error:
        connection.close()
        raise PyxenError(f"{path}: {error.strerror or error}") from error
    try:
        connected()
    except BaseException:
        connection.close()
        raise
    return asyncio.run(_bridge(connection, terminal))


async def _bridge(connection: socket.socket, terminal: Terminal) -> bool:
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    show = asyncio.create_task(_show(reader, terminal))
    try:
        await terminal.serve(writer.write, writer.transport.get_write_buffer_size)
        return show.done()
    finally:
        show.cancel()
        writer.transport.abort()


async def _show(reader: asyncio.StreamReader, terminal: Terminal) -> None:
    """Write what comes to the terminal, which may take its time, until the other end closes."""
    loop = asyncio.get_running_loop()
    try:
        while data := await reader.read(_CHUNK):
            await loop.run_in_executor(None, terminal.output, data)
    except ConnectionError:
        pass
    terminal.leave()
