# SPDX-License-Identifier: GPL-2.0-or-later
"""From an extra console's configuration to its back end: makes the terminal or the socket."""

from __future__ import annotations

from pathlib import Path

from pyxen.backends.console.backend import ConsoleBackend
from pyxen.backends.console.outlet import Outlet, PtyOutlet, SocketOutlet
from pyxen.backends.doors import Doors
from pyxen.errors import PyxenError
from pyxen.toolstack.devices.channel import ChannelConfig


def make_console(
    doors: Doors, backend_path: str, frontend_path: str, config: ChannelConfig
) -> ConsoleBackend:
    """Raises PyxenError if the socket or the terminal cannot be made."""
    return ConsoleBackend(doors, backend_path, frontend_path, _outlet(doors, config))


def _outlet(doors: Doors, config: ChannelConfig) -> Outlet:
    keep = config.overflow == "keep"
    if config.connection == "socket":
        return SocketOutlet(doors.loop, Path(config.path), config.limit, keep=keep)
    try:
        return PtyOutlet(doors.loop, config.limit, keep=keep)
    except OSError as error:
        raise PyxenError(f"channel {config.name}: no terminal: {error.strerror}") from error
