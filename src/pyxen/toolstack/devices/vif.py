# SPDX-License-Identifier: GPL-2.0-or-later
"""From a network card's configuration to its back end: chooses and makes the link."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pyxen.backends.allowance import Allowance
from pyxen.backends.doors import Doors
from pyxen.backends.net import Link, NetBackend
from pyxen.errors import PyxenError
from pyxen.toolstack.devices.nic import NicConfig
from pyxen.toolstack.folders import make_private, run_folder, switches_folder

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
    link = _LINKS[config.mode](doors, config)
    if not config.pcap:
        return link
    from pyxen.backends.net.links.pcap import PcapLink

    return PcapLink(doors, link, Path(config.pcap))


def _none(doors: Doors, config: NicConfig) -> Link:
    from pyxen.backends.net.links.none import NoLink

    return NoLink()


def _user(doors: Doors, config: NicConfig) -> Link:
    from pyxen.backends.net.links.user import LARGEST_MTU, UserLink

    return UserLink(
        doors,
        config.mac,
        forwards=config.forwards,
        host_loopback=config.host_loopback,
        mtu=_chosen_mtu(config) or LARGEST_MTU,
    )


def _tap(doors: Doors, config: NicConfig) -> Link:
    from pyxen.backends.net.links.tap import TapLink

    routes = [_address(word) for word in config.ip.split()]
    return TapLink(doors, config.peer, routes=routes, mtu=_chosen_mtu(config))


def _bridge(doors: Doors, config: NicConfig) -> Link:
    from pyxen.backends.net.links.tap import TapLink

    name = config.extra.get("vifname") or f"vif{doors.domid}.{config.devid}"
    return TapLink(doors, name, bridge=config.peer, mtu=_chosen_mtu(config))


def _switch(doors: Doors, config: NicConfig) -> Link:
    from pyxen.backends.net.links.switch import SwitchLink

    name = config.peer
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise PyxenError(f"net: {name!r} is no name for a switch")
    for folder in (run_folder(), switches_folder(), switches_folder() / name):
        make_private(folder)
    return SwitchLink(doors, folder)


_LINKS: Final[dict[str, Callable[[Doors, NicConfig], Link]]] = {
    "none": _none,
    "user": _user,
    "tap": _tap,
    "bridge": _bridge,
    "switch": _switch,
}


def _chosen_mtu(config: NicConfig) -> int | None:
    """None unless the user asks for another one than Ethernet's."""
    return config.mtu if config.mtu != NicConfig.mtu else None


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise PyxenError(f"net: ip: {text!r} is no address") from None
