# SPDX-License-Identifier: GPL-2.0-or-later
"""Network cards as xl's users write them: ``mac=00:16:3e:00:00:01,bridge=xenbr0,rate=10Mb/s``.

A specification is a list of names with values and of flags, with commas between. Those of xl say
what the card is and to which bridge it belongs. pyxen's own say to what else a card can be
connected, all without root: ``user`` (the default without a bridge: outgoing connections through
the host, with ``hostfwd=tcp:2222:22`` for incoming ones), ``none``, and ``switch=NAME``, a private
network of domains of the same user. ``tap=NAME`` uses a tap device. ``pcap=FILE`` records the
traffic, and ``host-loopback`` lets a ``user`` card reach the host's own 127.0.0.1.

Reference: ``xl-network-configuration(5)``.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from msgspec import Struct, field

from pyxen.errors import PyxenError
from pyxen.toolstack.devices.rate import RateLimit, parse_rate

MODES: Final = ("user", "bridge", "tap", "switch", "none")
_DEFAULT_BRIDGE: Final = "xenbr0"
DEFAULT_MTU: Final = 1500
_XEN_OUI: Final = "00:16:3e"
_FLAGS: Final = ("trusted", "untrusted", "host-loopback")
_IGNORED: Final = ("model", "accel")  # for emulated cards
_KEYS: Final = (
    "mac",
    "bridge",
    "gatewaydev",
    "netdev",
    "type",
    "vifname",
    "script",
    "ip",
    "backend",
    "rate",
    "devid",
    "mtu",
    "vlan",
    "tap",
    "switch",
    "pcap",
    *_IGNORED,
)
_MAC: Final = re.compile(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}")
_FORWARD: Final = re.compile(r"(tcp|udp):(?:([0-9.]+|\[[0-9a-fA-F:]+\]):)?([0-9]+):([0-9]+)")


class Forward(Struct, frozen=True, forbid_unknown_fields=True):
    """Connections to a port of the host that go to one of the guest."""

    protocol: str
    host_port: int
    guest_port: int
    host_address: str = "127.0.0.1"


class NicConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One card. ``mode`` is one of MODES; ``peer`` the bridge, tap device or switch that it names.
    ``mac`` is empty and ``devid`` None until the domain is known."""

    mode: str = "user"
    peer: str = ""
    mac: str = ""
    devid: int | None = None
    mtu: int = DEFAULT_MTU
    rate: RateLimit | None = None
    forwards: tuple[Forward, ...] = ()
    host_loopback: bool = False
    pcap: str = ""
    trusted: bool = True
    ip: str = ""
    extra: dict[str, str] = field(default_factory=dict)
    """Other nodes of the back end that xl would write: gatewaydev, vifname."""

    def backend_nodes(self) -> dict[str, str]:
        """What the tool stack writes for the back end, as libxl does."""
        nodes = {"mac": self.mac, "handle": str(self.devid), "type": "vif", **self.extra}
        nodes["bridge"] = self.peer if self.mode == "bridge" else _DEFAULT_BRIDGE
        if self.ip:
            nodes["ip"] = self.ip
        if self.rate is not None:
            nodes["rate"] = str(self.rate)
        if self.mtu != DEFAULT_MTU:
            nodes["mtu"] = str(self.mtu)
        return nodes

    def frontend_nodes(self) -> dict[str, str]:
        """The same for the front end."""
        return {
            "handle": str(self.devid),
            "mac": self.mac,
            "trusted": str(int(self.trusted)),
        }

    def readonly_nodes(self) -> dict[str, str]:
        """Those of the front end's that the guest may not change."""
        return {"mtu": str(self.mtu)}


def stable_mac(domain: str, devid: int) -> str:
    """An address in Xen's range, the same each time for this card of a domain of this name."""
    digest = hashlib.sha256(f"{domain} vif {devid}".encode()).digest()
    return ":".join([_XEN_OUI, *(f"{byte:02x}" for byte in digest[:3])])


def parse_nic(spec: str) -> NicConfig:
    """Raises PyxenError for what xl would refuse, or what pyxen cannot do."""
    try:
        return _config(spec)
    except PyxenError as error:
        raise PyxenError(f"net {spec!r}: {error}") from None


def _config(spec: str) -> NicConfig:
    given: dict[str, str] = {}
    forwards: list[Forward] = []
    flags: set[str] = set()
    modes: list[str] = []
    for word in spec.split(","):
        word = word.strip()
        key, equals, value = word.partition("=")
        if not word:
            continue
        if key == "hostfwd":
            forwards.append(_forward(value))
        elif equals and key in _KEYS:
            if key in given:
                raise PyxenError(f"{key} is given twice")
            given[key] = value
        elif word in _FLAGS:
            flags.add(word)
        elif word in ("user", "none", "bridge"):
            modes.append(word)
        else:
            raise PyxenError(f"unknown parameter {word!r}")
    mode, peer = _mode(given, modes)
    if (forwards or "host-loopback" in flags) and mode != "user":
        raise PyxenError(f"hostfwd and host-loopback go with user, not with {mode}")
    _refuse_foreign(given)
    return NicConfig(
        mode=mode,
        peer=peer,
        mac=_mac(given["mac"]) if given.get("mac") else "",
        devid=_number(given, "devid", 0, 0xFFFF) if given.get("devid") else None,
        mtu=_number(given, "mtu", 68, 65521) if given.get("mtu") else DEFAULT_MTU,
        rate=parse_rate(given["rate"]) if "rate" in given else None,
        forwards=tuple(forwards),
        host_loopback="host-loopback" in flags,
        pcap=given.get("pcap", ""),
        trusted="untrusted" not in flags,
        ip=given.get("ip", ""),
        extra=_extra(given),
    )


def _mode(given: dict[str, str], modes: list[str]) -> tuple[str, str]:
    named = [key for key in ("bridge", "tap", "switch") if given.get(key)]
    chosen = dict.fromkeys([*modes, *named])
    if len(chosen) > 1:
        raise PyxenError(f"{' and '.join(chosen)} exclude each other")
    mode = next(iter(chosen), "user")
    peer = given.get(mode, _DEFAULT_BRIDGE if mode == "bridge" else "")
    return mode, peer


def _forward(text: str) -> Forward:
    match = _FORWARD.fullmatch(text)
    if match is None:
        raise PyxenError(f"hostfwd: {text!r} is not like tcp:2222:22 or udp:0.0.0.0:5353:53")
    ports = (int(match[3]), int(match[4]))
    if not all(0 < port <= 0xFFFF for port in ports):
        raise PyxenError(f"hostfwd: {text!r}: ports are from 1 to 65535")
    address = (match[2] or "127.0.0.1").strip("[]")
    return Forward(match[1], ports[0], ports[1], address)


def _mac(text: str) -> str:
    if _MAC.fullmatch(text) is None:
        raise PyxenError(f"mac: {text!r} is not like 00:16:3e:12:34:56")
    parts = [int(part, 16) for part in text.split(":")]
    if parts[0] & 1:
        raise PyxenError(f"mac: {text!r} is an address of a group")
    return ":".join(f"{part:02x}" for part in parts)


def _number(given: dict[str, str], key: str, low: int, high: int) -> int:
    text = given[key]
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise PyxenError(f"{key}: {text!r} is no number from {low} to {high}")
    return int(text)


def _extra(given: dict[str, str]) -> dict[str, str]:
    extra = {"gatewaydev": given.get("gatewaydev") or given.get("netdev", "")}
    extra["vifname"] = given.get("vifname", "")
    return {key: value for key, value in extra.items() if value}


def _refuse_foreign(given: dict[str, str]) -> None:
    """What xl can do and pyxen cannot."""
    if given.get("type", "vif") != "vif":
        raise PyxenError("type: pyxen's cards are paravirtual ones (vif)")
    if given.get("backend", "0") not in ("", "0", "Domain-0"):
        raise PyxenError("backend: pyxen serves its cards itself, as domain 0")
    for key in ("script", "vlan"):
        if given.get(key):
            raise PyxenError(f"{key}: pyxen runs no hotplug scripts")
