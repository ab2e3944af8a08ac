# SPDX-License-Identifier: GPL-2.0-or-later
"""From a store to its ``State`` and back, but for what only its transports know: sockets.

A transaction cannot be carried over: what is restored is one that ends with EAGAIN, as if somebody
had changed what it relies on, so that its client does it once more. The number of requests that are
outstanding for events at other clients is not carried over, either.
"""

from __future__ import annotations

import sys

from msgspec.structs import replace

from pyxen.xenstore import paths
from pyxen.xenstore.connection import Connection
from pyxen.xenstore.daemon import Xenstored
from pyxen.xenstore.error import StoreError
from pyxen.xenstore.nodes import Node, Transaction
from pyxen.xenstore.quotas import HARD, SOFT, Quotas, limit
from pyxen.xenstore.stream import (
    ConnectionState,
    DomainState,
    NodeState,
    State,
    StreamError,
    WatchState,
)
from pyxen.xenstore.wire import ProtocolError, encode

_QUOTAS = HARD | {f"soft-{name}": entry for name, entry in SOFT.items()}


def dump(daemon: Xenstored) -> tuple[State, dict[Connection, ConnectionState]]:
    """The state of a store, and what in it is whose."""
    state = State(quotas=_quota_values(daemon.quotas))
    for record in daemon.domains.values():
        if record.unprivileged:
            own = {} if record.quotas is daemon.quotas else _quota_values(record.quotas)
            state.domains.append(DomainState(record.domid, record.features, own))
    by_connection = {}
    for number, connection in enumerate(daemon.connections, 1):
        entry = _dump_connection(connection, number)
        by_connection[connection] = entry
        state.connections.append(entry)
        state.transactions += [(number, each) for each in connection.transactions]
    watches = [watch for connection in by_connection for watch in connection.watches.values()]
    watches.sort(key=lambda watch: watch.number)
    for watch in watches:
        connection_number = by_connection[watch.connection].number
        named = watch.told(watch.path)
        state.watches.append(WatchState(connection_number, named, watch.token, watch.depth))
    state.nodes = [NodeState(name, b"", each) for name, each in daemon.special.items()]
    waiting = [paths.ROOT]
    while waiting:
        path = waiting.pop()
        node = daemon.database.tree[path]
        state.nodes.append(NodeState(path, node.value, daemon.valid_permissions(node)))
        waiting += [paths.child_of(path, name) for name in reversed(node.child_names)]
    return state, by_connection


def _quota_values(quotas: Quotas) -> dict[str, int]:
    return {name: getattr(quotas, fieldname) for name, (fieldname, _) in _QUOTAS.items()}


def _dump_connection(connection: Connection, number: int) -> ConnectionState:
    entry = ConnectionState(number)
    record = connection.domain
    if record is not None:
        entry.domid, entry.target, entry.port = record.domid, connection.target, record.port
    entry.unread = connection.unread
    unsent = [each.message.pack()[each.sent :] for each in connection.output]
    entry.unsent = b"".join(unsent)
    if connection.output and connection.output[0].sent:
        entry.partial = len(unsent[0])
    return entry


def restore(daemon: Xenstored, state: State) -> dict[int, Connection]:
    """Fill a new store; returns the connections by their numbers.

    Bytes that were not served are left to the transports. Raises StreamError for what cannot be.
    """
    _set_quotas(daemon.quotas, state.quotas)
    for domain in state.domains:
        quotas = daemon.quotas
        if domain.quotas:
            quotas = replace(daemon.quotas)
            _set_quotas(quotas, domain.quotas)
        if domain.domid in daemon.domains:
            raise StreamError(f"domain {domain.domid} is there twice")
        daemon.add_record(domain.domid, 0, quotas, domain.features)
    _restore_nodes(daemon, state.nodes)
    connections = {}
    for entry in state.connections:
        connections[entry.number] = _restore_connection(daemon, entry)
    for watch in state.watches:
        connection = _connection(connections, watch.connection)
        path = paths.resolve(watch.path, connection.directory)
        relative = path != watch.path
        if (path, watch.token) in connection.watches:
            raise StreamError(f"two watches of {path}")
        daemon.add_watch(connection, path, watch.token, relative, watch.depth)
    for number, transaction_number in state.transactions:
        connection = _connection(connections, number)
        connection.transactions[transaction_number] = Transaction(
            daemon.database,
            daemon.database.tree,
            connection.domain,
            limit(connection.quotas.transaction_nodes) if connection.unprivileged else None,
            overtaken=True,
        )
    return connections


def _set_quotas(quotas: Quotas, values: dict[str, int]) -> None:
    for name, value in values.items():
        if name in _QUOTAS:
            setattr(quotas, _QUOTAS[name][0], value)


def _connection(connections: dict[int, Connection], number: int) -> Connection:
    if number not in connections:
        raise StreamError(f"no connection {number}")
    return connections[number]


def _restore_nodes(daemon: Xenstored, nodes: list[NodeState]) -> None:
    children: dict[str, list[str]] = {}
    for node in nodes:
        if node.path in daemon.special:
            daemon.special[node.path] = node.permissions
            continue
        _check_path(node.path)
        if node.path != paths.ROOT:
            if paths.parent_of(node.path) not in children:
                raise StreamError(f"{node.path}: its parent is not there")
            children[paths.parent_of(node.path)].append(paths.name_of(node.path))
        if node.path in children:
            raise StreamError(f"{node.path} is there twice")
        children[node.path] = []
    daemon.clear()
    for node in nodes:
        if node.path in children:
            names = encode("".join(f"{name}\0" for name in children[node.path]))
            generation = daemon.database.next_generation()
            new = Node(node.value, node.permissions, names, generation)
            daemon.put(None, daemon.database, node.path, new)
    if paths.ROOT not in children:
        raise StreamError("there is no root")


def _check_path(path: str) -> None:
    try:
        paths.check(path, sys.maxsize)
    except StoreError:
        raise StreamError(f"{path!r} is no path") from None


def _restore_connection(daemon: Xenstored, entry: ConnectionState) -> Connection:
    if entry.domid is None:
        connection = daemon.connect()
    else:
        record = daemon.find_record(entry.domid) if entry.domid else None
        if record is None or record.introduced:
            raise StreamError(f"domain {entry.domid} cannot be introduced")
        connection = Connection(daemon, entry.domid, record, entry.target)
        record.port = entry.port
        daemon.add_domain_connection(record, connection)
    try:
        connection.send_again(entry.unsent, entry.partial)
    except ProtocolError as error:
        raise StreamError(f"connection {entry.number}: {error}") from None
    return connection
