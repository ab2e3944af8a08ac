# SPDX-License-Identifier: GPL-2.0-or-later
"""The state of a store as a stream, in the format of xenstore-migration.md."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_peer import Peer, refused

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import StoreError, Xenstored
from pyxen.xenstore.connection import Connection
from pyxen.xenstore.migration import dump, restore
from pyxen.xenstore.permissions import NONE, READ, Permission
from pyxen.xenstore.stream import (
    ConnectionState,
    DomainState,
    NodeState,
    State,
    StreamError,
    WatchState,
    pack,
    unpack,
)

ROOT = NodeState("/", b"", (Permission(0, NONE),))
NAMES = ["a", "b", "c", "long-name"]


def copy(daemon: Xenstored) -> tuple[Xenstored, list[Connection]]:
    """Another store with the same state, by way of a stream; and its connections."""
    state, rest = unpack(pack(dump(daemon)[0]) + b"rest")
    assert rest == b"rest"
    other = Xenstored()
    connections = restore(other, state)
    for entry in state.connections:
        if entry.unread:
            connections[entry.number].receive(entry.unread)
    return other, list(connections.values())


# The format


def test_the_bytes_of_a_stream() -> None:
    """Built by hand as the document tells."""
    state = State(
        listener=7,
        quotas={"nodes": 1000, "memory": 5},
        domains=[DomainState(3, 5, {"watches": 9})],
        connections=[
            ConnectionState(1, fd=8, unread=b"abc"),
            ConnectionState(2, domid=3, target=4, port=11, unsent=b"pp" + b"x" * 7, partial=2),
            ConnectionState(3, domid=5, port=12),
        ],
        watches=[WatchState(1, "/a", "t"), WatchState(2, "data", "", 1)],
        transactions=[(1, 77)],
        nodes=[
            ROOT,
            NodeState("/a", b"\0v", (Permission(3, READ), Permission(9, NONE, ignored=True))),
        ],
    )

    def record(kind: int, body: bytes) -> bytes:
        return struct.pack("<II", kind, len(body)) + body + bytes(-len(body) % 8)

    expected = bytes.fromhex("78656e73746f7265 00000002 00000000")
    expected += record(1, struct.pack("<ii", 7, -1))
    expected += record(6, struct.pack("<HHII", 2, 0, 1000, 5) + b"nodes\0memory\0")
    expected += record(7, struct.pack("<HHII", 3, 1, 5, 9) + b"watches\0")
    expected += record(2, struct.pack("<IHHiiHHI", 1, 1, 0, 8, 0, 3, 0, 0) + b"abc")
    expected += record(2, struct.pack("<IHHHHIHHI", 2, 0, 0, 3, 4, 11, 0, 2, 9) + b"ppxxxxxxx")
    expected += record(2, struct.pack("<IHHHHIHHI", 3, 0, 0, 5, 0x7FF4, 12, 0, 0, 0))
    expected += record(8, struct.pack("<IHHHH", 1, 3, 2, 0xFFFF, 0) + b"/a\0t\0")
    expected += record(8, struct.pack("<IHHHH", 2, 5, 1, 1, 0) + b"data\0\0")
    expected += record(4, struct.pack("<II", 1, 77))
    expected += record(5, struct.pack("<IIHHHH", 0, 0, 2, 0, 0, 1) + b"n\0\0\0" + b"/\0")
    permissions = b"r\0\x03\0" + b"n\x01\x09\0"
    expected += record(5, struct.pack("<IIHHHH", 0, 0, 3, 2, 0, 2) + permissions + b"/a\0\0v")
    expected += record(0, b"")
    assert pack(state) == expected
    assert unpack(expected) == (state, b"")


def test_a_stream_of_xen_4_17() -> None:
    """Version 1, big-endian, with a transaction's node and a record of later times."""
    header = bytes.fromhex("78656e73746f7265 00000001 00000001")

    def record(kind: int, body: bytes) -> bytes:
        return struct.pack(">II", kind, len(body)) + body + bytes(-len(body) % 8)

    data = header + record(1, struct.pack(">ii", 5, 6))
    data += record(2, struct.pack(">IHHiiHHI", 1, 1, 0, 8, 0, 0, 0, 0))
    data += record(3, struct.pack(">IHH", 1, 3, 2) + b"/a\0t\0")
    data += record(5, struct.pack(">IIHHHH", 0, 0, 2, 1, 0, 1) + b"r\0\0\x02" + b"/\0v")
    data += record(5, struct.pack(">IIHHHH", 1, 5, 2, 0, 1, 0) + b"/\0")
    data += record(99, b"?") + record(0, b"")
    state, rest = unpack(data)
    assert state == State(
        listener=5,
        connections=[ConnectionState(1, fd=8)],
        watches=[WatchState(1, "/a", "t")],
        nodes=[NodeState("/", b"v", (Permission(2, READ),))],
    )
    assert rest == b""


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "too short"),
        (b"xenstorf" + bytes(8), "no stream"),
        (b"xenstore" + bytes(8), "no stream"),
        (bytes.fromhex("78656e73746f7265 00000002 00000000"), "does not end"),
    ],
)
def test_what_is_no_stream(data: bytes, reason: str) -> None:
    with pytest.raises(StreamError, match=reason):
        unpack(data)


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 10**6), place=st.integers(0, 10**6), new=st.binary(max_size=8))
def test_damaged_streams(cut: int, place: int, new: bytes) -> None:
    """They are refused, or have another state; nothing else happens."""
    daemon = random_store(random.Random(5))
    data = bytearray(pack(dump(daemon)[0]))
    data[place % len(data) : place % len(data) + len(new)] = new
    if cut % 3 == 0:
        del data[cut % len(data) :]
    with contextlib.suppress(StreamError):
        state, _ = unpack(bytes(data))
        restore(Xenstored(), state)


def test_states_that_cannot_be() -> None:
    lost = NodeState("/a/b", b"", ROOT.permissions)
    nobody = [WatchState(1, "/", "t")]
    domain = ConnectionState(1, domid=3, port=1)
    for state, reason in (
        (State(), "no root"),
        (State(nodes=[ROOT, lost]), "its parent is not there"),
        (State(nodes=[ROOT, ROOT]), "twice"),
        (State(nodes=[ROOT], watches=nobody), "no connection 1"),
        (State(nodes=[ROOT], transactions=[(4, 1)]), "no connection 4"),
        (State(nodes=[ROOT], connections=[domain, domain]), "cannot be introduced"),
        (State(nodes=[ROOT], connections=[ConnectionState(1, domid=0x7FF1)]), "be introduced"),
    ):
        with pytest.raises(StreamError, match=reason):
            restore(Xenstored(), state)


# A store and its copy


def random_store(choose: random.Random) -> Xenstored:
    """What a random number of requests of several clients leaves."""
    daemon = Xenstored()
    peers = [Peer(daemon.connect()) for _ in range(2)]
    for domid in (1, 2, 3):
        daemon.introduce(domid, 0, domid + 10)
        peers[0].mkdir(f"/local/domain/{domid}")
        peers[0].set_permissions(f"/local/domain/{domid}", [f"n{domid}"])
        connection = daemon.domains[domid].connection
        assert connection is not None
        peers.append(Peer(connection))

    def path() -> str:
        start = choose.choice(["", "/", "/local/domain/1/", "/local/domain/2/", "/d/"])
        return start + "/".join(choose.choices(NAMES, k=choose.randint(1, 3)))

    def permissions() -> list[str]:
        chosen = [choose.choice("nrwb") + choose.choice("012378") for _ in range(4)]
        return chosen[: choose.randint(1, 4)]

    def requests(peer: Peer) -> list[Callable[[], object]]:
        return [
            lambda: peer.write(path(), choose.randbytes(choose.choice([0, 3, 300]))),
            lambda: peer.mkdir(path()),
            lambda: peer.remove(path()),
            lambda: peer.set_permissions(path(), permissions()),
            lambda: peer.call(abi.XS_WATCH, path(), choose.choice(NAMES), *depth()),
            lambda: peer.call(abi.XS_UNWATCH, path(), choose.choice(NAMES)),
            peer.start,
            lambda: peer.end(choose.random() < 0.7),
            lambda: peer.request(26, b"1\0watches\0" + b"%d\0" % choose.randint(5, 200)),
            lambda: peer.call(abi.XS_SET_TARGET, "1", "2"),
            lambda: peer.request(abi.XS_SET_PERMS, b"@releaseDomain\0n0\0r2\0"),
            lambda: peer.call(abi.XS_RELEASE, "3"),
        ]

    def depth() -> list[str]:
        return choose.choice([[], ["0"], ["2"]])

    for _ in range(choose.randint(0, 120)):
        peer = choose.choice(peers)
        if choose.random() < 0.3:
            peer.transaction = 0
        with contextlib.suppress(StoreError):
            choose.choice(requests(peer))()
    for peer in peers:
        output = peer.connection.output
        if not peer.connection.ignored and choose.random() < 0.5:
            peer.connection.receive(b"\x02\0\0\0\x07\0"[: choose.randint(1, 6)])
        if output and choose.random() < 0.5:
            output[0].sent = choose.randint(1, output[0].size - 1)
    return daemon


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_copy_is_the_same(seed: int) -> None:
    daemon = random_store(random.Random(seed))
    other, _ = copy(daemon)
    assert dump(other)[0] == dump(daemon)[0]
    for domid, record in daemon.domains.items():
        of_other = other.domains[domid]
        assert of_other.nodes == record.nodes
        assert of_other.watches == record.watches
        assert of_other.introduced == record.introduced
        assert of_other.port == record.port
        held = 0
        if record.connection is not None:
            held = sum(each.memory for each in record.connection.transactions.values())
            for each in record.connection.output:  # the rest of one counts as a message
                held += each.sent - 16 if each.sent else 0
        assert of_other.memory == record.memory - held
    peer = Peer(other.connect())
    assert peer.call(abi.XS_CONTROL, "check") == ["OK"]


def test_a_copy_goes_on(daemon: Xenstored, dom0: Peer, guest: Callable[[int], Peer]) -> None:
    one = guest(1)
    two = guest(2)
    one.watch("data", "t")
    one.write("data/x", "1")
    dom0.set_permissions("/local/domain/1/data", ["n1", "r2"])
    assert one.events() == [("data/x", "t"), ("data", "t")]
    one.start()
    one.write("data/x", "lost")
    one.connection.receive(struct.pack("<4I", abi.XS_READ, 9, 0, 5) + b"dat")
    dom0.request(abi.XS_SET_PERMS, b"@releaseDomain\0n0\0r1\0")
    two.watch("@releaseDomain", "r")
    dom0.write("/local/domain/1/data", "2")  # its event waits
    other, (dom0_connection, one_connection, two_connection) = copy(daemon)
    dom0_again, one_again = Peer(dom0_connection), Peer(one_connection)
    one_again.transaction = one.transaction
    assert one_again.read("data/x") == b"1"
    one_again.write("data/x", "once more")
    with refused("EAGAIN"):
        one_again.end()
    assert dom0_again.read("/local/domain/1/data/x") == b"1"
    one_connection.receive(b"a\0")
    messages = [each.message for each in one_connection.output]
    assert [(each.type, each.request, each.payload) for each in messages] == [
        (abi.XS_READ, 9, b"2"),
    ]
    one_connection.sent()
    assert one_again.events() == [("data", "t")]
    two_again = Peer(two_connection)
    assert two_again.read("/local/domain/1/data") == b"2"
    with refused("EACCES"):
        two_again.read("/local/domain/1/data/x")
    other.release(1)
    assert two_again.events() == []  # it may not hear of it
    other.introduce(1, 0, 1)
    assert other.domains[1].nodes == set()
