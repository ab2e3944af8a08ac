# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of a store in the test's process, with any domain's rights."""

from __future__ import annotations

import pytest

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import StoreError
from pyxen.xenstore.connection import Connection
from pyxen.xenstore.requests import Requests, pack, unpack
from pyxen.xenstore.wire import Message


class Peer(Requests):
    """A client by its connection: takes its answers at once, and keeps its events."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.number = 0
        self.transaction = 0
        self._waiting: list[Message] = []

    def ask(self, kind: int, payload: bytes) -> Message:
        """The answer, whatever it is."""
        self.number += 1
        message = Message(kind, self.number, self.transaction, payload)
        self.connection.daemon.serve(self.connection, message)
        self._take()
        (answer,) = [each for each in self._waiting if each.type != abi.XS_WATCH_EVENT]
        self._waiting.remove(answer)
        assert (answer.request, answer.transaction) == (self.number, self.transaction)
        return answer

    def request(self, kind: int, payload: bytes) -> bytes:
        answer = self.ask(kind, payload)
        if answer.type == abi.XS_ERROR:
            raise StoreError(unpack(answer.payload)[0])
        assert answer.type == kind
        return answer.payload

    def call(self, kind: int, *strings: str) -> list[str]:
        return unpack(self.request(kind, pack(*strings)))

    def _take(self) -> None:
        while self.connection.output:
            self._waiting.append(self.connection.output[0].message)
            self.connection.sent()

    def events(self) -> list[tuple[str, str]]:
        """(path, token) of all events since the last call."""
        self._take()
        events = [tuple(unpack(each.payload)) for each in self._waiting]
        self._waiting.clear()
        return events

    def watch(self, path: str, token: str = "t", *depth: str) -> None:
        """Add a watch and check its first event."""
        self.call(abi.XS_WATCH, path, token, *depth)
        assert self.events()[-1] == (path, token)

    def start(self) -> int:
        """Begin a transaction and use it from now on."""
        self.transaction = 0
        self.transaction = int(self.call(abi.XS_TRANSACTION_START, "")[0])
        return self.transaction

    def end(self, commit: bool = True) -> None:
        try:
            self.call(abi.XS_TRANSACTION_END, "T" if commit else "F")
        finally:
            self.transaction = 0


def refused(name: str) -> pytest.RaisesExc[StoreError]:
    """Expect an error."""
    return pytest.raises(StoreError, match=f"^{name}$")
