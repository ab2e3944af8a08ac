# SPDX-License-Identifier: GPL-2.0-or-later
"""Who may read and write a node.

A node has a list of permissions. The first names the owner, who may do all, and what everybody may
who is not in the list; each other one says what one domain may: ``n`` nothing, ``r`` read, ``w``
write, ``b`` both. Domain 0 may do all with everything.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from pyxen.xenstore.error import StoreError

NONE: Final = 0
READ: Final = 1
WRITE: Final = 2
OWNER: Final = 4
EVERYTHING: Final = READ | WRITE | OWNER

_LETTERS: Final = {"n": NONE, "r": READ, "w": WRITE, "b": READ | WRITE}
_NAMES: Final = {access: letter for letter, access in _LETTERS.items()}
_FORM: Final = re.compile("([nrwb])([0-9]{1,10})")
_LARGEST: Final = 0xFFFFFFFF


class Permission(Struct, frozen=True):
    """``ignored``: the domain did not exist when it was set; a later one of this number is not
    meant."""

    domid: int
    access: int
    ignored: bool = False

    def __str__(self) -> str:
        return f"{self.letter}{self.domid}"

    @property
    def letter(self) -> str:
        return _NAMES[self.access]


Permissions = tuple[Permission, ...]
"""The first is the owner's."""


def parse(text: str) -> Permission:
    """``r5``: domain 5 may read. Raises EINVAL."""
    match = _FORM.fullmatch(text)
    if match is None or int(match[2]) > _LARGEST:
        raise StoreError("EINVAL")
    return Permission(int(match[2]), _LETTERS[match[1]])


def access_of(letter: str) -> int | None:
    """What a letter permits; None for one that is none."""
    return _LETTERS.get(letter)


def without_domain(permissions: Permissions, domid: int) -> Permissions:
    """Permissions when a domain has gone: what it owned is domain 0's."""
    owner = permissions[0]
    if owner.domid == domid:
        owner = Permission(0, owner.access)
    return (owner, *(each for each in permissions[1:] if each.domid != domid))
