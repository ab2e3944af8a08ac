# SPDX-License-Identifier: GPL-2.0-or-later
"""From a network card's configuration to its back end: chooses and makes the link."""

from __future__ import annotations

from typing import Final

from pyxen.backends.allowance import Allowance
from pyxen.backends.doors import Doors
from pyxen.backends.net import Link, NetBackend
from pyxen.errors import PyxenError
from pyxen.toolstack.devices.nic import NicConfig

_MICROSECONDS: Final = 1e-6


def make_vif(doors: Doors, backend_path: str, frontend_path: str, config: NicConfig) -> NetBackend:
    """Raises PyxenError if the link cannot be made."""
    return NetBackend(doors, backend_path, frontend_path, make_link(doors, config), _rate(config))


def _rate(config: NicConfig) -> Allowance | None:
    if config.rate is None:
        return None
    return Allowance(config.rate.bytes_per_interval, config.rate.interval_us * _MICROSECONDS)


def make_link(doors: Doors, config: NicConfig) -> Link:
    """What the card is connected to. Raises PyxenError."""
    if config.mode == "none":
        from pyxen.backends.net.links.none import NoLink

        return NoLink()
    raise PyxenError(f"net: pyxen cannot connect a card to {config.mode} yet")
