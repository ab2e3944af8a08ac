# SPDX-License-Identifier: GPL-2.0-or-later
"""Lines with open files, on a stream between two processes: a file travels with a blank before the
line. JSON takes no notice of those."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from typing import Final

from pyxen.toolstack.control.messages import LINE_LIMIT

_CHUNK: Final = 64 * 1024
_FILES: Final = 250
"""Linux takes 253 with one message."""


def send(connection: socket.socket, line: bytes, files: Sequence[int] = ()) -> None:
    for first in range(0, len(files), _FILES):
        socket.send_fds(connection, [b" "], files[first : first + _FILES])
    connection.sendall(line)


def receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """The next line, and the files that came with it. Raises EOFError at the end of the stream, and
    for a line that is too long."""
    line = b""
    files: list[int] = []
    while not line.endswith(b"\n"):
        data, more, _, _ = socket.recv_fds(connection, _CHUNK, _FILES)
        for file in more:
            os.set_inheritable(file, False)
        if not data or len(line) > LINE_LIMIT:
            raise EOFError
        line += data
        files += more
    return line, files
