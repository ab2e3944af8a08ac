# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the store's socket is, if nobody says, and the way to it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from pyxen.errors import PyxenError


def default_socket() -> Path:
    """As Xen's tools look for it: ``$XENSTORED_PATH``, else ``socket`` in ``$XENSTORED_RUNDIR``,
    else ``/run/xenstored/socket``. The last is root's; others have one in ``$XDG_RUNTIME_DIR``,
    for which Xen's tools need XENSTORED_PATH.

    Raises PyxenError if there is no such folder.
    """
    if path := os.environ.get("XENSTORED_PATH"):
        return Path(path)
    if folder := os.environ.get("XENSTORED_RUNDIR"):
        return Path(folder) / "socket"
    if os.geteuid() == 0:
        return Path("/run/xenstored/socket")
    if folder := os.environ.get("XDG_RUNTIME_DIR"):
        return Path(folder) / "pyxen" / "xenstored" / "socket"
    raise PyxenError("xenstored: set XENSTORED_PATH, there is no XDG_RUNTIME_DIR")


def connect(path: Path) -> socket.socket:
    """Raises OSError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection
