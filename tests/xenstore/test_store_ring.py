# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's ring, from both sides: a naive front end plays the guest, as the header tells."""

from __future__ import annotations

import logging
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_guest import (
    CONNECTION,
    ERROR,
    FEATURES,
    REQ_CONS,
    REQ_PROD,
    RSP_CONS,
    RSP_PROD,
    WRAP,
    FrontEnd,
)
from store_peer import Peer, refused

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import GuestRing, StoreError, Xenstored
from pyxen.xenstore.connection import Connection
from pyxen.xenstore.requests import unpack


class Guest(FrontEnd):
    """A domain with its page, its ring and its event channel."""

    def __init__(self, daemon: Xenstored, domid: int = 1) -> None:
        super().__init__()
        self.notified = 0
        self.ring: GuestRing | None = None
        daemon.attach = self._attach
        daemon.introduce(domid, 0, 1)
        self.connection = daemon.domains[domid].connection

    def _attach(self, connection: Connection, gfn: int, port: int) -> None:
        self.ring = GuestRing(connection, memoryview(self.page), self._notify)

    def _notify(self) -> None:
        self.notified += 1

    def serve(self) -> None:
        assert self.ring is not None
        self.ring.serve()

    def send(self, data: bytes) -> bytes:
        """Put bytes as there is room, and take all that comes."""
        received = b""
        while True:
            data = data[self.put(data) :]
            self.serve()
            piece = self.take()
            received += piece
            if not data and not piece:
                return received

    def request(self, kind: int, payload: bytes, transaction: int = 0) -> bytes:
        self.number += 1
        header = struct.pack("<4I", kind, self.number, transaction, len(payload))
        answers = []
        for message in self.messages(self.send(header + payload)):
            if message[0] == abi.XS_WATCH_EVENT:
                self.events.append(tuple(unpack(message[3])))
            else:
                answers.append(message)
        ((answer_kind, number, _, answer),) = answers
        assert number == self.number
        if answer_kind == abi.XS_ERROR:
            raise StoreError(unpack(answer)[0])
        return answer


@pytest.fixture
def ring_guest(daemon: Xenstored, dom0: Peer) -> Guest:
    dom0.mkdir("/local/domain/1")
    dom0.set_permissions("/local/domain/1", ["n1"])
    return Guest(daemon)


def test_the_page_at_the_beginning(ring_guest: Guest) -> None:
    assert [ring_guest.get(offset) for offset in range(2048, 2064, 4)] == [0, 0, 0, 0]
    assert ring_guest.get(FEATURES) == 7
    assert (ring_guest.get(CONNECTION), ring_guest.get(ERROR)) == (0, 0)
    assert ring_guest.notified == 1


def test_requests(ring_guest: Guest) -> None:
    ring_guest.write("data/x", "1")
    assert ring_guest.read("/local/domain/1/data/x") == b"1"
    with refused("EACCES"):
        ring_guest.read("/tool")
    assert ring_guest.get(REQ_CONS) == ring_guest.get(REQ_PROD)


def test_messages_larger_than_the_rings(ring_guest: Guest, dom0: Peer) -> None:
    value = bytes(range(256)) * 7
    ring_guest.write("data", value)
    assert ring_guest.read("data") == value
    dom0.write("/local/domain/1/large", b"v" * 4000)
    dom0.set_permissions("/local/domain/1/large", ["n1"])
    assert ring_guest.read("large") == b"v" * 4000


def test_indexes_wrap(ring_guest: Guest) -> None:
    for offset in (REQ_CONS, REQ_PROD):
        ring_guest.set(offset, -100)
    for offset in (RSP_CONS, RSP_PROD):
        ring_guest.set(offset, -7)
    ring_guest.write("data", "x" * 500)
    assert ring_guest.read("data") == b"x" * 500
    assert ring_guest.get(REQ_PROD) < 1024 > ring_guest.get(RSP_PROD)


def test_many_requests_at_once(ring_guest: Guest) -> None:
    message = struct.pack("<4I", abi.XS_READ, 5, 0, 0)
    before = ring_guest.notified
    answers = ring_guest.messages(ring_guest.send(message * 200))
    assert answers == [(abi.XS_ERROR, 5, 0, b"EINVAL\0")] * 200
    assert ring_guest.notified > before


def test_one_notification_for_many_requests(ring_guest: Guest) -> None:
    ring_guest.put(struct.pack("<4I", abi.XS_READ, 5, 0, 0) * 40)
    before = ring_guest.notified
    ring_guest.serve()
    assert ring_guest.notified == before + 1
    assert len(ring_guest.messages(ring_guest.take())) == 40


def test_an_event_of_which_a_part_is_sent_stays(daemon: Xenstored, dom0: Peer) -> None:
    now = 0.0
    daemon._clock = lambda: now
    guest = Guest(daemon)
    dom0.mkdir("/a")
    dom0.set_permissions("/a", ["r0"])
    guest.request(abi.XS_WATCH, b"/a\0" + b"t" * 600 + b"\0")
    dom0.write("/a/first", "")
    dom0.write("/a/second", "")
    dom0.write("/a/third", "")
    now = 30.0
    assert daemon.drop_old_events() is None
    paths = [unpack(payload)[0] for _, _, _, payload in guest.messages(guest.send(b""))]
    assert paths == ["/a/first", "/a/second"]


def test_answers_wait_for_room(ring_guest: Guest, dom0: Peer) -> None:
    """A guest that takes nothing is not listened to after 20 requests."""
    message = struct.pack("<4I", abi.XS_DIRECTORY, 5, 0, 5) + b"data\0"
    dom0.mkdir("/local/domain/1/data")
    for number in range(40):
        dom0.mkdir(f"/local/domain/1/data/{number:060}")
    dom0.set_permissions("/local/domain/1/data", ["n1"])
    for _ in range(30):
        ring_guest.put(message)
        ring_guest.serve()
    assert ring_guest.connection is not None
    assert len(ring_guest.connection.output) == 20
    assert ring_guest.get(RSP_PROD) == 1024
    received = ring_guest.send(b"")
    assert len(ring_guest.messages(received)) == 30
    assert ring_guest.connection.domain is not None
    assert ring_guest.connection.domain.outstanding == 0


def test_events_of_others_arrive(ring_guest: Guest, dom0: Peer) -> None:
    ring_guest.request(abi.XS_WATCH, b"data\0t\0")
    ring_guest.events.clear()
    before = ring_guest.notified
    dom0.write("/local/domain/1/data", "x")
    assert ring_guest.notified == before + 1
    assert ring_guest.messages(ring_guest.take()) == [(abi.XS_WATCH_EVENT, 0, 0, b"data\0t\0")]


def test_reconnection(ring_guest: Guest, dom0: Peer) -> None:
    ring_guest.request(abi.XS_WATCH, b"data\0t\0")
    ring_guest.request(abi.XS_TRANSACTION_START, b"\0")
    ring_guest.put(struct.pack("<4I", abi.XS_READ, 9, 0, 100) + b"half")
    ring_guest.serve()
    ring_guest.put(b"\xff" * 10)
    ring_guest.set(CONNECTION, 1)
    before = ring_guest.notified
    ring_guest.serve()
    assert [ring_guest.get(offset) for offset in range(2048, 2064, 4)] == [0, 0, 0, 0]
    assert (ring_guest.get(CONNECTION), ring_guest.notified) == (0, before + 1)
    dom0.write("/local/domain/1/data", "x")
    assert ring_guest.take() == b""
    with refused("ENOENT"):
        ring_guest.request(abi.XS_READ, b"data\0", transaction=1)
    assert ring_guest.read("data") == b"x"


@pytest.mark.parametrize(("offset", "value"), [(REQ_PROD, 1025), (REQ_CONS, 1), (REQ_PROD, -1)])
def test_indexes_that_run_away(
    ring_guest: Guest, offset: int, value: int, caplog: pytest.LogCaptureFixture
) -> None:
    ring_guest.set(offset, value)
    with caplog.at_level(logging.WARNING):
        ring_guest.serve()
    assert ring_guest.get(ERROR) == abi.XENSTORE_ERROR_RINGIDX
    assert "domain 1 is not served" in caplog.text
    ring_guest.serve()
    assert len(caplog.records) == 1
    ring_guest.set(CONNECTION, 1)
    ring_guest.serve()
    assert ring_guest.get(ERROR) == abi.XENSTORE_ERROR_NONE
    ring_guest.write("data", "x")
    ring_guest.set(REQ_PROD, 5000)
    ring_guest.serve()
    assert ring_guest.get(ERROR) == abi.XENSTORE_ERROR_RINGIDX
    assert len(caplog.records) == 1  # a guest does not fill the log


def test_response_indexes_that_run_away(ring_guest: Guest) -> None:
    ring_guest.set(RSP_CONS, 5)
    ring_guest.put(struct.pack("<4I", abi.XS_READ, 1, 0, 0))
    ring_guest.serve()
    assert ring_guest.get(ERROR) == abi.XENSTORE_ERROR_RINGIDX


def test_a_message_that_is_too_long(ring_guest: Guest) -> None:
    ring_guest.request(abi.XS_WATCH, b"data\0t\0")
    ring_guest.put(struct.pack("<4I", abi.XS_WRITE, 1, 0, 4097))
    ring_guest.serve()
    assert ring_guest.get(ERROR) == abi.XENSTORE_ERROR_PROTO
    assert ring_guest.connection is not None
    assert not ring_guest.connection.watches


def test_introduced_again(ring_guest: Guest, daemon: Xenstored) -> None:
    ring_guest.request(abi.XS_WATCH, b"data\0t\0")
    ring_guest.set(REQ_PROD, 5000)
    ring_guest.serve()
    daemon.introduce(1, 0, 2)
    assert ring_guest.connection is not None
    assert not ring_guest.connection.watches
    ring_guest.write("data", "x")
    assert ring_guest.read("data") == b"x"


def test_a_closed_ring_is_left_alone(ring_guest: Guest, daemon: Xenstored) -> None:
    assert ring_guest.ring is not None
    daemon.release(1)
    ring_guest.ring.close()
    ring_guest.page.clear()


def test_a_page_that_is_none(daemon: Xenstored) -> None:
    with pytest.raises(ValueError, match="4096"):
        GuestRing(daemon.connect(), memoryview(bytearray(100)), lambda: None)


@settings(max_examples=200, deadline=None)
@given(
    writes=st.lists(
        st.tuples(st.integers(0, 2080), st.binary(max_size=40) | st.just(b"\xff" * 4)), max_size=12
    ),
    message=st.binary(max_size=200),
)
def test_a_guest_may_write_anything(writes: list[tuple[int, bytes]], message: bytes) -> None:
    daemon = Xenstored()
    guest = Guest(daemon)
    for offset, data in writes:
        guest.page[offset : offset + len(data)] = data
        guest.put(message) if (guest.get(REQ_PROD) - guest.get(REQ_CONS)) % WRAP <= 1024 else None
        guest.serve()
        guest.set(RSP_CONS, guest.get(RSP_PROD))
    peer = Peer(daemon.connect())
    peer.write("/alive", "x")
    assert peer.call(abi.XS_CONTROL, "check") == ["OK"]
