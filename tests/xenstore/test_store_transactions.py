# SPDX-License-Identifier: GPL-2.0-or-later
"""Transactions: snapshots, real conflicts alone, events at the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from store_peer import Peer, refused

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import Xenstored


@pytest.fixture
def other(daemon: Xenstored) -> Peer:
    return Peer(daemon.connect())


def test_changes_are_seen_at_the_end(dom0: Peer, other: Peer) -> None:
    dom0.start()
    dom0.write("/a/b", "1")
    assert dom0.read("/a/b") == b"1"
    with refused("ENOENT"):
        other.read("/a")
    dom0.end()
    assert other.read("/a/b") == b"1"
    assert other.directory("/a") == ["b"]


def test_changes_can_be_given_up(dom0: Peer, daemon: Xenstored) -> None:
    tree = daemon.database.tree
    dom0.start()
    dom0.write("/a/b", "1")
    dom0.remove("/tool")
    dom0.end(commit=False)
    assert daemon.database.tree is tree


def test_a_transaction_sees_the_store_of_its_start(dom0: Peer, other: Peer) -> None:
    other.write("/a", "old")
    dom0.start()
    other.write("/a", "new")
    other.write("/b", "new")
    assert dom0.read("/a") == b"old"
    with refused("ENOENT"):
        dom0.read("/b")


@pytest.mark.parametrize("change", ["write", "remove", "create", "permissions"])
def test_conflicts(dom0: Peer, other: Peer, change: str) -> None:
    other.write("/d/a", "1")
    dom0.start()
    dom0.directory("/d")
    dom0.read("/d/a")
    dom0.write("/e", "2")
    if change == "write":
        other.write("/d/a", "1")
    elif change == "remove":
        other.remove("/d/a")
    elif change == "create":
        other.mkdir("/d/b")
    else:
        other.set_permissions("/d/a", ["r0"])
    with refused("EAGAIN"):
        dom0.end()
    with refused("ENOENT"):
        other.read("/e")


def test_what_was_not_there_may_not_appear(dom0: Peer, other: Peer) -> None:
    dom0.start()
    with refused("ENOENT"):
        dom0.read("/tool/x")
    other.write("/tool/x", "")
    with refused("EAGAIN"):
        dom0.end()


def test_changes_elsewhere_are_no_conflict(dom0: Peer, other: Peer) -> None:
    for path in ("/a/b", "/c/d", "/e/f"):
        other.write(path, "")
    dom0.start()
    dom0.read("/a/b")
    dom0.write("/c/d", "1")
    other.write("/e/f", "2")
    other.mkdir("/e/g")
    other.remove("/e/f")
    other.write("/a/x", "")  # below a node that was not listed, and beside what was read
    dom0.end()
    assert other.read("/c/d") == b"1"


def test_two_transactions(dom0: Peer, other: Peer) -> None:
    dom0.write("/a", "")
    dom0.write("/b", "")
    dom0.start()
    other.start()
    dom0.read("/a")
    other.read("/b")
    dom0.write("/b", "1")
    other.write("/a", "2")
    dom0.end()
    with refused("EAGAIN"):
        other.end()
    assert (dom0.read("/a"), dom0.read("/b")) == (b"", b"1")


def test_numbers_of_transactions(dom0: Peer) -> None:
    assert dom0.start() == 1
    with refused("EBUSY"):
        dom0.request(abi.XS_TRANSACTION_START, b"\0")
    dom0.end()
    dom0.transaction = 1
    for kind in (abi.XS_READ, abi.XS_TRANSACTION_END):
        with refused("ENOENT"):
            dom0.call(kind, "F")
    dom0.transaction = 0
    with refused("ENOENT"):
        dom0.call(abi.XS_TRANSACTION_END, "T")


def test_events_come_at_the_end(dom0: Peer, other: Peer) -> None:
    dom0.write("/d/e/f", "")
    other.watch("/d")
    other.watch("/d/e/f", "deep")
    dom0.start()
    dom0.write("/d/a", "")
    dom0.write("/d/a", "1")
    dom0.remove("/d/e")
    dom0.write("/d/gone", "")
    dom0.remove("/d/gone")
    assert other.events() == []
    dom0.end()
    assert other.events() == [("/d/a", "t"), ("/d/e", "t"), ("/d/e/f", "deep")]


def test_a_node_that_was_written_and_removed_with_its_parent(dom0: Peer, other: Peer) -> None:
    dom0.write("/d/a", "")
    other.watch("/")
    dom0.start()
    dom0.write("/d/a", "1")
    dom0.remove("/d")
    dom0.end()
    assert other.events() == [("/d/a", "t"), ("/d", "t")]


def test_a_node_removed_and_made_again(dom0: Peer, other: Peer) -> None:
    dom0.write("/d/a", "1")
    other.watch("/d/a")
    dom0.start()
    dom0.remove("/d")
    dom0.write("/d/a", "2")
    dom0.end()
    assert other.events() == [("/d/a", "t")]
    assert other.read("/d/a") == b"2"
    assert other.directory("/d") == ["a"]


def test_a_guest_that_forgets_its_transactions(guest: Callable[[int], Peer]) -> None:
    one = guest(1)
    one.start()
    one.write("a", "1")
    one.transaction = 0
    one.request(abi.XS_RESET_WATCHES, b"\0")
    one.transaction = 1
    with refused("ENOENT"):
        one.read("a")
    assert one.connection.domain is not None
    one.transaction = 0
    before = one.connection.domain.memory
    one.start()
    one.write("a", "1" * 1000)
    assert one.connection.domain.memory > before + 1000
    one.end(commit=False)
    assert one.connection.domain.memory == before
