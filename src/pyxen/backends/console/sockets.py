# SPDX-License-Identifier: GPL-2.0-or-later
"""Unix sockets on which consoles are offered: only their owner can connect."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path
from typing import Final

from pyxen.errors import PyxenError

_MODE: Final = 0o600
_BACKLOG: Final = 8


def listen(path: Path) -> socket.socket:
    """A non-blocking socket that listens there; one that was left behind is replaced.

    Raises PyxenError, also if something listens there already.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        _remove_left_over(path)
        os.fchmod(listener.fileno(), _MODE)  # the file that bind makes has this mode
        listener.bind(str(path))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise PyxenError(f"{path}: {error.strerror or error}") from error
    return listener


def close(listener: socket.socket, path: Path) -> None:
    """Listen no more, and remove the file."""
    listener.close()
    path.unlink(missing_ok=True)


def _remove_left_over(path: Path) -> None:
    """Remove a socket on which nobody listens."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink()
