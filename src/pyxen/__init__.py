# SPDX-License-Identifier: GPL-2.0-or-later
"""pyxen runs unmodified Xen guests on any x86-64 Linux machine, without the Xen hypervisor.

General layout, from the bottom to the top (each may import what stands above it in this list):

- ``abi``: Xen's public interface as data; no behaviour.
- ``engine``: what executes guest instructions; knows no Xen.
- ``hypervisor``: Xen itself: domains, memory, traps, hypercalls, events, grants, time.
- ``builder``: from a kernel file to a domain that is ready to run.
- ``backends``: the dom0 side of paravirtual devices.
- ``toolstack``: what xl does: life cycle, images.
- ``api``: guests for Python programs: ``Domain`` and its kin, which can be had from here.
- ``cli``: one file per verb; prints and parses, decides nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.later import loader

if TYPE_CHECKING:
    from pyxen.api import (
        AsyncConsole,
        AsyncDomain,
        CommandResult,
        Console,
        ConsoleEnded,
        Domain,
        ExpectTimeout,
    )
    from pyxen.errors import PyxenError

__version__ = "0.1.0"

__all__ = [
    "AsyncConsole",
    "AsyncDomain",
    "CommandResult",
    "Console",
    "ConsoleEnded",
    "Domain",
    "ExpectTimeout",
    "PyxenError",
]


# A command needs little of the API.
__getattr__ = loader(
    __name__, {**dict.fromkeys(__all__, "pyxen.api"), "PyxenError": "pyxen.errors"}
)
