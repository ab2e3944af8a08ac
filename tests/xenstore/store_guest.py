# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's side of a ring of the store, as simply as the header tells it."""

from __future__ import annotations

import struct

from pyxen.xenstore.requests import Requests

REQ_CONS, REQ_PROD, RSP_CONS, RSP_PROD, FEATURES, CONNECTION, ERROR = range(2048, 2076, 4)
WRAP = 2**32


class FrontEnd(Requests):
    """A domain's page."""

    def __init__(self) -> None:
        self.page = bytearray(4096)
        self.events: list[tuple[str, ...]] = []
        self.number = 0

    def get(self, offset: int) -> int:
        value: int = struct.unpack_from("<I", self.page, offset)[0]
        return value

    def set(self, offset: int, value: int) -> None:
        struct.pack_into("<I", self.page, offset, value % WRAP)

    def put(self, data: bytes) -> int:
        """Write what fits into the request ring; returns how much that was."""
        cons, prod = self.get(REQ_CONS), self.get(REQ_PROD)
        size = min(len(data), 1024 - (prod - cons) % WRAP)
        for index in range(size):
            self.page[(prod + index) % 1024] = data[index]
        self.set(REQ_PROD, prod + size)
        return size

    def take(self) -> bytes:
        """What is in the response ring."""
        cons, prod = self.get(RSP_CONS), self.get(RSP_PROD)
        size = (prod - cons) % WRAP
        assert size <= 1024
        data = bytes(self.page[1024 + (cons + index) % 1024] for index in range(size))
        self.set(RSP_CONS, prod)
        return data

    def messages(self, data: bytes) -> list[tuple[int, int, int, bytes]]:
        found = []
        while data:
            kind, number, transaction, size = struct.unpack_from("<4I", data)
            found.append((kind, number, transaction, data[16 : 16 + size]))
            assert len(data) >= 16 + size
            data = data[16 + size :]
        return found
