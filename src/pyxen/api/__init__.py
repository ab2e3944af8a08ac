# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests from Python: start them, talk to their consoles, change them while they run.

``Domain`` is a domain of this host. Made of a configuration, it is a context manager that creates
the domain and destroys it::

    with pyxen.Domain("vmlinuz", ramdisk="initrd", memory_mib=128) as domain:
        domain.console.expect("login: ")
        domain.console.send("root\\n")
        print(domain.run("uname -a").output)

``Domain.connect`` finds one that runs already, and leaves it running. Each domain is a process of
its own, as with ``pyxen create``, and the verbs of the command line see it too. ``AsyncDomain`` is
the same for asyncio. What goes wrong is raised as ``PyxenError``; whatever waits has a time-out.
"""

from __future__ import annotations

from pyxen.api.aio import AsyncConsole, AsyncDomain
from pyxen.api.console import CommandResult, Console, ConsoleEnded, ExpectTimeout
from pyxen.api.domain import Domain

__all__ = [
    "AsyncConsole",
    "AsyncDomain",
    "CommandResult",
    "Console",
    "ConsoleEnded",
    "Domain",
    "ExpectTimeout",
]
