# SPDX-License-Identifier: GPL-2.0-or-later
"""Consoles: the rings, what becomes of their output, and the back ends."""

from pyxen.backends.console.backend import ConsoleBackend
from pyxen.backends.console.buffer import OutputBuffer, Scrollback
from pyxen.backends.console.log_file import LogFile
from pyxen.backends.console.outlet import Outlet, PtyOutlet, SocketOutlet
from pyxen.backends.console.ring import ConsoleRing

__all__ = [
    "ConsoleBackend",
    "ConsoleRing",
    "LogFile",
    "Outlet",
    "OutputBuffer",
    "PtyOutlet",
    "Scrollback",
    "SocketOutlet",
]
