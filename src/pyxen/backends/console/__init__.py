# SPDX-License-Identifier: GPL-2.0-or-later
"""Consoles: the rings, what becomes of their output, and the back ends."""

from pyxen.backends.console.buffer import OutputBuffer, Scrollback
from pyxen.backends.console.log_file import LogFile
from pyxen.backends.console.ring import ConsoleRing

__all__ = ["ConsoleRing", "LogFile", "OutputBuffer", "Scrollback"]
