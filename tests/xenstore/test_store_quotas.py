# SPDX-License-Identifier: GPL-2.0-or-later
"""Quotas of unprivileged domains: where they begin, and which error tells so."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest
from store_peer import Peer, refused

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import Xenstored
from pyxen.xenstore.domains import DomainRecord
from pyxen.xenstore.wire import Message

Guest = Callable[[int], Peer]


def record_of(peer: Peer) -> DomainRecord:
    assert peer.connection.domain is not None
    return peer.connection.domain


def test_nodes(guest: Guest, dom0: Peer) -> None:
    one = guest(1)
    for number in range(99):
        for below in range(9):
            one.mkdir(f"d{number}/n{below}")
    for number in range(9):
        one.mkdir(f"e{number}")
    assert len(record_of(one).nodes) == 1000
    for path in ("f", "d1/n2/x"):
        with refused("ENOSPC"):
            one.mkdir(path)
    one.write("d1/n2", "what is there may change")
    one.remove("e1")
    with refused("ENOSPC"):
        one.mkdir("g/h")
    assert not one.exists("g")
    one.mkdir("g")
    dom0.mkdir("/local/domain/1/x")
    assert len(record_of(one).nodes) == 1001
    assert dom0.call(abi.XS_CONTROL, "check") == ["OK"]


def test_nodes_of_a_transaction_count_at_its_end(guest: Guest, daemon: Xenstored) -> None:
    one = guest(1)
    daemon.quotas.nodes = 10
    for number in range(5):
        one.mkdir(f"n{number}")
    one.start()
    for number in range(5, 9):
        one.mkdir(f"n{number}")
    with refused("ENOSPC"):
        one.end()
    one.start()
    one.mkdir("n5/n6/n7")
    one.end()
    assert len(record_of(one).nodes) == 9
    one.start()
    one.mkdir("n8/n9")
    with refused("ENOSPC"):
        one.end()


def test_the_size_of_a_node(guest: Guest, dom0: Peer) -> None:
    one = guest(1)
    fixed = 24 + 8
    one.write("a", b"x" * (2047 - fixed))
    for path in ("a", "b", "c/d"):
        with refused("ENOSPC"):
            one.write(path, b"x" * (2048 - fixed))
    assert not one.exists("b")
    assert not one.exists("c")
    with refused("ENOSPC"):
        one.mkdir("x" * 2040)
    dom0.write("/local/domain/1/a", b"x" * 4000)
    assert dom0.call(abi.XS_CONTROL, "check") == ["OK"]


def test_the_size_of_a_node_in_a_transaction(guest: Guest) -> None:
    one = guest(1)
    one.write("a", "")
    one.start()
    with refused("ENOSPC"):
        one.write("a", b"x" * 2048)
    with refused("ENOMEM"):
        one.end()
    assert one.read("a") == b""


def test_children_of_a_node(guest: Guest) -> None:
    """The names of children are part of a node."""
    one = guest(1)
    with refused("ENOSPC"):
        for number in range(1000):
            one.mkdir(f"d/{number:0100}")
    assert 15 < len(one.directory("d")) < 21


def test_watches(guest: Guest) -> None:
    one = guest(1)
    for number in range(129):
        one.call(abi.XS_WATCH, "/a", str(number))
    with refused("E2BIG"):
        one.call(abi.XS_WATCH, "/a", "129")
    one.call(abi.XS_UNWATCH, "/a", "5")
    one.call(abi.XS_WATCH, "/a", "129")


def test_transactions(guest: Guest) -> None:
    one = guest(1)
    for number in range(11):
        assert one.call(abi.XS_TRANSACTION_START, "") == [str(number + 1)]
    with refused("ENOSPC"):
        one.call(abi.XS_TRANSACTION_START, "")
    one.transaction = 3
    one.end()
    one.call(abi.XS_TRANSACTION_START, "")


def test_nodes_that_a_transaction_may_look_at(guest: Guest, daemon: Xenstored) -> None:
    one = guest(1)
    daemon.quotas.transaction_nodes = 5
    for number in range(6):
        one.mkdir(f"n{number}")
    one.start()
    for number in range(5):
        one.read(f"n{number}")
    one.read("n0")
    with refused("ENOSPC"):
        one.read("n5")
    with refused("ENOMEM"):
        one.end()


def test_permissions_of_a_node(guest: Guest, dom0: Peer) -> None:
    one = guest(1)
    one.mkdir("a")
    five = ["n1", "r2", "r3", "r4", "r5"]
    one.set_permissions("a", five)
    with refused("ENOSPC"):
        one.set_permissions("a", [*five, "r6"])
    dom0.set_permissions("/local/domain/1/a", [*five, "r6"])


def test_memory(
    guest: Guest, dom0: Peer, daemon: Xenstored, caplog: pytest.LogCaptureFixture
) -> None:
    one = guest(1)
    daemon.quotas.memory = 20_000
    daemon.quotas.memory_soft = 10_000
    with caplog.at_level(logging.WARNING), refused("EIO"):
        for number in range(100):
            one.write(f"n{number}", "x" * 1000)
    assert 17_000 < record_of(one).memory < 20_000
    assert [each.getMessage() for each in caplog.records] == [
        "xenstore: domain 1 exceeds its soft quota of memory"
    ]
    before = record_of(one).memory
    with refused("EIO"):
        one.write("n1", "x" * 2000)
    assert dom0.read("/local/domain/1/n1") == b"x" * 1000
    with refused("ENOMEM"):
        one.read("n1")  # there is no room for the answer either
    assert record_of(one).memory == before
    with refused("ENOMEM"):
        one.call(abi.XS_WATCH, "/a", "t" * 3000)
    one.remove("n1")
    one.write("n1", "x")
    for number in range(15):
        one.remove(f"n{number}")
    for number in range(15):
        one.write(f"n{number}", "x" * 1000)
    assert len(caplog.records) == 1  # a domain does not fill the log


def test_what_replaces_a_value_needs_no_more_memory(guest: Guest, daemon: Xenstored) -> None:
    one = guest(1)
    one.write("a", "x" * 1500)
    daemon.quotas.memory = record_of(one).memory + 500
    one.write("a", "y" * 1500)
    with refused("EIO"):
        one.write("a", "y" * 2000)


def test_a_transaction_that_writes_a_node_again_and_again(guest: Guest) -> None:
    one = guest(1)
    one.start()
    one.write("a", "x" * 1000)
    before = record_of(one).memory
    for _ in range(100):
        one.write("a", "y" * 1000)
    assert record_of(one).memory == before


def test_memory_that_others_free(guest: Guest, dom0: Peer, daemon: Xenstored) -> None:
    one = guest(1)
    one.write("a", "x" * 1500)
    daemon.quotas.memory = record_of(one).memory
    assert one.connection.wanted == 0
    woken = []
    one.connection.wake = lambda: woken.append(one.connection.wanted)
    dom0.remove("/local/domain/1/a")
    assert woken == [16]


def test_memory_of_transactions(guest: Guest, daemon: Xenstored) -> None:
    one = guest(1)
    daemon.quotas.memory = 20_000
    before = record_of(one).memory
    one.start()
    with refused("EIO"):
        for number in range(100):
            one.write(f"n{number}", "x" * 1000)
    with refused("ENOMEM"):
        one.end()
    assert record_of(one).memory == before


def test_memory_is_given_back(guest: Guest, dom0: Peer, daemon: Xenstored) -> None:
    one = guest(1)
    before = record_of(one).memory
    one.watch("a")
    one.write("a/b", "x")
    one.start()
    one.write("a/c", "x")
    one.end()
    one.start()
    one.remove("a")
    one.end(commit=False)
    one.set_permissions("a/b", ["n1", "r2"])
    one.remove("a")
    one.call(abi.XS_UNWATCH, "a", "t")
    one.events()
    assert record_of(one).memory == before
    assert record_of(one).outstanding == 0


def test_a_domain_that_takes_no_answers_is_not_listened_to(guest: Guest) -> None:
    one = guest(1)
    connection = one.connection
    woken = []
    connection.wake = lambda: woken.append(connection.wanted)
    for _ in range(20):
        assert connection.wanted == 16
        connection.receive(Message(abi.XS_READ, 1, 0, b"").pack())
    assert connection.wanted == 0
    woken.clear()
    connection.sent()
    connection.daemon.wake_clients()
    assert woken == [16]


def test_events_that_others_do_not_take_hold_back_their_cause(
    guest: Guest, daemon: Xenstored, dom0: Peer
) -> None:
    now = 100.0
    daemon._clock = lambda: now
    one, two = guest(1), guest(2)
    dom0.set_permissions("/local/domain/1", ["n1", "r2"])
    two.watch("/local/domain/1")
    for number in range(20):
        one.write(f"n{number}", "")
    assert record_of(one).outstanding == 20
    assert one.connection.wanted == 0
    now = 110.0
    assert daemon.drop_old_events() == 10.0
    woken = []
    one.connection.wake = lambda: woken.append(True)
    now = 120.0
    assert daemon.drop_old_events() is None
    assert woken
    assert one.connection.wanted == 16
    assert two.events() == []
    one.write("n1", "again")
    assert two.events() == [("/local/domain/1/n1", "t")]


def test_old_events_are_dropped_in_time(guest: Guest, daemon: Xenstored, dom0: Peer) -> None:
    """By the clock of whoever serves the domains, as long as there are events."""
    now = 100.0
    planned: list[tuple[float, Callable[[], None]]] = []
    daemon._clock = lambda: now
    daemon.later = lambda seconds, work: planned.append((now + seconds, work))
    one, two = guest(1), guest(2)
    dom0.set_permissions("/local/domain/1", ["n1", "r2"])
    two.watch("/local/domain/1")
    planned.clear()
    one.connection.daemon._dropping = False
    one.write("a", "")
    now = 105.0
    one.write("b", "")
    ((when, work),) = planned
    assert when == 120.0
    now = when
    planned.clear()
    work()
    assert record_of(one).outstanding == 1
    ((when, work),) = planned
    assert when == 125.0
    now = when
    planned.clear()
    work()
    assert record_of(one).outstanding == 0
    assert not planned


def test_quotas_are_not_domain_0s(dom0: Peer, daemon: Xenstored) -> None:
    quotas = daemon.quotas
    quotas.nodes = quotas.watches = quotas.transactions = quotas.memory = quotas.node_size = 1
    quotas.transaction_nodes = quotas.node_permissions = quotas.outstanding = 1
    for number in range(5):
        dom0.write(f"/a/{number}", "x" * 4000)
        dom0.watch("/a", str(number))
        dom0.start()
        dom0.transaction = 0
    dom0.set_permissions("/a", ["n0", "r1", "r2", "r3"])
    assert dom0.directory("/a") == ["0", "1", "2", "3", "4"]


def test_no_limit(guest: Guest, dom0: Peer) -> None:
    dom0.call(26, "1", "watches", "0")
    one = guest(1)
    for number in range(300):
        one.call(abi.XS_WATCH, "/a", str(number))
