# SPDX-License-Identifier: GPL-2.0-or-later
"""What a back end is given: the doors that a process in dom0 has, and never the domain itself.

Ring work, grant maps, events and the store are the business of the thread of the vCPUs alone: what
``bind`` and ``watch`` call, and what was posted, runs there. Waiting for the outside, for a disk or
a socket, happens elsewhere (``executor``, ``loop``), and its end is handed in with ``post``. Nobody
else computes: the thread of the vCPUs needs the interpreter at each trap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from msgspec import Struct

from pyxen.xenstore.error import StoreError

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import ThreadPoolExecutor

    from pyxen.hypervisor.events_back_end import BackEndPort
    from pyxen.hypervisor.grant_access import GrantAccess

__all__ = ["Doors", "StoreClient", "StoreError"]


class StoreClient(Protocol):
    """A client of the xenstore with the rights of domain 0. Every method may raise StoreError."""

    def read(self, path: str) -> bytes:
        """The value of a node. Raises ENOENT."""

    def write(self, path: str, value: str | bytes) -> None:
        """Set a value; makes the node, and those above it, if need be."""

    def write_many(self, values: Mapping[str, str | bytes]) -> None:
        """Set several values by path, in one transaction."""

    def remove(self, path: str) -> None:
        """Remove a node with all below it; nothing happens if there is none."""

    def directory(self, path: str) -> list[str]:
        """The names of a node's children. Raises ENOENT."""

    def watch(self, path: str, callback: Callable[[str], None]) -> Any:
        """Call this with the path of each change at or below ``path``, and once at first.

        It is never called while a method of this client runs, but soon after. Returns a handle.
        """

    def unwatch(self, handle: Any) -> None:
        """The callback is not called any more."""


class Doors(Struct, frozen=True):
    """See the module.

    ``bind(guest_port, notify)`` connects to a port that the front end has told, and calls
    ``notify`` at its events, and once soon after; never before ``bind`` has returned. Raises
    XenError if the port does not wait for domain 0. ``post`` may be called from any thread.
    ``call_later(seconds, work)`` has work done in the thread of the vCPUs after a time, which may
    be much less than a millisecond; called there, too.
    """

    domid: int
    grants: GrantAccess
    bind: Callable[[int, Callable[[], None]], BackEndPort]
    store: StoreClient
    post: Callable[[Callable[[], None]], None]
    call_later: Callable[[float, Callable[[], None]], None]
    executor: ThreadPoolExecutor
    loop: asyncio.AbstractEventLoop
