# SPDX-License-Identifier: GPL-2.0-or-later
"""From a network card's configuration to its back end: chooses, opens and makes the
link."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from pyxen.backends.allowance import Allowance
from pyxen.backends.doors import Doors
from pyxen.backends.net import Link, NetBackend
from pyxen.backends.opened import Opened
from pyxen.errors import PyxenError
from pyxen.toolstack.devices.nic import DEFAULT_MTU, NicConfig
from pyxen.toolstack.folders import make_private, run_folder, switches_folder

_MICROSECONDS: Final = 1e-6


def make_vif(
    doors: Doors, backend_path: str, frontend_path: str, config: NicConfig, opened: Opened
) -> NetBackend:
    """The card, connected with what ``open_vif`` has opened."""
    link = make_link(doors, config, opened)
    return NetBackend(doors, backend_path, frontend_path, link, _rate(config))


def _rate(config: NicConfig) -> Allowance | None:
    if config.rate is None:
        return None
    return Allowance(config.rate.bytes_per_interval, config.rate.interval_us * _MICROSECONDS)


def open_vif(config: NicConfig, domid: int) -> Opened:
    """What the link of such a card needs of the host, and behind that the file of its record.
    Raises PyxenError."""
    opened = _OPENERS[config.mode](config, domid)
    if not config.pcap:
        return opened
    from pyxen.backends.net.links.pcap import open_record

    try:
        record = open_record(Path(config.pcap))
    except PyxenError:
        opened.close()
        raise
    return replace(opened, files=(*opened.files, record))


def make_link(doors: Doors, config: NicConfig, opened: Opened) -> Link:
    """What the card is connected to."""
    if not config.pcap:
        return _LINKS[config.mode](doors, config, opened)
    from pyxen.backends.net.links.pcap import PcapLink

    *files, record = opened.files
    link = _LINKS[config.mode](doors, config, replace(opened, files=tuple(files)))
    return PcapLink(doors, link, Path(config.pcap), record)


def _open_none(config: NicConfig, domid: int) -> Opened:
    return Opened(())


def _none(doors: Doors, config: NicConfig, opened: Opened) -> Link:
    from pyxen.backends.net.links.none import NoLink

    return NoLink()


def _open_user(config: NicConfig, domid: int) -> Opened:
    from pyxen.backends.net.links.user import LARGEST_MTU, start_passt

    return start_passt(
        config.mac,
        forwards=config.forwards,
        host_loopback=config.host_loopback,
        mtu=_chosen_mtu(config) or LARGEST_MTU,
    )


def _user(doors: Doors, config: NicConfig, opened: Opened) -> Link:
    from pyxen.backends.net.links.user import UserLink

    return UserLink(doors, opened, forwards=config.forwards, host_loopback=config.host_loopback)


def _open_tap(config: NicConfig, domid: int) -> Opened:
    from pyxen.backends.net.links.tap import open_tap

    routes = [_address(word) for word in config.ip.split()]
    return open_tap(config.peer, routes=routes, mtu=_chosen_mtu(config))


def _open_bridge(config: NicConfig, domid: int) -> Opened:
    from pyxen.backends.net.links.tap import open_tap

    return open_tap(_vif_name(config, domid), bridge=config.peer, mtu=_chosen_mtu(config))


def _tap(doors: Doors, config: NicConfig, opened: Opened) -> Link:
    from pyxen.backends.net.links.tap import TapLink

    name = config.peer if config.mode == "tap" else _vif_name(config, doors.domid)
    return TapLink(doors, name, opened)


def _open_switch(config: NicConfig, domid: int) -> Opened:
    from pyxen.backends.net.links.switch import join

    name = config.peer
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise PyxenError(f"net: {name!r} is no name for a switch")
    for folder in (run_folder(), switches_folder(), switches_folder() / name):
        make_private(folder)
    return join(folder)


def _switch(doors: Doors, config: NicConfig, opened: Opened) -> Link:
    from pyxen.backends.net.links.switch import SwitchLink

    return SwitchLink(doors, opened)


_OPENERS: Final[dict[str, Callable[[NicConfig, int], Opened]]] = {
    "none": _open_none,
    "user": _open_user,
    "tap": _open_tap,
    "bridge": _open_bridge,
    "switch": _open_switch,
}
_LINKS: Final[dict[str, Callable[[Doors, NicConfig, Opened], Link]]] = {
    "none": _none,
    "user": _user,
    "tap": _tap,
    "bridge": _tap,
    "switch": _switch,
}


def _vif_name(config: NicConfig, domid: int) -> str:
    """As xl names the devices of cards on a bridge."""
    return config.extra.get("vifname") or f"vif{domid}.{config.devid}"


def _chosen_mtu(config: NicConfig) -> int | None:
    """None unless the user asks for another one than Ethernet's."""
    return config.mtu if config.mtu != DEFAULT_MTU else None


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        raise PyxenError(f"net: ip: {text!r} is no address") from None
