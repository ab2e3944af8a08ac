# SPDX-License-Identifier: GPL-2.0-or-later
"""From an extra console's configuration to its back end: makes the terminal or the socket
that it is connected with."""

from __future__ import annotations

from pathlib import Path

from pyxen.backends.console.backend import ConsoleBackend
from pyxen.backends.console.outlet import PtyOutlet, SocketOutlet, open_pty, open_socket
from pyxen.backends.doors import Doors
from pyxen.backends.opened import Opened
from pyxen.errors import PyxenError
from pyxen.toolstack.devices.channel import ChannelConfig


def open_console(config: ChannelConfig, domid: int) -> Opened:
    """The terminal or the socket. Raises PyxenError if it cannot be made."""
    if config.connection == "socket":
        return open_socket(Path(config.path))
    try:
        return open_pty()
    except OSError as error:
        raise PyxenError(f"channel {config.name}: no terminal: {error.strerror}") from error


def make_console(
    doors: Doors, backend_path: str, frontend_path: str, config: ChannelConfig, opened: Opened
) -> ConsoleBackend:
    """The console, connected with what ``open_console`` has opened."""
    kind = SocketOutlet if config.connection == "socket" else PtyOutlet
    keep = config.overflow == "keep"
    outlet = kind(doors.loop, opened, config.limit, keep=keep)
    return ConsoleBackend(doors, backend_path, frontend_path, outlet)
