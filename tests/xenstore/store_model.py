# SPDX-License-Identifier: GPL-2.0-or-later
"""The store once more, as simply as can be: whole copies, no index, no accounting.

A transaction is a copy of everything. Each node has a number that grows when the node changes; a
transaction notes what it has looked at, and fails if one of these numbers is another at its end. A
permission is for one *incarnation* of a domain. Events are found by asking all watches.
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field

VALID = re.compile(r"/|(/[A-Za-z0-9@_-]+)+")


class Refused(Exception):
    pass


@dataclass
class ModelNode:
    value: bytes
    permissions: list[tuple[str, int, int]]  # letter, domid, incarnation
    children: list[str]

    def size(self) -> int:
        names = sum(len(name) + 1 for name in self.children)
        return 24 + 8 * len(self.permissions) + len(self.value) + names


@dataclass
class ModelTransaction:
    start: dict[str, ModelNode]
    nodes: dict[str, ModelNode]
    versions: dict[str, int]
    limit: int | None
    seen: list[str] = field(default_factory=list)
    written: set[str] = field(default_factory=set)
    events: dict[str, bool] = field(default_factory=dict)  # path: exact
    failed: bool = False


@dataclass
class ModelWatch:
    path: str
    token: str
    relative: bool
    depth: int | None


@dataclass
class ModelClient:
    domid: int
    watches: list[ModelWatch] = field(default_factory=list)
    transactions: dict[int, ModelTransaction] = field(default_factory=dict)
    next_number: int = 1
    events: list[tuple[str, str]] = field(default_factory=list)
    new_events: list[tuple[str, str]] = field(default_factory=list)
    """Of the present request: the same one is told once."""

    @property
    def home(self) -> str:
        return f"/local/domain/{self.domid}"


def above(path: str) -> str:
    return path.rsplit("/", 1)[0] or "/"


def below(path: str, name: str) -> str:
    return path.rstrip("/") + "/" + name


class Model:
    def __init__(self, nodes: int, watches: int, transactions: int, size: int, seen: int) -> None:
        self.nodes = {
            "/": ModelNode(b"", [("n", 0, 0)], ["tool"]),
            "/tool": ModelNode(b"", [("n", 0, 0)], ["xenstored"]),
            "/tool/xenstored": ModelNode(b"", [("n", 0, 0)], []),
        }
        self.versions: dict[str, int] = {}
        self.incarnations: dict[int, int] = {0: 0}
        self.clients: list[ModelClient] = []
        self.quota_nodes = nodes
        self.quota_watches = watches
        self.quota_transactions = transactions
        self.quota_size = size
        self.quota_seen = seen
        self.change = 0
        # Of the present request.
        self.client = ModelClient(0)
        self.transaction: ModelTransaction | None = None

    # Help

    def begin(self, client: ModelClient, number: int) -> None:
        for each in self.clients:
            each.new_events.clear()
        self.client = client
        self.transaction = None
        if number:
            if number not in client.transactions:
                raise Refused("ENOENT")
            self.transaction = client.transactions[number]

    @property
    def view(self) -> dict[str, ModelNode]:
        return self.nodes if self.transaction is None else self.transaction.nodes

    def look(self, path: str) -> ModelNode | None:
        transaction = self.transaction
        if transaction is not None and path not in transaction.seen:
            if transaction.limit is not None and len(transaction.seen) >= transaction.limit:
                transaction.failed = True
                raise Refused("ENOSPC")
            transaction.seen.append(path)
        return self.view.get(path)

    def allowed(self, client: ModelClient, permissions: list[tuple[str, int, int]]) -> str:
        """The letters of what a client may do: of "rwo"."""
        rights = {"n": "", "r": "r", "w": "w", "b": "rw"}
        if client.domid in (0, permissions[0][1]):
            return "rwo"
        for letter, domid, incarnation in permissions[1:]:
            if domid == client.domid and incarnation == self.incarnations[domid]:
                return rights[letter]
        return rights[permissions[0][0]]

    def absolute(self, path: str) -> str:
        return path if path.startswith(("/", "@")) else f"{self.client.home}/{path}"

    def find(self, path: str, needed: str) -> ModelNode:
        if not VALID.fullmatch(path):
            raise Refused("EINVAL")
        node = self.look(path)
        error = "ENOENT"
        if node is not None:
            rights = self.allowed(self.client, node.permissions)
            if all(each in rights for each in needed):
                return node
            error = "EACCES"
        while True:
            path = above(path)
            parent = self.look(path)
            if parent is not None:
                rights = self.allowed(self.client, parent.permissions)
                raise Refused(error if any(each in rights for each in needed) else "EACCES")

    def touch(self, path: str) -> None:
        if self.transaction is not None:
            self.transaction.written.add(path)
        else:
            self.change += 1
            self.versions[path] = self.change

    def fire(
        self, path: str, exact: bool, node: ModelNode | None, before: ModelNode | None = None
    ) -> None:
        """``node``: as it is; None if it is to be looked up."""
        if self.transaction is not None:
            self.transaction.events[path] = exact and self.transaction.events.get(path, True)
            return
        node = node or self.nodes.get(path)
        parent = self.nodes.get(above(path))
        for client in self.clients:
            may = [each for each in (node, parent) if each is not None] if node is not None else []
            if before is not None:
                may.append(before)
            if not any("r" in self.allowed(client, each.permissions) for each in may):
                continue
            for watch in client.watches:
                inside = path == watch.path or path.startswith(watch.path.rstrip("/") + "/")
                if exact:
                    inside = path == watch.path
                levels = path.strip("/").count("/") - watch.path.strip("/").count("/")
                if watch.path == "/" and path != "/":
                    levels += 1
                if inside and (watch.depth is None or levels <= watch.depth):
                    told = path.removeprefix(client.home + "/") if watch.relative else path
                    if (told, watch.token) not in client.new_events:
                        client.new_events.append((told, watch.token))
                        client.events.append((told, watch.token))

    def limited(self, node: ModelNode) -> None:
        if self.client.domid and node.size() >= self.quota_size:
            if self.transaction is not None:
                self.transaction.failed = True
            raise Refused("ENOSPC")

    def owned(self, domid: int, nodes: dict[str, ModelNode]) -> int:
        return sum(node.permissions[0][1] == domid for node in nodes.values())

    # Requests

    def read(self, path: str) -> bytes:
        return self.find(self.absolute(path), "r").value

    def directory(self, path: str) -> list[str]:
        return list(self.find(self.absolute(path), "r").children)

    def get_permissions(self, path: str) -> list[str]:
        node = self.find(self.absolute(path), "r")
        return [f"{letter}{domid}" for letter, domid, _ in node.permissions]

    def write(self, path: str, value: bytes) -> None:
        path = self.absolute(path)
        try:
            node = copy.deepcopy(self.find(path, "w"))
        except Refused as error:
            if str(error) != "ENOENT":
                raise
            self.create(path, value)
        else:
            node.value = value
            self.limited(node)
            self.view[path] = node
            self.touch(path)
        self.fire(path, False, self.view[path])

    def mkdir(self, path: str) -> None:
        path = self.absolute(path)
        try:
            self.find(path, "w")
        except Refused as error:
            if str(error) != "ENOENT":
                raise
            self.create(path, b"")
            self.fire(path, False, self.view[path])

    def create(self, path: str, value: bytes) -> None:
        missing = []
        top = path
        while self.look(top) is None:
            missing.append(top)
            top = above(top)
        parent = copy.deepcopy(self.view[top])
        permissions = list(parent.permissions)
        domid = self.client.domid
        if domid:
            permissions[0] = (permissions[0][0], domid, self.incarnations[domid])
            new = 1 if self.transaction is not None else len(missing)
            if self.owned(domid, self.nodes) + new > self.quota_nodes:
                raise Refused("ENOSPC")
        new_nodes = {}
        child = ""
        for each in missing:
            children = [child] if child else []
            new_nodes[each] = ModelNode(b"" if child else value, list(permissions), children)
            child = each.rsplit("/", 1)[1]
        parent.children.append(child)
        new_nodes[top] = parent
        for node in new_nodes.values():
            self.limited(node)
        for each, node in new_nodes.items():
            self.view[each] = node
            self.touch(each)

    def remove(self, path: str) -> None:
        path = self.absolute(path)
        try:
            self.find(path, "w")
        except Refused as error:
            if str(error) != "ENOENT":
                raise
            if self.look(above(path)) is None:
                raise
            return
        if path == "/":
            raise Refused("EINVAL")
        self.remove_tree(path)

    def remove_tree(self, path: str) -> None:
        self.look_at_all(path)
        self.remove_below(path, path)
        self.look(above(path))
        parent = copy.deepcopy(self.view[above(path)])
        parent.children.remove(path.rsplit("/", 1)[1])
        self.view[above(path)] = parent
        self.touch(above(path))

    def look_at_all(self, path: str) -> None:
        waiting = [path]
        while waiting:
            each = waiting.pop()
            node = self.look(each)
            assert node is not None
            waiting += [below(each, name) for name in node.children]

    def remove_below(self, path: str, top: str) -> None:
        for name in self.view[path].children:
            self.remove_below(below(path, name), top)
        node = self.view.pop(path)
        self.touch(path)
        self.fire(path, path != top, node)

    def set_permissions(self, path: str, permissions: list[str]) -> None:
        new = []
        for text in permissions:
            domid = int(text[1:])
            new.append((text[0], domid, self.incarnations[domid]))
        path = self.absolute(path)
        before = self.find(path, "wo")
        if self.client.domid and new[0][1] != before.permissions[0][1]:
            raise Refused("EPERM")
        node = copy.deepcopy(before)
        node.permissions = new
        self.limited(node)
        self.view[path] = node
        self.touch(path)
        self.fire(path, False, node, before)

    def watch(self, path: str, token: str, depth: int | None) -> None:
        relative = not path.startswith("/")
        path = self.absolute(path)
        client = self.client
        if not VALID.fullmatch(path):
            raise Refused("EINVAL")
        if any((each.path, each.token) == (path, token) for each in client.watches):
            raise Refused("EEXIST")
        if client.domid and len(client.watches) > self.quota_watches:
            raise Refused("E2BIG")
        client.watches.append(ModelWatch(path, token, relative, depth))
        client.events.append((path.removeprefix(client.home + "/") if relative else path, token))

    def unwatch(self, path: str, token: str) -> None:
        path = self.absolute(path)
        for watch in self.client.watches:
            if (watch.path, watch.token) == (path, token):
                self.client.watches.remove(watch)
                return
        raise Refused("ENOENT")

    def reset_watches(self) -> None:
        self.client.watches.clear()
        self.client.transactions.clear()

    def start(self) -> int:
        client = self.client
        if self.transaction is not None:
            raise Refused("EBUSY")
        if client.domid and len(client.transactions) > self.quota_transactions:
            raise Refused("ENOSPC")
        number = client.next_number
        client.next_number += 1
        limit = self.quota_seen if client.domid else None
        start, nodes = copy.deepcopy((self.nodes, self.nodes))
        versions = dict(self.versions)
        client.transactions[number] = ModelTransaction(start, nodes, versions, limit)
        return number

    def end(self, number: int, commit: bool) -> None:
        transaction = self.client.transactions.pop(number)
        self.transaction = None
        if not commit:
            return
        if transaction.failed:
            raise Refused("ENOMEM")
        self.check_owners(transaction)
        if any(self.versions.get(p, 0) != transaction.versions.get(p, 0) for p in transaction.seen):
            raise Refused("EAGAIN")
        for path in transaction.written:
            self.nodes.pop(path, None)
            if path in transaction.nodes:
                self.nodes[path] = transaction.nodes[path]
            self.touch(path)
        for path in transaction.seen:
            if path in transaction.events:
                self.fire(path, transaction.events[path], None, transaction.start.get(path))

    def check_owners(self, transaction: ModelTransaction) -> None:
        for domid in self.incarnations:
            start = self.owned(domid, transaction.start)
            change = self.owned(domid, transaction.nodes) - start
            if domid and change and self.owned(domid, self.nodes) + change >= self.quota_nodes:
                raise Refused("ENOSPC")

    # Domains

    def release(self, domid: int) -> None:
        """The domain dies."""
        self.begin(ModelClient(0), 0)
        self.incarnations[domid] += 1
        self.clients = [client for client in self.clients if client.domid != domid]
        letter, owner, _ = self.nodes["/"].permissions[0]
        if owner == domid:
            root = copy.deepcopy(self.nodes["/"])
            others = [each for each in root.permissions[1:] if each[1] != domid]
            root.permissions = [(letter, 0, 0), *others]
            self.nodes["/"] = root
            self.touch("/")
        for path in sorted(self.nodes):
            if path in self.nodes and self.nodes[path].permissions[0][1] == domid:
                self.remove_tree(path)
