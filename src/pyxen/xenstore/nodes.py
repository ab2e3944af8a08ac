# SPDX-License-Identifier: GPL-2.0-or-later
"""Nodes, the tree of them, and transactions.

The tree is a persistent map from path to node: changing it makes a new map that shares nearly all
with the old one. So a transaction has a snapshot of the whole tree for nothing: it keeps the map
of its start and works on its own. At its end each node that it has looked at must still be the one
that it saw, otherwise the transaction fails with EAGAIN and its caller does it all again; changes
elsewhere in the tree do not matter. A parent is changed when a child comes or goes, because the
list of children is part of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from immutables import Map
from msgspec import Struct, field

from pyxen.xenstore.error import StoreError

if TYPE_CHECKING:
    from pyxen.xenstore.domains import DomainRecord
    from pyxen.xenstore.permissions import Permissions

_RECORD: Final = 24
_PERMISSION: Final = 8


class Node(Struct, eq=False):
    """One version of a node; it is never changed, a change is another version.

    ``children`` has their names, each ended by a zero byte, in the order of their creation.
    ``generation`` is different for any two versions of any two nodes.
    """

    value: bytes
    permissions: Permissions
    children: bytes
    generation: int

    @property
    def owner(self) -> int:
        return self.permissions[0].domid

    @property
    def size(self) -> int:
        """Bytes that it takes in xenstored's database, which is what quotas are about."""
        fixed = _RECORD + _PERMISSION * len(self.permissions)
        return fixed + len(self.value) + len(self.children)

    @property
    def child_names(self) -> list[str]:
        return self.children.decode("latin-1").split("\0")[:-1]


Tree = Map[str, Node]


class Database:
    """The tree that all see. ``generation`` counts changes; ``transactions``: how many are open."""

    def __init__(self) -> None:
        self.tree: Tree = Map()
        self.generation = 0
        self.transactions = 0

    def next_generation(self) -> int:
        self.generation += 1
        return self.generation

    def get(self, path: str) -> Node | None:
        return self.tree.get(path)

    def put(self, path: str, node: Node) -> None:
        self.tree = self.tree.set(path, node)

    def remove(self, path: str) -> None:
        self.tree = self.tree.delete(path)


class Transaction(Struct, eq=False):
    """A view of its own of the database.

    ``seen`` has each node that it has looked at as it was, None if it was not there; ``limit`` is
    how many there may be. ``changes`` has the paths that it has changed, in order, with whether an
    event for each is to reach watches of this very path only (None: no event). What the
    transaction holds counts as memory of its domain, ``record``. ``overtaken``: it cannot succeed
    any more. ``started``: when, in the seconds of the store's clock.
    """

    database: Database
    tree: Tree
    record: DomainRecord | None
    limit: int | None
    started: float = 0.0
    overtaken: bool = False
    seen: dict[str, Node | None] = field(default_factory=dict)
    changes: dict[str, bool | None] = field(default_factory=dict)
    memory: int = 0
    failed: bool = False

    def __post_init__(self) -> None:
        self.database.transactions += 1

    def get(self, path: str) -> Node | None:
        """Raises ENOSPC above the limit; the transaction has failed then."""
        node = self.tree.get(path)
        if path not in self.seen:
            if self.limit is not None and len(self.seen) >= self.limit:
                self.failed = True
                raise StoreError("ENOSPC")
            self.seen[path] = node
            if node is not None:
                self._charge(node.size + len(path))
        return node

    def put(self, path: str, node: Node) -> None:
        """For a path that ``get`` was called with."""
        self.changes.setdefault(path, None)
        old = self.tree.get(path)
        self._charge(node.size + len(path) - (0 if old is None else old.size + len(path)))
        self.tree = self.tree.set(path, node)

    def remove(self, path: str) -> None:
        """For a node that ``get`` has returned."""
        self.changes.setdefault(path, None)
        self._charge(-self.tree[path].size - len(path))
        self.tree = self.tree.delete(path)

    def _charge(self, size: int) -> None:
        self.memory += size
        if self.record is not None:
            self.record.charge(size)

    def end(self) -> None:
        """It is open no more: give back the memory."""
        self.database.transactions -= 1
        self._charge(-self.memory)

    def queue_event(self, path: str, exact: bool) -> None:
        """For a changed path. An event for all watches replaces one for those of this path."""
        if self.changes[path] is not False:
            self.changes[path] = exact

    def conflicts(self) -> bool:
        """Whether somebody else has changed what this transaction relies on."""
        get = self.database.tree.get
        return self.overtaken or any(get(path) is not node for path, node in self.seen.items())


View = Database | Transaction
