# SPDX-License-Identifier: GPL-2.0-or-later
"""Names of numbers, for statistics and logs."""

from __future__ import annotations

from collections.abc import Mapping


def names_of(namespace: Mapping[str, object], prefix: str) -> dict[int, str]:
    """Number -> name without `prefix`, of all integers in `namespace` whose names begin with it.

    Called by a module on its own `globals()`, after the last number of a family. Where two names
    share a number, the one defined first is taken.
    """
    names: dict[int, str] = {}
    for name, value in namespace.items():
        if name.startswith(prefix) and isinstance(value, int):
            names.setdefault(value, name.removeprefix(prefix))
    return names
