# SPDX-License-Identifier: GPL-2.0-or-later
"""Messages of the wire protocol: a header of four words and up to 4096 bytes (``xs_wire.h``).

A request's payload is mostly strings, each ended by a zero byte. What arrives comes in any pieces;
``Parser`` collects them.
"""

from __future__ import annotations

from msgspec import Struct

from pyxen.abi.io_xs_wire import XENSTORE_PAYLOAD_MAX, XSD_SOCKMSG
from pyxen.xenstore.error import StoreError


class ProtocolError(Exception):
    """The peer cannot be understood any more: its connection ends."""


class Message(Struct):
    """``type`` is one of XS_*; an answer has the same ``request`` and ``transaction`` numbers."""

    type: int
    request: int
    transaction: int
    payload: bytes

    def pack(self) -> bytes:
        """As it goes over the wire."""
        header = XSD_SOCKMSG.pack(self.type, self.request, self.transaction, len(self.payload))
        return header + self.payload

    def strings(self) -> list[bytes]:
        """All strings; what stands behind the last zero byte is ignored."""
        return self.payload.split(b"\0")[:-1]

    def one_string(self) -> str:
        """The one string that the payload is. Raises EINVAL."""
        if self.payload.count(b"\0") != 1 or self.payload[-1]:
            raise StoreError("EINVAL")
        return decode(self.payload[:-1])


def decode(text: bytes) -> str:
    """A path or token as text; bytes beyond ASCII stay what they are."""
    return text.decode("latin-1")


def encode(text: str) -> bytes:
    """The reverse of ``decode``."""
    return text.encode("latin-1")


class Parser:
    """From bytes to messages. Holds less than one message."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._needed = XSD_SOCKMSG.size

    @property
    def wanted(self) -> int:
        """How many bytes the header lacks, or else the message; more must not be fed."""
        return self._needed - len(self._data)

    @property
    def pending(self) -> bytes:
        """What there is of a message."""
        return bytes(self._data)

    def feed(self, data: bytes | memoryview) -> Message | None:
        """Take at most ``wanted`` bytes; returns the message if they complete one.

        Raises ProtocolError for one that is longer than is allowed.
        """
        self._data += data
        if len(self._data) < self._needed:
            return None
        kind, request, transaction, length = XSD_SOCKMSG.unpack_from(self._data)
        if length > XENSTORE_PAYLOAD_MAX:
            raise ProtocolError(f"a message of {length} bytes, at most {XENSTORE_PAYLOAD_MAX}")
        self._needed = XSD_SOCKMSG.size + length
        if len(self._data) < self._needed:
            return None
        payload = bytes(self._data[XSD_SOCKMSG.size :])
        self._data.clear()
        self._needed = XSD_SOCKMSG.size
        return Message(kind, request, transaction, payload)
