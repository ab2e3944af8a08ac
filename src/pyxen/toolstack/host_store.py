# SPDX-License-Identifier: GPL-2.0-or-later
"""The xenstore of the host, which all domains of a user share, as a domain's process uses it.

The store is a process of its own (``pyxen xenstored``), started when the first domain needs it. A
domain's process has two connections: one of its own, with the rights of domain 0, for the tool
stack and the back ends; and one that is the guest's. When the process dies, however it does, the
store releases the domain and removes its nodes.
"""

from __future__ import annotations

import asyncio
import logging

from msgspec import Struct

from pyxen.abi.grant_table import GNTTAB_RESERVED_XENSTORE
from pyxen.errors import PyxenError
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.events_back_end import BackEndPort
from pyxen.hypervisor.grant_access import GrantAccess, Mapping
from pyxen.toolstack.broker.client import Broker
from pyxen.toolstack.domain_store import DomainNodes, places_of, remove_domain, write_domain
from pyxen.xenstore import (
    GuestConnection,
    GuestRing,
    SocketStore,
    StoreError,
    StoreGone,
)

log = logging.getLogger("pyxen")


class _Member(Struct):
    """The domain that is connected, and what holds it to the store."""

    domid: int
    nodes: DomainNodes
    grants: GrantAccess
    guest: GuestConnection
    port: BackEndPort
    page: Mapping
    ring: GuestRing


class HostStore:
    """See the module; it has the calls of ``EmbeddedStore``. One domain at a time.

    ``broker`` connects with the store, and starts it; ``loop`` is that of the I/O thread.
    """

    def __init__(self, broker: Broker, loop: asyncio.AbstractEventLoop) -> None:
        self._broker = broker
        self._loop = loop
        self._member: _Member | None = None
        self.client: SocketStore

    def add(self, domain: Domain, grants: GrantAccess, nodes: DomainNodes) -> SocketStore:
        """Write a new domain's nodes, and connect its ring. Returns the client for its back ends,
        whose callbacks are posted to the domain. Raises PyxenError."""
        connection = self._broker.connect_store(start=True)
        self.client = SocketStore(connection, domain.post, self._loop, lost=_complain)
        domid = nodes.domid
        try:
            guest = GuestConnection(
                self._broker.connect_store,
                domid,
                domain.post,
                self._loop,
                removes=places_of(domid, nodes.uuid),
            )
            write_domain(self.client, nodes)
            self.client.introduce(domid, nodes.store_mfn, nodes.store_port)
        except StoreError as error:
            raise PyxenError(f"xenstored: {error}") from None
        page = grants.map(GNTTAB_RESERVED_XENSTORE)
        port = domain.events.bind_back_end(nodes.store_port)
        ring = GuestRing(guest, page.page, port.send)
        port.listen(ring.serve)
        self._member = _Member(domid, nodes, grants, guest, port, page, ring)
        return self.client

    def shut_down(self, domid: int) -> None:
        """The domain runs no more; those who watch ``@releaseDomain`` hear of it."""
        try:
            self.client.control("guest-stopped", str(domid))
        except StoreGone as error:
            log.error("xenstored: %s", error)

    def remove(self, domid: int) -> None:
        """Let go of a domain that is about to be destroyed, and forget its nodes."""
        member, self._member = self._member, None
        if member is None:
            return
        try:
            remove_domain(self.client, member.nodes)
        except StoreGone as error:
            log.error("xenstored: %s", error)
        member.port.close()
        member.ring.close()
        member.guest.close()
        member.grants.unmap(member.page)
        self.client.close()


def _complain() -> None:
    log.error("xenstored has ended; devices cannot be changed any more")
