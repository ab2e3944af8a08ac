# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of a store as a stream of records, for another server that goes on with it.

The format is that of ``xenstore-migration.md``: a header of 16 bytes, then records of a type, a
length and a body, each filled up to a multiple of 8 bytes, until the one that says END. We write
version 2, which has the depth of watches and the features of domains, and read 1 and 2. Nothing
here knows a store: ``State`` is what is in a stream.
"""

from __future__ import annotations

import struct
from typing import Final

from msgspec import Struct, field

from pyxen.xenstore.permissions import Permission, Permissions, access_of
from pyxen.xenstore.wire import decode, encode

DOMID_INVALID: Final = 0x7FF4

_HEADER: Final = struct.Struct(">8sII")
_IDENT: Final = b"xenstore"
_VERSION: Final = 2
_BIG_ENDIAN: Final = 1

_END: Final = 0
_GLOBAL: Final = 1
_CONNECTION: Final = 2
_WATCH: Final = 3
_TRANSACTION: Final = 4
_NODE: Final = 5
_QUOTAS: Final = 6
_DOMAIN: Final = 7
_WATCH_EXTENDED: Final = 8

_RING: Final = 0
_SOCKET: Final = 1
_UNLIMITED: Final = 0xFFFF
_IGNORED: Final = 1


class StreamError(Exception):
    """What is wrong with a stream."""


class ConnectionState(Struct):
    """``domid``, ``target`` and ``port`` are of a domain; without it there is a socket, ``fd``.

    ``unread``: bytes that have come and are not served. ``unsent``: bytes to be sent, of which the
    first ``partial`` are the rest of a message.
    """

    number: int
    domid: int | None = None
    target: int | None = None
    port: int = 0
    fd: int = -1
    unread: bytes = b""
    unsent: bytes = b""
    partial: int = 0


class WatchState(Struct):
    """``connection`` is the number of one. ``path``: as its client has named it."""

    connection: int
    path: str
    token: str
    depth: int | None = None


class DomainState(Struct):
    """``quotas`` by their names, if the domain has quotas of its own."""

    domid: int
    features: int
    quotas: dict[str, int] = field(default_factory=dict)


class NodeState(Struct):
    """``path`` may be the name of a special watch, which has permissions, too."""

    path: str
    value: bytes
    permissions: Permissions


class State(Struct):
    """``listener`` is the file descriptor of the socket, -1 for none. ``transactions``: numbers of
    connections and of their transactions. Each node stands behind its parent, and behind those of
    its parent's children that were there before it."""

    listener: int = -1
    quotas: dict[str, int] = field(default_factory=dict)
    domains: list[DomainState] = field(default_factory=list)
    connections: list[ConnectionState] = field(default_factory=list)
    watches: list[WatchState] = field(default_factory=list)
    transactions: list[tuple[int, int]] = field(default_factory=list)
    nodes: list[NodeState] = field(default_factory=list)


# Writing


def pack(state: State) -> bytes:
    """The stream, in little-endian order."""
    parts = [_HEADER.pack(_IDENT, _VERSION, 0)]

    def add(kind: int, body: bytes) -> None:
        parts.append(struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8))

    add(_GLOBAL, struct.pack("<ii", state.listener, -1))
    if state.quotas:
        values, names = _pack_quotas(state.quotas)
        add(_QUOTAS, struct.pack("<HH", len(state.quotas), 0) + values + names)
    for domain in state.domains:
        values, names = _pack_quotas(domain.quotas)
        head = struct.pack("<HHI", domain.domid, len(domain.quotas), domain.features)
        add(_DOMAIN, head + values + names)
    for connection in state.connections:
        add(_CONNECTION, _pack_connection(connection))
    for watch in state.watches:
        add(_WATCH_EXTENDED, _pack_watch(watch))
    for connection_number, number in state.transactions:
        add(_TRANSACTION, struct.pack("<II", connection_number, number))
    for node in state.nodes:
        add(_NODE, _pack_node(node))
    add(_END, b"")
    return b"".join(parts)


def _pack_quotas(quotas: dict[str, int]) -> tuple[bytes, bytes]:
    names = "".join(f"{name}\0" for name in quotas)
    return struct.pack(f"<{len(quotas)}I", *quotas.values()), encode(names)


def _pack_connection(connection: ConnectionState) -> bytes:
    if connection.domid is not None:
        target = DOMID_INVALID if connection.target is None else connection.target
        kind, spec = _RING, struct.pack("<HHI", connection.domid, target, connection.port)
    else:
        kind, spec = _SOCKET, struct.pack("<ii", connection.fd, 0)
    lengths = struct.pack(
        "<HHI", len(connection.unread), connection.partial, len(connection.unsent)
    )
    head = struct.pack("<IHH", connection.number, kind, 0)
    return head + spec + lengths + connection.unread + connection.unsent


def _pack_watch(watch: WatchState) -> bytes:
    path, token = encode(watch.path) + b"\0", encode(watch.token) + b"\0"
    depth = _UNLIMITED if watch.depth is None else min(watch.depth, _UNLIMITED)
    head = struct.pack("<IHHHH", watch.connection, len(path), len(token), depth, 0)
    return head + path + token


def _pack_node(node: NodeState) -> bytes:
    path = encode(node.path) + b"\0"
    count = len(node.permissions)
    head = struct.pack("<IIHHHH", 0, 0, len(path), len(node.value), 0, count)
    permissions = b"".join(
        struct.pack("<BBH", ord(each.letter), _IGNORED if each.ignored else 0, each.domid & 0xFFFF)
        for each in node.permissions
    )
    return head + permissions + path + node.value


# Reading


class _Body:
    """The body of a record while it is read."""

    def __init__(self, data: bytes, order: str) -> None:
        self._data = data
        self._order = order
        self._place = 0

    def numbers(self, form: str) -> tuple[int, ...]:
        form = self._order + form
        return struct.unpack(form, self.bytes(struct.calcsize(form)))

    def bytes(self, size: int) -> bytes:
        piece = self._data[self._place : self._place + size]
        if len(piece) < size:
            raise StreamError("a record is too short")
        self._place += size
        return piece

    def text(self, size: int) -> str:
        """A string with the zero byte at its end."""
        data = self.bytes(size)
        if not data.endswith(b"\0") or data.count(b"\0") != 1:
            raise StreamError("a string does not end where it should")
        return decode(data[:-1])

    def names(self, count: int) -> list[str]:
        """So many strings, which are all that is left but for padding."""
        names = self._data[self._place :].split(b"\0")
        if len(names) <= count:
            raise StreamError("names of quotas are missing")
        return [decode(name) for name in names[:count]]


def unpack(data: bytes) -> tuple[State, bytes]:
    """The state of a stream, and what stands behind its end. Raises StreamError."""
    if len(data) < _HEADER.size:
        raise StreamError("it is too short")
    ident, version, flags = _HEADER.unpack_from(data)
    if ident != _IDENT or not 1 <= version <= _VERSION or flags > _BIG_ENDIAN:
        raise StreamError("it is no stream that we know")
    order = ">" if flags else "<"
    state = State()
    place = _HEADER.size
    while True:
        if len(data) < place + 8:
            raise StreamError("it does not end")
        kind, size = struct.unpack_from(f"{order}II", data, place)
        place += 8
        if len(data) < place + size:
            raise StreamError("a record is too short")
        body = _Body(data[place : place + size], order)
        place += size + -size % 8
        if kind == _END:
            return state, data[place:]
        reader = _READERS.get(kind)
        if reader is not None:  # others are of later versions, or of no use to us
            reader(state, body)


def _read_global(state: State, body: _Body) -> None:
    (state.listener,) = body.numbers("i")


def _read_quotas(body: _Body, count: int) -> dict[str, int]:
    values = body.numbers(f"{count}I")
    return dict(zip(body.names(count), values, strict=True))


def _read_global_quotas(state: State, body: _Body) -> None:
    of_domains, of_all = body.numbers("HH")
    state.quotas = _read_quotas(body, of_domains + of_all)


def _read_domain(state: State, body: _Body) -> None:
    domid, count, features = body.numbers("HHI")
    state.domains.append(DomainState(domid, features, _read_quotas(body, count)))


def _read_connection(state: State, body: _Body) -> None:
    number, kind, _ = body.numbers("IHH")
    connection = ConnectionState(number)
    if kind == _RING:
        connection.domid, target, connection.port = body.numbers("HHI")
        connection.target = None if target == DOMID_INVALID else target
    elif kind == _SOCKET:
        connection.fd, _ = body.numbers("ii")
    else:
        raise StreamError(f"a connection of kind {kind}")
    unread, connection.partial, unsent = body.numbers("HHI")
    connection.unread = body.bytes(unread)
    connection.unsent = body.bytes(unsent)
    if connection.partial > unsent:
        raise StreamError("a part of a message that is longer than all")
    state.connections.append(connection)


def _read_watch(state: State, body: _Body) -> None:
    number, path, token = body.numbers("IHH")
    state.watches.append(WatchState(number, body.text(path), body.text(token)))


def _read_watch_extended(state: State, body: _Body) -> None:
    number, path, token, depth, _ = body.numbers("IHHHH")
    limit = None if depth == _UNLIMITED else depth
    state.watches.append(WatchState(number, body.text(path), body.text(token), limit))


def _read_transaction(state: State, body: _Body) -> None:
    connection, number = body.numbers("II")
    state.transactions.append((connection, number))


def _read_node(state: State, body: _Body) -> None:
    connection, _, path_size, value_size, _, count = body.numbers("IIHHHH")
    if connection:
        return  # of a transaction, none of which can still succeed
    permissions = []
    for _ in range(count):
        letter, flags, domid = body.numbers("BBH")
        access = access_of(chr(letter))
        if access is None:
            raise StreamError("a permission that we do not know")
        permissions.append(Permission(domid, access, ignored=bool(flags & _IGNORED)))
    if not permissions:
        raise StreamError("a node without an owner")
    path = body.text(path_size)
    state.nodes.append(NodeState(path, body.bytes(value_size), tuple(permissions)))


_READERS: Final = {
    _GLOBAL: _read_global,
    _CONNECTION: _read_connection,
    _WATCH: _read_watch,
    _TRANSACTION: _read_transaction,
    _NODE: _read_node,
    _QUOTAS: _read_global_quotas,
    _DOMAIN: _read_domain,
    _WATCH_EXTENDED: _read_watch_extended,
}
