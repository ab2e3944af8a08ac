# SPDX-License-Identifier: GPL-2.0-or-later
"""How often domains may write while others have transactions."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_peer import Peer

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import Xenstored
from pyxen.xenstore.connection import Connection
from pyxen.xenstore.domains import DomainRecord
from pyxen.xenstore.error import StoreError
from pyxen.xenstore.quotas import Quotas
from pyxen.xenstore.write_rate import WriteRate

READ_HEADER = 16


class Time:
    """A clock, and what is to be done at which time."""

    def __init__(self, daemon: Xenstored) -> None:
        self.now = 50.0
        self.works: list[tuple[float, Callable[[], None]]] = []
        daemon._clock = lambda: self.now
        daemon.later = self._later

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        self.works.append((self.now + seconds, work))

    def pass_by(self, seconds: float) -> None:
        end = self.now + seconds
        while due := [each for each in self.works if each[0] <= end]:
            first = min(due, key=lambda each: each[0])
            self.works.remove(first)
            self.now = first[0]
            first[1]()
        self.now = end


@pytest.fixture
def time(daemon: Xenstored) -> Time:
    return Time(daemon)


def writes_until_held(peer: Peer) -> int:
    """How often it can write the same node until it is not listened to."""
    count = 0
    while peer.connection.wanted and count < 500:
        peer.write("x", "1")
        count += 1
    return count


@pytest.fixture
def one(time: Time, guest: Callable[[int], Peer]) -> Peer:
    peer = guest(1)
    peer.write("x", "")
    return peer


def test_without_transactions_all_is_free(one: Peer) -> None:
    assert writes_until_held(one) == 500


def test_with_one(one: Peer, dom0: Peer, time: Time, caplog: pytest.LogCaptureFixture) -> None:
    """10 at once; then a half of 200 in a second, for domain 0 counts as one, too."""
    dom0.start()
    with caplog.at_level(logging.WARNING):
        assert writes_until_held(one) == 11  # the one that makes it negative counts
    assert caplog.messages == ["xenstore: domain 1 writes more often than it may"]
    woken: list[float] = []
    one.connection.set_wake(lambda: woken.append(time.now))
    time.pass_by(0.009)
    assert one.connection.wanted == 0
    assert not woken
    time.pass_by(0.002)
    assert one.connection.wanted == READ_HEADER
    assert woken == [pytest.approx(50.01)]
    assert writes_until_held(one) == 1
    total = 0
    for _ in range(1000):
        time.pass_by(0.01)
        total += writes_until_held(one)
    assert 990 <= total <= 1010
    assert len(caplog.messages) == 1
    time.pass_by(0.02)
    dom0.end()
    assert writes_until_held(one) == 500


def test_who_waits_longer_may_write_more(one: Peer, dom0: Peer, time: Time) -> None:
    """The reserve has 1000 at most, and first what new domains have borrowed is given back."""
    dom0.start()
    assert writes_until_held(one) == 11
    time.pass_by(1.0)
    assert writes_until_held(one) == 11 + (100 - 1 - 10 - 20)
    time.pass_by(3600)
    assert writes_until_held(one) == 500
    assert writes_until_held(one) == 500
    assert writes_until_held(one) == 11


def test_domain_0_is_free(one: Peer, dom0: Peer) -> None:
    one.start()
    for number in range(300):
        dom0.write("/a", str(number))
    assert dom0.connection.wanted


def test_what_costs(one: Peer, dom0: Peer, daemon: Xenstored) -> None:
    """Each version of a node that is stored, and each node that is removed."""
    record = daemon.domains[1]
    dom0.start()

    def cost(work: Callable[[], object]) -> int:
        before = record.credit
        work()
        return (before - record.credit) // 1000

    assert cost(lambda: one.write("x", "2")) == 1
    assert cost(lambda: one.write("d/a", "")) == 3  # two nodes, and the parent's list
    assert cost(lambda: one.set_permissions("d", ["n1"])) == 1
    assert cost(lambda: one.remove("d")) == 3
    assert cost(lambda: one.read("x")) == 0
    assert cost(lambda: one.call(abi.XS_WATCH, "x", "t")) == 0
    with pytest.raises(StoreError):
        cost(lambda: one.write("/tool", ""))


def test_transactions_cost_one(one: Peer, dom0: Peer, daemon: Xenstored) -> None:
    record = daemon.domains[1]
    before = record.credit
    one.start()
    for number in range(8):
        one.write(f"y/{number}", "")
    one.end()
    assert record.credit == before  # nobody else has one
    dom0.start()
    one.start()
    for number in range(8):
        one.write(f"z/{number}", "")
    assert record.credit == before
    one.end()
    assert record.credit == before - 1000
    one.start()
    one.write("z/1", "1")
    one.end(commit=False)
    assert record.credit == before - 1000


def test_a_transaction_of_domain_0_succeeds(one: Peer, dom0: Peer, time: Time) -> None:
    """Though a domain writes as fast as it can what the transaction relies on."""
    attempts = 0
    while True:
        dom0.start()
        attempts += 1
        dom0.read("/local/domain/1/x")
        time.pass_by(0.002)
        writes_until_held(one)
        with contextlib.suppress(StoreError):
            dom0.end()
            break
        assert attempts < 5


def test_domains_that_go_while_they_rest(
    one: Peer, dom0: Peer, daemon: Xenstored, time: Time
) -> None:
    dom0.start()
    writes_until_held(one)
    daemon.release(1)
    time.pass_by(1.0)
    daemon.introduce(1, 0, 1)
    connection = daemon.domains[1].connection
    assert isinstance(connection, Connection)
    assert connection.wanted


def test_in_a_process_with_its_domain(daemon: Xenstored, guest: Callable[[int], Peer]) -> None:
    """Nobody tells the time, and no transaction of anybody can be overtaken."""
    peer = guest(1)
    Peer(daemon.connect()).start()
    assert writes_until_held(peer) == 500


@settings(max_examples=100, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("awwwr"), st.integers(0, 3), st.integers(0, 3000)), max_size=60
    )
)
def test_credit_stays_in_its_bounds(steps: list[tuple[str, int, int]]) -> None:
    """And is never more than time has given."""
    rate = WriteRate()
    domains = {0: DomainRecord(0, 0, Quotas(), 0)}
    now = 0
    rate.add(domains[0], now)
    for word, domid, passed in steps:
        now += passed
        if word == "a" and domid not in domains:
            domains[domid] = DomainRecord(domid, 0, Quotas(), 0)
            rate.add(domains[domid], now)
        elif word == "r" and domid and domid in domains:
            rate.remove(domains.pop(domid))
        elif word == "w" and domid in domains and domains[domid].credit >= 0:
            rate.charge(domains[domid], now)
            waiting = rate.waiting_time(domains[domid])
            assert (waiting > 0) == (domains[domid].credit < 0)
            if waiting:
                now += waiting
                rate.update(domains[domid], now)
                assert domains[domid].credit >= 0
        for record in domains.values():
            assert -1000 <= record.credit <= 10_000
        assert -50_000 <= rate.reserve <= 1_000_000
        held = sum(record.credit for record in domains.values()) + rate.reserve
        assert held <= 200 * now
