# SPDX-License-Identifier: GPL-2.0-or-later
"""The xenstore of this process, and how domains are connected with it.

It lives as long as the run, over reboots, each of which makes a new domain with a new number. All
of it happens in the thread of the vCPUs: a guest's event makes the store serve the guest's ring,
and what watches cause is posted to the domain.
"""

from __future__ import annotations

from msgspec import Struct

from pyxen.abi.grant_table import GNTTAB_RESERVED_XENSTORE
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.events_back_end import BackEndPort
from pyxen.hypervisor.grant_access import GrantAccess, Mapping
from pyxen.toolstack.domain_store import DomainNodes, remove_domain, write_domain
from pyxen.xenstore import GuestRing, LocalClient, StoreError, Xenstored
from pyxen.xenstore.connection import Connection


class _Member(Struct):
    """A domain that is connected, and what of it the store holds."""

    domain: Domain
    grants: GrantAccess
    nodes: DomainNodes
    client: LocalClient
    port: BackEndPort | None = None
    page: Mapping | None = None
    ring: GuestRing | None = None


class EmbeddedStore:
    """See the module. ``client`` is the tool stack's own; its callbacks run at once."""

    def __init__(self) -> None:
        self._members: dict[int, _Member] = {}
        self.daemon = Xenstored(exists=self._exists, attach=self._attach)
        self.client = LocalClient(self.daemon)

    def _exists(self, domid: int) -> bool:
        return domid == 0 or domid in self._members

    def add(self, domain: Domain, grants: GrantAccess, nodes: DomainNodes) -> LocalClient:
        """Write a new domain's nodes, and listen to its ring. Returns a client for its back ends,
        whose callbacks are posted to the domain."""
        client = LocalClient(self.daemon, domain.post)
        self._members[domain.domid] = _Member(domain, grants, nodes, client)
        write_domain(self.client, nodes)
        self.daemon.introduce(domain.domid, nodes.store_mfn, nodes.store_port)
        return client

    def _attach(self, connection: Connection, gfn: int, port: int) -> None:
        """Give a domain's connection its ring: by the grant that the tools have made for it."""
        member = self._members.get(connection.domid)
        if member is None or member.ring is not None:
            raise StoreError("EINVAL")
        member.page = member.grants.map(GNTTAB_RESERVED_XENSTORE)
        member.port = member.domain.events.bind_back_end(port)
        member.ring = GuestRing(connection, member.page.page, member.port.send)
        member.port.listen(member.ring.serve)

    def shut_down(self, domid: int) -> None:
        """The domain runs no more; those who watch ``@releaseDomain`` hear of it."""
        self.daemon.domain_shut_down(domid)

    def remove(self, domid: int) -> None:
        """Let go of a domain that is about to be destroyed, and forget its nodes."""
        member = self._members.pop(domid, None)
        if member is None:
            return
        member.client.close()
        self.daemon.release(domid)
        if member.ring is not None and member.port is not None and member.page is not None:
            member.port.close()
            member.ring.close()
            member.grants.unmap(member.page)
        remove_domain(self.client, member.nodes)
