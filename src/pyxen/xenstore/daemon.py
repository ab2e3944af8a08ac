# SPDX-License-Identifier: GPL-2.0-or-later
"""The store itself: what all its clients share, and what a change of it means for them.

``serve`` takes one request of one client, does it (``operations``), and puts the answer and all
events into the clients' output. There is no concurrency: a request is done before the next one,
and all happens in one thread. Behaviour, quotas and errors are those of Xen 4.17's C xenstored;
``xenstore.txt`` of the same version adds the depth of watches and the features of a domain.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyxen.xenstore import paths
from pyxen.xenstore.connection import Connection, Pending
from pyxen.xenstore.control import Log
from pyxen.xenstore.domains import DomainRecord
from pyxen.xenstore.error import StoreError
from pyxen.xenstore.features import FEATURES
from pyxen.xenstore.nodes import Database, Node, Transaction, View
from pyxen.xenstore.operations import OPERATIONS, Request, remove_tree
from pyxen.xenstore.permissions import (
    EVERYTHING,
    NONE,
    READ,
    Permission,
    Permissions,
    without_domain,
)
from pyxen.xenstore.quotas import Quotas, limit
from pyxen.xenstore.watches import Watch, WatchIndex
from pyxen.xenstore.wire import Message
from pyxen.xenstore.write_rate import WriteRate

if TYPE_CHECKING:
    from pyxen.xenstore.live_update import LiveUpdate

INTRODUCE: Final = "@introduceDomain"
RELEASE: Final = "@releaseDomain"

log = logging.getLogger(__name__)

_FIRST_NODES: Final = ("/", "/tool", "/tool/xenstored")
_DOMID_FIRST_RESERVED: Final = 0x7FF0
_SHORTEST_REST: Final = 0.001
_EVENT_TIMEOUT: Final = 20.0
"""Seconds that an event waits for a domain to take it, as its cause stays outstanding so long."""


def _any_domain(domid: int) -> bool:
    return 0 <= domid < _DOMID_FIRST_RESERVED


def _no_transport(connection: Connection, gfn: int, port: int) -> None:
    """Nobody speaks for the domain: it is introduced, and will say nothing."""


class Xenstored:
    """See the module.

    ``exists`` tells whether the machine has a domain, introduced or not; without it all numbers
    are taken for domains. ``attach(connection, gfn, port)`` is called when a domain is introduced,
    with the frame of its ring and its event channel; it gives the connection its transport, and
    raises StoreError if it cannot. ``clock``: seconds.

    ``later(seconds, work)`` is set by whoever serves several domains, and calls ``work`` after that
    time in the thread of the store. Without it nothing happens by itself.
    """

    def __init__(
        self,
        *,
        quotas: Quotas | None = None,
        exists: Callable[[int], bool] = _any_domain,
        attach: Callable[[Connection, int, int], None] = _no_transport,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.quotas = quotas or Quotas()
        self.exists = exists
        self.attach = attach
        self.later: Callable[[float, Callable[[], None]], object] | None = None
        self.log = Log()
        self.database = Database()
        self.connections: dict[Connection, None] = {}
        self.domains: dict[int, DomainRecord] = {}
        self.woken: dict[Connection, None] = {}
        """Those whose ``wake`` is to be called when the present request is done."""
        nobody: Permissions = (Permission(0, NONE),)
        self.special: dict[str, Permissions] = {INTRODUCE: nobody, RELEASE: nobody}
        self._watches = WatchIndex()
        self._watch_number = 0
        self._clock = clock
        self._dropping = False
        self.live_update: LiveUpdate | None = None
        """Set by a transport that can hand everything over to another program."""
        self._rate = WriteRate()
        self._rate.add(self.add_record(0, 0, self.quotas, FEATURES), self._milliseconds())
        for path in _FIRST_NODES:
            below = [each for each in _FIRST_NODES[1:] if paths.parent_of(each) == path]
            children = "".join(paths.name_of(each) + "\0" for each in below).encode()
            node = Node(b"", nobody, children, self.database.next_generation())
            self.put(None, self.database, path, node)

    def clear(self) -> None:
        """Remove all nodes, even the root, before others are put."""
        for path, node in list(self.database.tree.items()):
            self.remove(self.database, path, node)

    def now(self) -> float:
        """Seconds, by its clock."""
        return self._clock()

    # Clients

    def connect(self, wake: Callable[[], None] = lambda: None) -> Connection:
        """A client of domain 0, such as behind a socket."""
        connection = Connection(self, wake=wake)
        self.connections[connection] = None
        return connection

    def disconnect(self, connection: Connection) -> None:
        """The client has gone, or is not to be listened to any more."""
        connection.ignore()
        if self.live_update is not None:
            self.live_update.forget(connection)
        self.connections.pop(connection, None)
        self.woken.pop(connection, None)

    def serve(self, connection: Connection, message: Message) -> None:
        """Do one request. The answer comes behind the events that it causes."""
        domain = connection.domain
        if domain is not None:
            connection.request = Pending(domain)
            domain.outstanding += 1
        self.log.request(connection, message)
        try:
            self._serve(connection, message)
        except StoreError as error:
            connection.refuse(message, error.name)
        finally:
            connection.request = None
        self.wake_clients()

    def _serve(self, connection: Connection, message: Message) -> None:
        operation = OPERATIONS.get(message.type)
        if operation is None:
            raise StoreError("ENOSYS")
        if operation.privileged and connection.unprivileged:
            raise StoreError("EACCES")
        if connection.confined is not None:
            connection.confined.check(message)
        transaction = None
        if message.transaction and not operation.ignores_transaction:
            transaction = connection.transactions.get(message.transaction)
            if transaction is None:
                raise StoreError("ENOENT")
        request = Request(self, connection, message, transaction)
        answer = operation.work(request)
        if answer is None:
            return  # it comes later
        connection.answer(message, answer)
        if request.after is not None:
            request.after()

    def wake_clients(self) -> None:
        """Let the transports send what there is."""
        while self.woken:
            connection = next(iter(self.woken))
            del self.woken[connection]
            connection.wake()

    # Events that nobody takes

    def event_deadline(self) -> float:
        """Until when an event of now may wait."""
        if self.later is not None and not self._dropping:
            self._dropping = True
            self.later(_EVENT_TIMEOUT, self._drop_old_events)
        return self._clock() + _EVENT_TIMEOUT

    def _drop_old_events(self) -> None:
        seconds = self.drop_old_events()
        self._dropping = seconds is not None
        if seconds is not None and self.later is not None:
            self.later(seconds, self._drop_old_events)

    def drop_old_events(self) -> float | None:
        """Drop events that domains do not take; returns in how many seconds to call again.

        None: when there are events again. Without it a domain that reads nothing would hold those
        back whose requests it should hear of.
        """
        now = self._clock()
        deadlines = [
            connection.drop_events(now)
            for connection in self.connections
            if connection.domain is not None
        ]
        self.wake_clients()
        first = min((each for each in deadlines if each is not None), default=None)
        return None if first is None else max(0.0, first - now)

    # Rights

    def access(self, connection: Connection, node: Node) -> int:
        """What a client may do with a node: READ, WRITE, OWNER."""
        return self.access_by(connection, node.permissions, node.generation)

    def access_by(
        self, connection: Connection, permissions: Permissions, generation: int | None
    ) -> int:
        """The same by the permissions alone; without a generation all of them count."""
        if not connection.unprivileged:
            return EVERYTHING
        owner = permissions[0]
        names = (connection.domid, connection.target)
        if owner.domid in names:
            return EVERYTHING
        for each in permissions[1:]:
            if each.domid in names and self._is_meant(each, generation):
                return each.access
        return owner.access

    def _is_meant(self, permission: Permission, generation: int | None) -> bool:
        """Whether a permission is for the domain that has its number now, not an earlier one."""
        if permission.ignored:
            return False
        if generation is None:
            return True
        record = self.domains.get(permission.domid)
        return record is not None and record.generation <= generation

    def valid_permissions(self, node: Node) -> Permissions:
        """Those of a node for another version of it, or for a child: what was for domains of the
        past is marked, as the new generation would not tell any more."""
        owner, *others = node.permissions
        if not others:
            return node.permissions
        return (
            owner,
            *(
                each
                if self._is_meant(each, node.generation)
                else Permission(each.domid, each.access, ignored=True)
                for each in others
            ),
        )

    # Changes

    def put(self, connection: Connection | None, view: View, path: str, node: Node) -> None:
        """Store a version of a node and account for it.

        For an unprivileged client, raises ENOSPC for a node that is too large, EIO above the quota
        of memory; its transaction has failed then. Without a client nothing is checked.
        """
        checked = connection if connection is not None and connection.unprivileged else None
        if isinstance(view, Transaction):
            try:
                if checked is not None:
                    _check_size(checked, node, view.record, node.size)
            except StoreError:
                view.failed = True
                raise
            view.put(path, node)
            return
        self.charge_write(checked)
        old = view.get(path)
        record = self.find_record(node.owner)
        if checked is not None:
            replaced = old.size if old is not None and old.owner == node.owner else 0
            _check_size(checked, node, record, node.size - replaced)
        if old is not None:
            self._disown(old, path)
        if record is not None:
            record.nodes.add(path)
            record.charge(node.size + len(path))
        view.put(path, node)

    def remove(self, view: View, path: str, node: Node) -> None:
        """Remove one node, which has no children any more, but not from its parent's list."""
        if view is self.database:
            self._disown(node, path)
        view.remove(path)

    def _disown(self, node: Node, path: str) -> None:
        record = self.find_record(node.owner)
        if record is not None:
            record.nodes.discard(path)
            record.charge(-node.size - len(path))

    def find_record(self, domid: int) -> DomainRecord | None:
        """What is known of a domain; None if there is none of this number."""
        record = self.domains.get(domid)
        if record is None and self.exists(domid):
            return self.add_record(domid, self.database.generation, self.quotas, FEATURES)
        return record

    def add_record(
        self, domid: int, generation: int, quotas: Quotas, features: int
    ) -> DomainRecord:
        """A domain becomes known."""
        record = DomainRecord(domid, generation, quotas, features)
        self.domains[domid] = record
        return record

    # How often domains write

    def _milliseconds(self) -> int:
        return int(self._clock() * 1000)

    def charge_write(self, connection: Connection | None) -> None:
        """A client changes the store itself. If there are transactions, and the client is a domain,
        it pays for it."""
        record = connection.domain if connection is not None else None
        if record is None or not record.unprivileged:
            return
        if self.later is None or not self.database.transactions:
            return
        self._rate.charge(record, self._milliseconds())
        if record.credit < 0 and not record.reported_rate:
            record.reported_rate = True
            log.warning("xenstore: domain %d writes more often than it may", record.domid)
        self._rest(record)

    def _rest(self, record: DomainRecord) -> None:
        """See to it that the domain is listened to when it has credit again."""
        if record.credit < 0 and not record.resting and self.later is not None:
            record.resting = True
            seconds = self._rate.waiting_time(record) / 1000
            self.later(max(seconds, _SHORTEST_REST), lambda: self._end_rest(record))

    def _end_rest(self, record: DomainRecord) -> None:
        record.resting = False
        self._rate.update(record, self._milliseconds())
        self._rest(record)
        if record.credit >= 0:
            record.wake()
            self.wake_clients()

    # Watches

    def add_watch(
        self, connection: Connection, path: str, token: str, relative: bool, depth: int | None
    ) -> Watch:
        """For a path and a token that the client has no watch of yet."""
        self._watch_number += 1
        watch = Watch(connection, path, token, relative, depth, self._watch_number)
        connection.watches[path, token] = watch
        self._watches.add(watch)
        if connection.domain is not None:
            connection.domain.watches += 1
            connection.domain.charge(watch.size)
        return watch

    def remove_watch(self, watch: Watch) -> None:
        connection = watch.connection
        del connection.watches[watch.path, watch.token]
        self._watches.remove(watch)
        if connection.domain is not None:
            connection.domain.watches -= 1
            connection.domain.charge(-watch.size)

    def remove_watches(self, connection: Connection) -> None:
        """All of a client's."""
        for watch in list(connection.watches.values()):
            self.remove_watch(watch)

    def fire(
        self,
        cause: Connection,
        view: View,
        path: str,
        node: Node | None,
        *,
        exact: bool = False,
        before: Permissions | None = None,
    ) -> None:
        """A node has changed: tell those who watch it, at the end if it is in a transaction.

        ``exact``: only watches of this very path. ``node``: as it is, or was before it was removed;
        ``before``: its permissions before they changed.
        """
        if isinstance(view, Transaction):
            view.queue_event(path, exact)
            return
        self._tell(path, node, exact, before, cause.request if cause.unprivileged else None)

    def _tell(
        self,
        path: str,
        node: Node | None,
        exact: bool,
        before: Permissions | None,
        cause: Pending | None,
    ) -> None:
        may_hear: dict[Connection, bool] = {}
        for watch in self._watches.exact(path) if exact else self._watches.concerned(path):
            connection = watch.connection
            if connection not in may_hear:
                may_hear[connection] = self._may_hear(connection, path, node, before)
            if may_hear[connection]:
                connection.send_event(watch.told(path), watch.token, cause)

    def _may_hear(
        self, connection: Connection, path: str, node: Node | None, before: Permissions | None
    ) -> bool:
        if before is not None and self.access_by(connection, before, None) & READ:
            return True
        node = node or self.database.get(path)
        if node is None:
            return False
        if self.access(connection, node) & READ:
            return True
        parent = self.database.get(paths.parent_of(path))
        return parent is not None and bool(self.access(connection, parent) & READ)

    def _tell_special(self, name: str, domid: int) -> None:
        """A domain has come or gone. Those who watch with a depth hear which."""
        which = paths.child_of(name, str(domid))
        permissions = self.special[name]
        watches = [(watch, name) for watch in self._watches.exact(name) if watch.depth is None]
        watches += [(watch, which) for watch in self._watches.exact(name) if watch.depth]
        watches += [(watch, which) for watch in self._watches.exact(which)]
        for watch, told in watches:
            if self.access_by(watch.connection, permissions, None) & READ:
                watch.connection.send_event(told, watch.token, None)

    # Domains

    def introduce(self, domid: int, gfn: int, port: int) -> None:
        """Begin to listen to a domain's ring, or do so anew.

        Raises StoreError: ENOENT if there is no such domain, and what ``attach`` raises.
        """
        record = self.find_record(domid)
        if record is None:
            raise StoreError("ENOENT")
        connection = record.connection or Connection(self, domid, record)
        connection.reset()
        self.attach(connection, gfn, port)
        record.port = port
        if record.connection is None:
            record.shut_down = False
            self.add_domain_connection(record, connection)
            self._tell_special(INTRODUCE, domid)
        self.wake_clients()

    def add_domain_connection(self, record: DomainRecord, connection: Connection) -> None:
        """A domain that had none has a connection now."""
        record.connection = connection
        self.connections[connection] = None
        self._rate.add(record, self._milliseconds())

    def release(self, domid: int) -> None:
        """A domain has gone: forget it, and remove the nodes that it owns.

        Called for each domain that ends, introduced or not; for one that is not known it does
        nothing.
        """
        record = self.domains.get(domid)
        if record is None:
            return
        introduced = record.connection is not None
        if record.connection is not None:
            self.disconnect(record.connection)
            record.connection = None
            self._rate.remove(record)
        if paths.ROOT in record.nodes:
            self._take_root_back(domid)
        internal = Connection(self)
        for path in sorted(record.nodes):
            if path in record.nodes:
                remove_tree(self, internal, path, self.database)
        del self.domains[domid]
        self.database.next_generation()  # a later domain of this number is younger than all nodes
        for each in self.connections:
            if each.target == domid:
                each.target = None
        for name, permissions in self.special.items():
            self.special[name] = without_domain(permissions, domid)
        if introduced:
            self._tell_special(RELEASE, domid)
        self.wake_clients()

    def _take_root_back(self, domid: int) -> None:
        """The root stays when its owner goes; it is domain 0's again."""
        root = self.database.tree[paths.ROOT]
        permissions = without_domain(self.valid_permissions(root), domid)
        generation = self.database.next_generation()
        node = Node(root.value, permissions, root.children, generation)
        self.put(None, self.database, paths.ROOT, node)

    def domain_shut_down(self, domid: int) -> None:
        """A domain has stopped but is still there: ``@releaseDomain`` tells so, once."""
        record = self.domains.get(domid)
        if record is not None and record.introduced and not record.shut_down:
            record.shut_down = True
            self._tell_special(RELEASE, domid)
            self.wake_clients()


def _check_size(
    connection: Connection, node: Node, record: DomainRecord | None, growth: int
) -> None:
    if node.size >= limit(connection.quotas.node_size):
        raise StoreError("ENOSPC")
    if record is not None and not record.has_room(growth):
        raise StoreError("EIO")
