# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client can ask for: one function for each type of request.

Each returns the payload of the answer, None if it is given later, or raises StoreError. A node that
a client may not see is not there for it: whether the error is ENOENT or EACCES depends on what it
may do with the nearest parent that exists, so that errors tell nothing of hidden nodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from msgspec.structs import replace

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import control, paths, permissions
from pyxen.xenstore.error import StoreError
from pyxen.xenstore.features import FEATURE_WATCH_DEPTH, FEATURES
from pyxen.xenstore.nodes import Node, Transaction, View
from pyxen.xenstore.permissions import OWNER, READ, WRITE, Permission, Permissions
from pyxen.xenstore.quotas import HARD, SOFT, Quotas, limit
from pyxen.xenstore.wire import decode, encode

if TYPE_CHECKING:
    from pyxen.xenstore.connection import Connection
    from pyxen.xenstore.daemon import Xenstored
    from pyxen.xenstore.domains import DomainRecord
    from pyxen.xenstore.wire import Message

OK: Final = b"OK\0"
_DOMID_SELF: Final = 0x7FF0
_LARGEST: Final = 0xFFFFFFFF

# Of xenstore.txt; the public header does not name them.
XS_GET_FEATURE: Final = 23
XS_SET_FEATURE: Final = 24
XS_GET_QUOTA: Final = 25
XS_SET_QUOTA: Final = 26


class Request:
    """One request while it is served. ``view`` is the store, or a transaction's view of it;
    ``after`` is called when the answer has been queued."""

    def __init__(
        self,
        daemon: Xenstored,
        connection: Connection,
        message: Message,
        transaction: Transaction | None,
    ) -> None:
        self.daemon = daemon
        self.connection = connection
        self.message = message
        self.transaction = transaction
        self.view: View = daemon.database if transaction is None else transaction
        self.after: Callable[[], None] | None = None

    def resolve(self, path: str) -> str:
        """The absolute path that the client means."""
        return paths.resolve(path, self.connection.directory)

    def find(self, path: str, needed: int) -> Node:
        """A node with which the client may do what is needed. ``path`` is absolute.

        Raises EINVAL, ENOENT, EACCES.
        """
        paths.check(path, limit(self.connection.quotas.path_max))
        node = self.view.get(path)
        if node is None:
            error = "ENOENT"
        elif self.daemon.access(self.connection, node) & needed != needed:
            error = "EACCES"
        else:
            return node
        raise StoreError(error if self._may_know(path, needed) else "EACCES")

    def _may_know(self, path: str, needed: int) -> bool:
        """By the nearest parent that exists."""
        while True:
            path = paths.parent_of(path)
            node = self.view.get(path)
            if node is not None:
                return bool(self.daemon.access(self.connection, node) & needed)

    def change(
        self, node: Node, *, value: bytes | None = None, children: bytes | None = None
    ) -> Node:
        """The next version of a node."""
        return Node(
            node.value if value is None else value,
            self.daemon.valid_permissions(node),
            node.children if children is None else children,
            self.daemon.database.next_generation(),
        )

    def put(self, path: str, node: Node) -> None:
        self.daemon.put(self.connection, self.view, path, node)

    def fire(self, path: str, node: Node, before: Permissions | None = None) -> None:
        self.daemon.fire(self.connection, self.view, path, node, before=before)


# Reading


def _directory(request: Request) -> bytes:
    return request.find(request.resolve(request.message.one_string()), READ).children


def _directory_part(request: Request) -> bytes:
    """The list of children from a byte on; an empty string behind it tells that it is the end."""
    strings = request.message.strings()
    if len(strings) != 2:
        raise StoreError("EINVAL")
    node = request.find(request.resolve(decode(strings[0])), READ)
    children = node.children
    start = _integer(strings[1]) & _LARGEST
    head = b"%d\0" % node.generation
    if start >= len(children):
        return head + b"\0"
    part = children[start : start + abi.XENSTORE_PAYLOAD_MAX - len(head) - 1]
    if start + len(part) == len(children):
        return head + part + b"\0"
    return head + part[: part.rfind(b"\0") + 1]


def _read(request: Request) -> bytes:
    return request.find(request.resolve(request.message.one_string()), READ).value


def _get_perms(request: Request) -> bytes:
    node = request.find(request.resolve(request.message.one_string()), READ)
    return b"".join(encode(str(each)) + b"\0" for each in node.permissions)


# Writing


def _write(request: Request) -> bytes:
    """Create the node, and its parents, if it is not there."""
    name, end, value = request.message.payload.partition(b"\0")
    if not end:
        raise StoreError("EINVAL")
    path = request.resolve(decode(name))
    node = _find_to_write(request, path)
    if node is None:
        node = _create(request, path, value)
    else:
        node = request.change(node, value=value)
        request.put(path, node)
    request.fire(path, node)
    return OK


def _mkdir(request: Request) -> bytes:
    path = request.resolve(request.message.one_string())
    if _find_to_write(request, path) is None:
        request.fire(path, _create(request, path, b""))
    return OK


def _find_to_write(request: Request, path: str) -> Node | None:
    """None for a node that is not there and may be created."""
    try:
        return request.find(path, WRITE)
    except StoreError as error:
        if error.name != "ENOENT":
            raise
        return None


def _create(request: Request, path: str, value: bytes) -> Node:
    """A new node with the parents that it lacks; all of them or none.

    They get their parent's permissions; what an unprivileged domain creates is its own. Raises
    ENOSPC above its quota of nodes, and what ``Xenstored.put`` does.
    """
    daemon, connection = request.daemon, request.connection
    missing = []
    above = path
    while (parent := request.view.get(above)) is None:
        missing.append(above)
        above = paths.parent_of(above)
    inherited = daemon.valid_permissions(parent)
    if connection.unprivileged:
        inherited = (Permission(connection.domid, inherited[0].access), *inherited[1:])
        _check_number_of_nodes(request, len(missing))
    new: list[tuple[str, Node]] = []
    below = b""
    for each in missing:
        generation = daemon.database.next_generation()
        new.append((each, Node(b"" if new else value, inherited, below, generation)))
        below = encode(paths.name_of(each)) + b"\0"
    new.append((above, request.change(parent, children=parent.children + below)))
    _put_all(request, new)
    return new[0][1]


def _check_number_of_nodes(request: Request, new: int) -> None:
    """A transaction's are counted at its end."""
    record = request.connection.domain
    allowed = limit(request.connection.quotas.nodes)
    if record is not None and len(record.nodes) + (1 if request.transaction else new) > allowed:
        raise StoreError("ENOSPC")


def _put_all(request: Request, new: list[tuple[str, Node]]) -> None:
    """Store all or none. In a transaction a failure is the transaction's."""
    done: list[tuple[str, Node | None, Node]] = []
    for path, node in new:
        old = request.view.get(path)
        try:
            request.put(path, node)
        except StoreError:
            for each, before, written in reversed(done):
                if before is None:
                    request.daemon.remove(request.view, each, written)
                else:
                    request.daemon.put(None, request.view, each, before)
            raise
        done.append((path, old, node))


def _rm(request: Request) -> bytes:
    """Remove a node with all below it. One that is not there is fine if its parent is."""
    path = request.resolve(request.message.one_string())
    if _find_to_write(request, path) is None:
        if request.view.get(paths.parent_of(path)) is None:
            raise StoreError("ENOENT")
        return OK
    if path == paths.ROOT:
        raise StoreError("EINVAL")
    remove_tree(request.daemon, request.connection, path, request.view)
    return OK


def remove_tree(daemon: Xenstored, connection: Connection, path: str, view: View) -> None:
    """Remove a node and all below it, from the leaves up.

    Watches of the node and of those above it hear of the node alone; those of a node below it hear
    of that node.
    """
    for each in _leaves_first(path, view):
        node = view.get(each)
        if node is not None:
            daemon.remove(view, each, node)
            if view is daemon.database:
                daemon.charge_write(connection)
            daemon.fire(connection, view, each, node, exact=each != path)
    above = paths.parent_of(path)
    parent = view.get(above)
    if parent is not None:
        name = encode(paths.name_of(path))
        children = (b"\0" + parent.children).replace(b"\0" + name + b"\0", b"\0", 1)[1:]
        generation = daemon.database.next_generation()
        changed = Node(parent.value, daemon.valid_permissions(parent), children, generation)
        if view is daemon.database:
            daemon.charge_write(connection)
        daemon.put(None, view, above, changed)


def _leaves_first(path: str, view: View) -> list[str]:
    result = []
    waiting = [path]
    while waiting:
        each = waiting.pop()
        result.append(each)
        node = view.get(each)
        if node is not None:
            waiting.extend(paths.child_of(each, name) for name in node.child_names)
    result.reverse()
    return result


def _set_perms(request: Request) -> bytes:
    daemon, connection = request.daemon, request.connection
    strings = [decode(each) for each in request.message.strings()]
    if len(strings) < 2:
        raise StoreError("EINVAL")
    allowed = limit(connection.quotas.node_permissions)
    if connection.unprivileged and len(strings) - 1 > allowed:
        raise StoreError("ENOSPC")
    parsed = [permissions.parse(text) for text in strings[1:]]
    new = tuple(_mark_unknown(daemon, permission) for permission in parsed)
    if new[0].ignored:
        raise StoreError("ENOENT")
    if strings[0].startswith(paths.SPECIAL):
        _set_special(request, strings[0], new)
        return OK
    path = request.resolve(strings[0])
    node = request.find(path, WRITE | OWNER)
    if connection.unprivileged and new[0].domid != node.owner:
        raise StoreError("EPERM")
    changed = Node(node.value, new, node.children, daemon.database.next_generation())
    request.put(path, changed)
    request.fire(path, changed, before=node.permissions)
    return OK


def _mark_unknown(daemon: Xenstored, permission: Permission) -> Permission:
    """One for a domain that does not exist is kept, and ignored."""
    if daemon.find_record(permission.domid) is not None:
        return permission
    return Permission(permission.domid, permission.access, ignored=True)


def _set_special(request: Request, name: str, new: Permissions) -> None:
    old = request.daemon.special.get(name)
    if old is None:
        raise StoreError("EINVAL")
    needed = WRITE | OWNER
    if request.daemon.access_by(request.connection, old, None) & needed != needed:
        raise StoreError("EACCES")
    request.daemon.special[name] = new


# Watches


def _watch(request: Request) -> bytes:
    """The watch fires once at the beginning, so that a client need not look itself."""
    strings = request.message.strings()
    connection = request.connection
    depth = None
    if len(strings) == 3 and connection.features & FEATURE_WATCH_DEPTH:
        depth = _integer(strings[2])
        if depth < 0:
            raise StoreError("EINVAL")
    elif len(strings) != 2:
        raise StoreError("EINVAL")
    path, token = decode(strings[0]), decode(strings[1])
    relative = not path.startswith((paths.ROOT, paths.SPECIAL))
    path = request.resolve(path)
    if not path.startswith(paths.SPECIAL):
        paths.check(path, limit(connection.quotas.path_max))
    elif len(path) > abi.XENSTORE_REL_PATH_MAX:
        raise StoreError("EINVAL")
    if (path, token) in connection.watches:
        raise StoreError("EEXIST")
    if connection.unprivileged and len(connection.watches) > limit(connection.quotas.watches):
        raise StoreError("E2BIG")
    record = connection.domain
    if record is not None and not record.has_room(len(path) + len(token)):
        raise StoreError("ENOMEM")
    watch = request.daemon.add_watch(connection, path, token, relative, depth)
    request.after = lambda: connection.send_event(watch.told(path), token, None)
    return OK


def _unwatch(request: Request) -> bytes:
    strings = request.message.strings()
    if len(strings) != 2:
        raise StoreError("EINVAL")
    path = request.resolve(decode(strings[0]))
    watch = request.connection.watches.get((path, decode(strings[1])))
    if watch is None:
        raise StoreError("ENOENT")
    request.daemon.remove_watch(watch)
    return OK


def _reset_watches(request: Request) -> bytes:
    request.daemon.remove_watches(request.connection)
    request.connection.drop_transactions()
    return OK


# Transactions


def _transaction_start(request: Request) -> bytes:
    connection, quotas = request.connection, request.connection.quotas
    if request.transaction is not None:
        raise StoreError("EBUSY")
    nodes = None
    if connection.unprivileged:
        if len(connection.transactions) > limit(quotas.transactions):
            raise StoreError("ENOSPC")
        nodes = limit(quotas.transaction_nodes)
    database = request.daemon.database
    now = request.daemon.now()
    transaction = Transaction(database, database.tree, connection.domain, nodes, now)
    return b"%d\0" % connection.add_transaction(transaction)


def _transaction_end(request: Request) -> bytes:
    """``T`` makes the changes everybody's, ``F`` forgets them."""
    word = request.message.one_string()
    if word not in ("T", "F"):
        raise StoreError("EINVAL")
    transaction = request.transaction
    if transaction is None:
        raise StoreError("ENOENT")
    del request.connection.transactions[request.message.transaction]
    transaction.end()
    if word == "T":
        _commit(request, transaction)
    return OK


def _commit(request: Request, transaction: Transaction) -> None:
    """Raises ENOMEM for a transaction that has failed, ENOSPC above a quota of nodes, EAGAIN."""
    daemon, database = request.daemon, request.daemon.database
    if transaction.failed:
        raise StoreError("ENOMEM")
    _check_owners(daemon, transaction)
    if transaction.conflicts():
        raise StoreError("EAGAIN")
    daemon.charge_write(request.connection)
    for path in transaction.changes:
        node, old = transaction.tree.get(path), database.get(path)
        if node is not None:
            daemon.put(None, database, path, replace(node, generation=database.next_generation()))
        elif old is not None:
            daemon.remove(database, path, old)
    for path, old in transaction.seen.items():
        exact = transaction.changes.get(path)
        if exact is not None:
            before = None if old is None else old.permissions
            node = database.get(path)
            daemon.fire(request.connection, database, path, node, exact=exact, before=before)


def _check_owners(daemon: Xenstored, transaction: Transaction) -> None:
    """Each domain whose nodes come or go must stay below its quota."""
    growth: dict[int, int] = {}
    for path in transaction.changes:
        for node, number in ((transaction.seen[path], -1), (transaction.tree.get(path), 1)):
            if node is not None:
                growth[node.owner] = growth.get(node.owner, 0) + number
    for domid, number in growth.items():
        record = daemon.find_record(domid)
        if record is None:
            raise StoreError("ENOMEM")
        if number and record.unprivileged:
            total = len(record.nodes) + number
            if total >= limit(record.quotas.nodes):
                raise StoreError("ENOSPC")


# Domains


def _introduce(request: Request) -> bytes:
    strings = request.message.strings()
    if len(strings) < 3:
        raise StoreError("EINVAL")
    domid, gfn, port = (_integer(each) for each in strings[:3])
    if port <= 0 or domid <= 0:
        raise StoreError("EINVAL")
    request.daemon.introduce(domid, gfn, port)
    return OK


def _release(request: Request) -> bytes:
    record, _ = _introduced(request.daemon, _domain_named(request))
    request.daemon.release(record.domid)
    return OK


def _resume(request: Request) -> bytes:
    """``@releaseDomain`` is told again when the domain stops again."""
    record, _ = _introduced(request.daemon, _domain_named(request))
    record.shut_down = False
    return OK


def _domain_named(request: Request) -> int:
    domid = _integer(encode(request.message.one_string()))
    if not domid:
        raise StoreError("EINVAL")
    return domid


def _introduced(daemon: Xenstored, domid: int) -> tuple[DomainRecord, Connection]:
    record = daemon.domains.get(domid)
    if record is None or record.connection is None:
        raise StoreError("ENOENT")
    return record, record.connection


def _set_target(request: Request) -> bytes:
    """A domain, such as a device model's, gets the rights of another one, too."""
    strings = request.message.strings()
    if len(strings) < 2:
        raise StoreError("EINVAL")
    _, connection = _introduced(request.daemon, _integer(strings[0]))
    target, _ = _introduced(request.daemon, _integer(strings[1]))
    connection.target = target.domid
    return OK


def _get_domain_path(request: Request) -> bytes:
    domid = _integer(encode(request.message.one_string())) & _LARGEST
    return encode(paths.domain_directory(domid)) + b"\0"


def _is_domain_introduced(request: Request) -> bytes:
    domid = _integer(encode(request.message.one_string()))
    record = request.daemon.domains.get(domid)
    known = domid in (0, _DOMID_SELF) or (record is not None and record.introduced)
    return b"T\0" if known else b"F\0"


# What a domain is offered and allowed


def _get_feature(request: Request) -> bytes:
    strings = request.message.strings()
    if not strings:
        return b"%d\0" % request.connection.features
    if request.connection.unprivileged:
        raise StoreError("EACCES")
    if len(strings) > 1:
        raise StoreError("EINVAL")
    return b"%d\0" % _existing(request.daemon, strings[0]).features


def _set_feature(request: Request) -> bytes:
    """Only before the domain is introduced."""
    strings = request.message.strings()
    if len(strings) != 2:
        raise StoreError("EINVAL")
    record = _existing(request.daemon, strings[0])
    features = _number(strings[1])
    if features & ~FEATURES:
        raise StoreError("EINVAL")
    if record.introduced or not record.unprivileged:
        raise StoreError("EBUSY")
    record.features = features
    return OK


def _get_quota(request: Request) -> bytes:
    """Of one domain, or of all new ones; without a name, the names."""
    strings = request.message.strings()
    if not strings:
        return encode(" ".join([*HARD, *(f"soft-{name}" for name in SOFT)])) + b"\0"
    if len(strings) > 2:
        raise StoreError("EINVAL")
    quotas = request.daemon.quotas
    if len(strings) == 2:
        quotas = _existing(request.daemon, strings[0]).quotas
    return b"%d\0" % getattr(quotas, _quota_field(strings[-1]))


def _set_quota(request: Request) -> bytes:
    strings = request.message.strings()
    if len(strings) not in (2, 3):
        raise StoreError("EINVAL")
    field, value = _quota_field(strings[-2]), _number(strings[-1])
    quotas: Quotas = request.daemon.quotas
    if len(strings) == 3:
        record = _existing(request.daemon, strings[0])
        if record.quotas is quotas:
            record.quotas = replace(quotas)
        quotas = record.quotas
    setattr(quotas, field, value)
    return OK


def _quota_field(name: bytes) -> str:
    text = decode(name)
    soft = text.startswith("soft-")
    entry = (SOFT if soft else HARD).get(text.removeprefix("soft-"))
    if entry is None:
        raise StoreError("EINVAL")
    return entry[0]


def _existing(daemon: Xenstored, domid: bytes) -> DomainRecord:
    record = daemon.find_record(_number(domid))
    if record is None:
        raise StoreError("ENOENT")
    return record


def _number(text: bytes) -> int:
    """A decimal number of 32 bits and nothing else. Raises EINVAL."""
    if not text.isdigit() or len(text) > 10 or int(text) > _LARGEST:
        raise StoreError("EINVAL")
    return int(text)


def _integer(text: bytes) -> int:
    """A number as C's ``atoi`` reads it: what is none is 0."""
    digits = text.lstrip()
    sign = -1 if digits[:1] == b"-" else 1
    digits = digits[1:] if digits[:1] in (b"-", b"+") else digits
    end = 0
    while end < len(digits) and end < 10 and digits[end : end + 1].isdigit():
        end += 1
    return sign * int(digits[:end] or b"0")


def _control(request: Request) -> bytes | None:
    return control.run(request)


class Operation(Struct, frozen=True):
    work: Callable[[Request], bytes | None]
    privileged: bool = False
    ignores_transaction: bool = False


OPERATIONS: Final[dict[int, Operation]] = {
    abi.XS_CONTROL: Operation(_control, privileged=True),
    abi.XS_DIRECTORY: Operation(_directory),
    abi.XS_READ: Operation(_read),
    abi.XS_GET_PERMS: Operation(_get_perms),
    abi.XS_WATCH: Operation(_watch, ignores_transaction=True),
    abi.XS_UNWATCH: Operation(_unwatch, ignores_transaction=True),
    abi.XS_TRANSACTION_START: Operation(_transaction_start),
    abi.XS_TRANSACTION_END: Operation(_transaction_end),
    abi.XS_INTRODUCE: Operation(_introduce, privileged=True),
    abi.XS_RELEASE: Operation(_release, privileged=True),
    abi.XS_GET_DOMAIN_PATH: Operation(_get_domain_path),
    abi.XS_WRITE: Operation(_write),
    abi.XS_MKDIR: Operation(_mkdir),
    abi.XS_RM: Operation(_rm),
    abi.XS_SET_PERMS: Operation(_set_perms),
    abi.XS_IS_DOMAIN_INTRODUCED: Operation(_is_domain_introduced, privileged=True),
    abi.XS_RESUME: Operation(_resume, privileged=True),
    abi.XS_SET_TARGET: Operation(_set_target, privileged=True),
    abi.XS_RESET_WATCHES: Operation(_reset_watches),
    abi.XS_DIRECTORY_PART: Operation(_directory_part),
    XS_GET_FEATURE: Operation(_get_feature),
    XS_SET_FEATURE: Operation(_set_feature, privileged=True),
    XS_GET_QUOTA: Operation(_get_quota, privileged=True),
    XS_SET_QUOTA: Operation(_set_quota, privileged=True),
}
