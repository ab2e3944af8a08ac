# SPDX-License-Identifier: GPL-2.0-or-later
"""Engines: what executes guest instructions. An engine knows no Xen (see ``protocol``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from pyxen.errors import PyxenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pyxen.engine.protocol import Engine

ENGINE_NAMES = ("auto", "emulator")


class EngineInfo(Struct, frozen=True):
    """One engine and whether this host can use it; ``reason`` says why (not)."""

    name: str
    usable: bool
    reason: str


def probe() -> list[EngineInfo]:
    """Each engine that pyxen has, after its self-check."""
    from pyxen.engine.emulator import library

    try:
        return [EngineInfo("emulator", True, library.self_check())]
    except PyxenError as error:
        return [EngineInfo("emulator", False, str(error))]


def load(name: str) -> Callable[[int, int], Engine]:
    """Load the engine ``name`` into this process, which need not open files for it later.

    Returns what makes one of so many pages of guest memory and CPUs.

    ``auto`` takes the best one that works here. Raises PyxenError with the reason when the
    engine is unknown or its self-check fails.
    """
    if name not in ENGINE_NAMES:
        raise PyxenError(f"engine {name!r}: unknown, expected one of {', '.join(ENGINE_NAMES)}")
    from pyxen.engine.emulator import library
    from pyxen.engine.emulator.engine import EmulatorEngine

    library.self_check()
    return EmulatorEngine


def create(name: str, ram_pages: int, vcpus: int) -> Engine:
    """Make an engine with ``ram_pages`` pages of guest memory and ``vcpus`` CPUs. Raises what
    ``load`` does."""
    return load(name)(ram_pages, vcpus)
