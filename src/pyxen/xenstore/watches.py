# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches: a client hears of each change of a node and of what is below it.

An event tells the path that has changed, not how, and the *token* that the client gave with its
watch. A client hears only of nodes that it may read, or whose parent it may read. A watch may be
limited in *depth*: how many levels below its path it reaches. The special names
``@introduceDomain`` and ``@releaseDomain`` tell that a domain has come or gone; with a depth of 1
they tell which.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from pyxen.xenstore import paths

if TYPE_CHECKING:
    from pyxen.xenstore.connection import Connection


class Watch(Struct, eq=False):
    """``path`` is absolute or a special name. ``relative``: events are told relative to the
    client's directory, because it has named a relative path. ``depth``: None for no limit.
    ``number`` orders watches by their age."""

    connection: Connection
    path: str
    token: str
    relative: bool
    depth: int | None
    number: int

    def told(self, path: str) -> str:
        """The path as the client hears of it."""
        if not self.relative:
            return path
        return path[len(self.connection.directory) :].removeprefix("/")

    @property
    def size(self) -> int:
        """Bytes, for the quota."""
        return len(self.path) + len(self.token)


class WatchIndex:
    """All watches by their paths, so that a change costs by the length of its path."""

    def __init__(self) -> None:
        self._by_path: dict[str, list[Watch]] = {}

    def add(self, watch: Watch) -> None:
        self._by_path.setdefault(watch.path, []).append(watch)

    def remove(self, watch: Watch) -> None:
        same = self._by_path[watch.path]
        same.remove(watch)
        if not same:
            del self._by_path[watch.path]

    def exact(self, path: str) -> list[Watch]:
        """Those of this very path."""
        return list(self._by_path.get(path, ()))

    def concerned(self, path: str) -> list[Watch]:
        """Those that a change of this node matches, the oldest first."""
        found: list[Watch] = []
        level = 0
        while True:
            for watch in self._by_path.get(path, ()):
                if watch.depth is None or level <= watch.depth:
                    found.append(watch)
            if path == paths.ROOT:
                break
            path = paths.parent_of(path)
            level += 1
        found.sort(key=lambda watch: watch.number)
        return found
