# SPDX-License-Identifier: GPL-2.0-or-later
"""Extra consoles as xl's users write them: ``name=org.example.agent,connection=pty``.

A specification of ``channel=`` is a list of names with values. ``connection=pty`` connects the
console with a new pseudo-terminal, ``connection=socket`` with a unix socket that listens at
``path=``, for one client after the other. The name is for the guest, which finds the console by it.
Two are pyxen's own: ``limit=``, how many bytes of output are kept while nobody takes them, and
``overflow=``, what is then done: ``discard`` the middle, or ``keep`` the guest waiting.

The consoles are numbered from 1 on; Linux makes ``/dev/hvc1`` of the first, and can use nine.

Reference: ``xl.cfg(5)``, ``xen-pv-channel(7)``.
"""

from __future__ import annotations

import logging
from typing import Final

from msgspec import Struct

from pyxen.backends.console.buffer import DEFAULT_LIMIT
from pyxen.errors import PyxenError

log = logging.getLogger("pyxen")

CONNECTIONS: Final = ("pty", "socket")
OVERFLOWS: Final = ("discard", "keep")
_KEYS: Final = ("backend", "name", "connection", "path", "limit", "overflow")
_PROTOCOL: Final = "vt100"
_MAX_LIMIT: Final = 1 << 30


class ChannelConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One extra console. ``devid`` is None until the domain is known."""

    name: str
    connection: str
    path: str = ""
    limit: int = DEFAULT_LIMIT
    overflow: str = OVERFLOWS[0]
    devid: int | None = None

    def backend_nodes(self) -> dict[str, str]:
        """What the tool stack writes for the back end, as libxl does."""
        nodes = {"protocol": _PROTOCOL, "name": self.name, "connection": self.connection}
        if self.path:
            nodes["path"] = self.path
        return nodes

    def frontend_nodes(self) -> dict[str, str]:
        """The same for the front end."""
        return {"protocol": _PROTOCOL}

    def readonly_nodes(self) -> dict[str, str]:
        """Those of the front end's that the guest may not change."""
        socket = f"chardev:libxl-channel{self.devid}"
        return {
            "name": self.name,
            "limit": str(self.limit),
            "type": "ioemu",
            "output": "pty" if self.connection == "pty" else socket,
            "tty": "",
        }


def parse_channel(spec: str) -> ChannelConfig:
    """Raises PyxenError for what xl would refuse, or what pyxen cannot do."""
    try:
        return _config(spec)
    except PyxenError as error:
        raise PyxenError(f"channel {spec!r}: {error}") from None


def _config(spec: str) -> ChannelConfig:
    given: dict[str, str] = {}
    for word in spec.split(","):
        key, equals, value = (part.strip() for part in word.partition("="))
        if not word.strip():
            continue
        if not equals or not value or "=" in value:
            raise PyxenError(f"{word.strip()!r} is not like name=value")
        if key not in _KEYS:
            log.warning("channel %r: the unknown parameter %r is ignored", spec, key)
        given[key] = value
    connection = given.get("connection", "")
    if connection not in CONNECTIONS:
        raise PyxenError(f"connection: {connection!r} is none of {', '.join(CONNECTIONS)}")
    if connection == "socket" and "path" not in given:
        raise PyxenError("a socket needs path=")
    if "name" not in given:
        raise PyxenError("it has no name")
    if given.get("backend", "0") not in ("0", "Domain-0"):
        raise PyxenError("backend: pyxen serves its consoles itself, as domain 0")
    overflow = given.get("overflow", OVERFLOWS[0])
    if overflow not in OVERFLOWS:
        raise PyxenError(f"overflow: {overflow!r} is none of {', '.join(OVERFLOWS)}")
    return ChannelConfig(
        name=given["name"],
        connection=connection,
        path=given["path"] if connection == "socket" else "",
        limit=_limit(given["limit"]) if "limit" in given else DEFAULT_LIMIT,
        overflow=overflow,
    )


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 12 and 0 < int(text) <= _MAX_LIMIT):
        raise PyxenError(f"limit: {text!r} is no number of bytes from 1 to {_MAX_LIMIT}")
    return int(text)
