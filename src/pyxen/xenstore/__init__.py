# SPDX-License-Identifier: GPL-2.0-or-later
"""xenstore: the small tree of values that the domains of a machine share.

Tools, back ends and guests meet here: a device is a pair of directories, one of each side, and what
one writes the other hears of by a *watch*. ``Xenstored`` is the server without a transport;
``SocketServer``, ``GuestRing`` and ``LocalClient`` give it unix sockets, guests' rings and clients
in this process. ``Client`` and ``AsyncClient`` use it from other processes; ``SocketStore`` and
``GuestConnection`` are for a process in which a domain lives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.later import loader
from pyxen.xenstore.client import Client
from pyxen.xenstore.error import StoreError, StoreGone
from pyxen.xenstore.guest_connection import GuestConnection
from pyxen.xenstore.quotas import Quotas
from pyxen.xenstore.ring import GuestRing
from pyxen.xenstore.socket_store import SocketStore
from pyxen.xenstore.start import ensure_xenstored

if TYPE_CHECKING:
    from pyxen.xenstore.async_client import AsyncClient
    from pyxen.xenstore.daemon import Xenstored
    from pyxen.xenstore.local import LocalClient
    from pyxen.xenstore.server import SocketServer

__all__ = [
    "AsyncClient",
    "Client",
    "GuestConnection",
    "GuestRing",
    "LocalClient",
    "Quotas",
    "SocketServer",
    "SocketStore",
    "StoreError",
    "StoreGone",
    "Xenstored",
    "ensure_xenstored",
]

# The server is loaded when it is used: processes of domains have none.
__getattr__ = loader(
    __name__,
    {
        "AsyncClient": "pyxen.xenstore.async_client",
        "LocalClient": "pyxen.xenstore.local",
        "SocketServer": "pyxen.xenstore.server",
        "Xenstored": "pyxen.xenstore.daemon",
    },
)
