# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages that load what they offer when it is first used: a command needs little of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def loader(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package: finds each of these names in the module that is named."""

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(modules[name]), name)

    return load
