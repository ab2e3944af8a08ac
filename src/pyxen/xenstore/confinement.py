# SPDX-License-Identifier: GPL-2.0-or-later
"""A client with domain 0's rights to the nodes of one domain, and to nothing else.

It is for the process in which a domain lives: should the guest have that, it is not to reach other
domains by the store, nor what CONTROL can do to the server. Whoever made the connection asks for
it (``confine``) before he passes it on, and there is no way back.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import paths
from pyxen.xenstore.error import StoreError, StoreGone
from pyxen.xenstore.requests import pack, unpack
from pyxen.xenstore.wire import Message, Parser, ProtocolError, decode

CONFINE: Final = "confine"
_ANY: Final = "*"
_READING: Final = (
    abi.XS_READ,
    abi.XS_DIRECTORY,
    abi.XS_DIRECTORY_PART,
    abi.XS_GET_PERMS,
    abi.XS_WATCH,
    abi.XS_UNWATCH,
)
_CHANGING: Final = (abi.XS_WRITE, abi.XS_MKDIR, abi.XS_RM, abi.XS_SET_PERMS)
_OF_A_DOMAIN: Final = (abi.XS_INTRODUCE, abi.XS_IS_DOMAIN_INTRODUCED, abi.XS_GET_DOMAIN_PATH)
_OF_ITSELF: Final = (abi.XS_TRANSACTION_START, abi.XS_TRANSACTION_END, abi.XS_RESET_WATCHES)
_COMMANDS: Final = ("guest-connect", "guest-stopped")


class Confinement(Struct, frozen=True):
    """``places`` are the nodes that the client may change, with all below them; in their paths
    ``*`` stands for any one name. It may look at those above them, too."""

    domid: int
    places: tuple[str, ...]

    def check(self, message: Message) -> None:
        """Raises EACCES for what the client may not do."""
        kind = message.type
        first, *more = [decode(word) for word in message.payload.split(b"\0")]
        if kind in _READING or kind in _CHANGING:
            permitted = self._holds(first, above=kind in _READING)
        elif kind in _OF_A_DOMAIN:
            permitted = first == str(self.domid)
        elif kind == abi.XS_CONTROL:
            domid, *removes = more[:-1] or [""]
            own = first in _COMMANDS and domid == str(self.domid)
            permitted = own and set(removes) <= set(self.places)
        else:
            permitted = kind in _OF_ITSELF
        if not permitted:
            raise StoreError("EACCES")

    def _holds(self, path: str, *, above: bool) -> bool:
        names = paths.resolve(path, paths.domain_directory(0)).split("/")
        for place in self.places:
            expected = place.split("/")
            below = len(names) >= len(expected)
            if (below or above) and all(
                name == each or (each == _ANY and name)
                for name, each in zip(names, expected, strict=False)
            ):
                return True
        return False


def confine(connection: socket.socket, domid: int, places: Sequence[str], timeout: float) -> None:
    """Confine a new connection with a server. Raises StoreError, and StoreGone if the server does
    not answer in time."""
    message = Message(abi.XS_CONTROL, 0, 0, pack(CONFINE, str(domid), *places))
    parser = Parser()
    answer = None
    connection.settimeout(timeout)
    try:
        connection.sendall(message.pack())
        while answer is None:
            data = connection.recv(parser.wanted)
            if not data:
                raise StoreGone("xenstore: the server has ended the connection")
            answer = parser.feed(data)
    except (OSError, ProtocolError) as error:
        raise StoreGone(f"xenstore: {error}") from None
    finally:
        connection.settimeout(None)
    if answer.type == abi.XS_ERROR:
        raise StoreError(unpack(answer.payload)[0])
