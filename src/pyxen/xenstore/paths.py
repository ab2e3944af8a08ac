# SPDX-License-Identifier: GPL-2.0-or-later
"""Paths of nodes: ``/local/domain/1/name``.

A path that does not begin with ``/`` is relative to the directory of the domain that says it. Those
that begin with ``@`` are no nodes but names of special watches. Reference: ``xenstore.txt``
and ``xs_wire.h``, whose two lengths are one limit in xenstored: a path may be as long as a relative
one behind the directory of a domain.
"""

from __future__ import annotations

import re
from typing import Final

from pyxen.xenstore.error import StoreError

ROOT: Final = "/"
SPECIAL: Final = "@"

_VALID: Final = re.compile(r"/|(?:/[A-Za-z0-9@_-]+)+")
_DOMAIN_DIRECTORY: Final = re.compile(r"/local/domain/[0-9]{1,5}/")


def domain_directory(domid: int) -> str:
    """The directory of a domain, to which its relative paths refer."""
    return f"/local/domain/{domid}"


def resolve(path: str, directory: str) -> str:
    """The absolute path that a connection with this directory means."""
    return path if path.startswith((ROOT, SPECIAL)) else f"{directory}/{path}"


def check(path: str, longest: int) -> None:
    """Raises EINVAL for what is no path of a node, or longer than the quota permits."""
    start = _DOMAIN_DIRECTORY.match(path)
    if len(path) - (start.end() if start else 0) > longest or not _VALID.fullmatch(path):
        raise StoreError("EINVAL")


def parent_of(path: str) -> str:
    """The parent; the root is its own."""
    return path[: path.rindex("/")] or ROOT


def name_of(path: str) -> str:
    """The last part."""
    return path[path.rindex("/") + 1 :]


def child_of(path: str, name: str) -> str:
    """The path of a child."""
    return f"/{name}" if path == ROOT else f"{path}/{name}"
