# SPDX-License-Identifier: GPL-2.0-or-later
"""Who of several domains has a processor. The domains are played by the test, in its own time;
each has its own file and socket, as in a process of its own."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyxen.hypervisor import run_queue
from pyxen.hypervisor.run_queue import ALL, PATIENCE, SLICE, RunQueue, Table

MS = 1_000_000
SECOND = 1000 * MS


class HostTime:
    """Takes the place of the module ``time`` in ``run_queue``."""

    def __init__(self) -> None:
        self.ns = 7 * SECOND

    def monotonic_ns(self) -> int:
        return self.ns

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)


class Player:
    """A domain that wants to run whenever ``wants``; ``ran`` is for how long it has."""

    def __init__(self, host: Host, domid: int, hard: int, soft: int) -> None:
        folder = host.domains / str(domid)
        folder.mkdir()
        self.domid, self.hard, self.soft = domid, hard, soft
        self.queue = RunQueue(host.table, folder, host.domains, domid)
        self.wants = False
        self.running = False
        self.stopped = False
        self.ran = 0
        self._host = host
        self._look_at = 0

    @property
    def cpu(self) -> int:
        words = self.queue._table.words
        return int(words[self.queue._at + run_queue._CPU])

    def act(self, ns: int) -> None:
        """What its process does in so many ns."""
        if self.stopped:
            return
        now = self._host.time.ns
        self.queue.drain()
        if self.running:
            self.ran += ns
            self.queue.charge(ns)
            if not self.wants:
                self.running = False
            elif self.queue.is_told or now >= self._look_at:
                delay = self.queue.look()
                self.running = delay is not None
                self._look_at = now + (delay or 0)  # or take again at once
        if not self.wants:
            self.queue.give()
            self._look_at = 0
        elif not self.running and (self.queue.is_told or now >= self._look_at):
            self.running = self.queue.take(self.hard, self.soft)
            self._look_at = now + (SLICE if self.running else PATIENCE)

    def die(self) -> None:
        """The kernel closes its files, and lets go of its lock."""
        self.queue._table.close()
        self.queue._socket.close()
        self._host.players.remove(self)


class Host:
    """Processors, and the domains that share them."""

    def __init__(self, folder: Path, cpus: int, patch: pytest.MonkeyPatch) -> None:
        self.time = HostTime()
        patch.setattr(run_queue, "time", self.time)
        patch.setattr(os, "sched_getaffinity", lambda pid: set(range(cpus)))
        self.placed: list[set[int]] = []
        patch.setattr(os, "sched_setaffinity", lambda pid, cpus: self.placed.append(set(cpus)))
        self.table = folder / "scheduler"
        self.domains = folder / "domains"
        self.domains.mkdir()
        self.players: list[Player] = []
        self.cpus = cpus
        # With another weight than all the others, so that there are turns; it never runs.
        self.odd = Player(self, 999, ALL, ALL)
        self.odd.queue.set_weight(3)

    def add(
        self, weight: int = 256, hard: int = ALL, soft: int = ALL, domid: int | None = None
    ) -> Player:
        player = Player(self, domid or len(self.players) + 1, hard, soft)
        player.queue.set_weight(weight)
        self.players.append(player)
        return player

    def run(self, ns: int, step: int = MS) -> None:
        for _ in range(ns // step):
            self.time.ns += step
            for player in self.players:
                player.act(step)

    def close(self) -> None:
        for player in (*self.players, self.odd):
            player.queue.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    path = tempfile.mkdtemp(prefix="pyxen-test-")  # short enough for sockets
    yield Path(path)
    shutil.rmtree(path)


@pytest.fixture
def one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    host = Host(folder, 1, monkeypatch)
    yield host
    host.close()


@pytest.fixture
def two(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    host = Host(folder, 2, monkeypatch)
    yield host
    host.close()


def busy(*players: Player) -> None:
    for player in players:
        player.wants = True


@pytest.mark.parametrize("weights", [(256, 512), (1, 2), (256, 256), (65535, 256), (100, 130)])
def test_two_busy_domains_share_by_weight(one: Host, weights: tuple[int, int]) -> None:
    first, second = (one.add(weight) for weight in weights)
    busy(first, second)
    one.run(2 * SECOND)
    # A step passes until who has got the processor notices.
    assert first.ran + second.ran >= 1.6 * SECOND
    share = weights[0] / sum(weights)
    assert first.ran / (first.ran + second.ran) == pytest.approx(share, abs=0.02)


def test_no_processor_is_idle_while_a_domain_waits(two: Host) -> None:
    players = [two.add() for _ in range(5)]
    busy(*players)
    two.run(5 * SECOND)
    assert sum(player.ran for player in players) >= 9 * SECOND
    for player in players:
        assert player.ran == pytest.approx(players[0].ran, rel=0.03)


def test_a_domain_gets_one_processor_at_most_and_is_not_owed_the_rest(two: Host) -> None:
    large, *small = two.add(65535), two.add(), two.add()
    busy(large, *small)
    two.run(5 * SECOND)
    assert large.ran == pytest.approx(5 * SECOND, rel=0.01)
    late = two.add()
    busy(late)
    before = [player.ran for player in small]
    two.run(3 * SECOND)
    assert late.ran == pytest.approx(1 * SECOND, rel=0.15)
    for player, ran in zip(small, before, strict=True):
        assert player.ran - ran == pytest.approx(1 * SECOND, rel=0.15)


def test_one_that_has_slept_runs_soon_and_is_not_owed_its_sleep(one: Host) -> None:
    worker, sleeper = one.add(), one.add()
    busy(worker)
    one.run(10 * SECOND)
    busy(sleeper)
    one.run(4 * MS)
    assert sleeper.running
    one.run(2 * SECOND)
    assert worker.ran - 10 * SECOND == pytest.approx(1 * SECOND, rel=0.1)


def test_one_that_ran_alone_does_not_pay_for_it(one: Host) -> None:
    first, second = one.add(), one.add()
    busy(first)
    one.run(10 * SECOND)
    first.wants = False
    busy(second)
    one.run(5 * MS)
    busy(first)
    one.run(2 * SECOND)
    assert first.ran - 10 * SECOND == pytest.approx(1 * SECOND, rel=0.1)


def test_those_that_sleep_most_of_the_time_wait_little(one: Host) -> None:
    worker, interactive = one.add(), one.add()
    busy(worker)
    one.run(SECOND)
    late = []
    for _ in range(100):
        busy(interactive)
        one.run(MS, step=MS // 4)
        woken = one.time.ns
        while not interactive.running:
            one.run(MS // 4, step=MS // 4)
        late.append(one.time.ns - woken)
        one.run(MS)
        interactive.wants = False
        one.run(20 * MS)
    assert max(late) <= 2 * MS
    assert worker.ran > 2.8 * SECOND


def test_domains_of_the_same_weight_take_no_turns(two: Host) -> None:
    players = [two.add() for _ in range(4)]
    two.odd.queue.set_weight(256)
    busy(*players)
    two.run(SECOND)
    assert [player.ran for player in players] == [players[0].ran] * 4  # by the host's scheduler
    assert players[0].ran > 0.99 * SECOND
    players[0].queue.set_weight(512)
    two.run(100 * MS)
    assert sum(player.running for player in players) == 2
    before = [player.ran for player in players]
    two.run(4 * SECOND)
    ran = [player.ran - was for player, was in zip(players, before, strict=True)]
    assert ran[0] / sum(ran) == pytest.approx(0.4, abs=0.02)
    players[0].queue.set_weight(256)
    two.run(100 * MS)
    assert all(player.running for player in players)


def test_affinity_without_turns(two: Host) -> None:
    two.odd.queue.set_weight(256)
    player = two.add(hard=0b10)
    busy(player)
    two.run(MS)
    assert (player.running, two.placed) == (True, [{1}])


def test_the_last_other_weight_goes(one: Host) -> None:
    first, second = one.add(), one.add(512)
    one.odd.queue.set_weight(256)
    busy(first, second)
    one.run(SECOND)
    assert not (first.running and second.running)
    second.die()
    third = one.add(domid=7)  # which notices
    busy(third)
    one.run(100 * MS)
    assert first.running
    assert third.running


def test_the_rate_limit(one: Host) -> None:
    worker, other = one.add(), one.add()
    table = Table(one.table)
    table.rate_limit_us = 8000
    busy(worker)
    one.run(SECOND)
    worker.wants = False
    one.run(MS)
    busy(worker)
    one.run(MS)
    busy(other)
    one.run(6 * MS)
    assert worker.running
    one.run(4 * MS)
    assert other.running
    table.close()


def test_hard_affinity(two: Host) -> None:
    pinned = [two.add(hard=0b10) for _ in range(2)]
    free = two.add()
    busy(free, *pinned)
    two.run(4 * SECOND)
    for player in pinned:
        assert player.cpu == 1
        assert player.ran == pytest.approx(2 * SECOND, rel=0.1)
    assert free.ran == pytest.approx(4 * SECOND, rel=0.1)
    assert two.placed
    assert all(cpus == {1} for cpus in two.placed)


def test_soft_affinity_is_a_wish(two: Host) -> None:
    wishing = two.add(soft=0b10)
    busy(wishing)
    two.run(MS)
    assert wishing.cpu == 1
    other = two.add(soft=0b10)
    busy(other)
    two.run(MS)
    assert (other.running, other.cpu) == (True, 0)
    assert two.placed == [{1}]


def test_another_affinity_moves_a_domain(two: Host) -> None:
    player = two.add(hard=0b01)
    busy(player)
    two.run(MS)
    assert player.cpu == 0
    player.running, player.hard, player._look_at = False, 0b10, 0
    two.run(MS)
    assert (player.running, player.cpu) == (True, 1)


def test_who_is_killed_leaves_its_processor(one: Host) -> None:
    victim, heir = one.add(), one.add()
    busy(victim)
    one.run(MS)
    busy(heir)
    victim.die()
    one.run(2 * MS)
    assert heir.running
    shutil.rmtree(one.domains / "1")
    assert one.add(domid=1).queue._at == victim.queue._at


def test_one_that_waits_and_is_killed_gets_no_processor(one: Host) -> None:
    holder, victim, other = one.add(), one.add(), one.add()
    busy(holder)
    one.run(MS)
    busy(victim)
    one.run(MS // 2, step=MS // 2)
    victim.die()
    busy(other)
    holder.wants = False
    one.run(2 * MS)
    assert other.running


def test_who_is_stopped_loses_its_turn_and_comes_back(one: Host) -> None:
    stopped, other = one.add(), one.add()
    busy(stopped)
    one.run(MS)
    stopped.stopped = True
    busy(other)
    one.run(PATIENCE // 2)
    assert not other.running
    one.run(PATIENCE)
    assert other.running
    stopped.stopped = False
    one.run(SECOND)
    assert other.ran == pytest.approx(stopped.ran, rel=0.3)


def test_a_lock_that_does_not_come_back_holds_up_nobody(one: Host) -> None:
    player = one.add()
    busy(player)
    with open(one.table, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        before = one.time.ns
        player.act(MS)
        assert player.running
        assert one.time.ns - before <= PATIENCE + MS
        before = one.time.ns
        player.act(MS)  # once bitten
        assert one.time.ns == before
    player.wants = False
    one.time.ns += 2 * SECOND
    player.act(MS)
    assert not player.running


def test_a_table_of_nonsense(one: Host) -> None:
    """Whatever somebody has written into it: the others go on."""
    player, other = one.add(), one.add()
    busy(player, other)
    words = Table(one.table)
    for index in range(1, 64):
        if index not in range(player.queue._at, player.queue._at + 16):
            words.words[index] = (1 << 64) - 1 - index
    one.run(SECOND, step=10 * MS)
    words.close()


def test_who_cannot_be_reached_is_nobodys_concern(one: Host) -> None:
    first, second = one.add(), one.add()
    busy(first)
    one.run(MS)
    shutil.rmtree(one.domains / "1")
    busy(second)
    one.run(SECOND)
    assert first.ran == pytest.approx(second.ran, rel=0.1)
    (one.domains / "1").mkdir()
    (one.domains / "1" / "turn.sock").touch()


def test_a_domain_that_begins_anew_is_told_at_its_new_place(one: Host) -> None:
    first, second = one.add(), one.add()
    (one.domains / "1").rename(one.domains / "9")
    first.queue.renumber(9)
    busy(first)
    one.run(MS)
    first.queue.drain()
    busy(second)
    second.act(MS)
    first.queue._told = False
    first.queue.drain()
    assert first.queue.is_told
    (one.domains / "9").rename(one.domains / "1")


Step = tuple[str, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["wants", "rests", "stops", "goes on", "moves"]), st.integers(0, 5)),
    max_size=40,
)


@given(steps=STEPS, lengths=st.lists(st.integers(1, 40), min_size=40, max_size=40))
@settings(max_examples=25, deadline=None)
def test_two_never_have_one_processor_and_none_is_wasted(
    steps: list[Step], lengths: list[int]
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="pyxen-test-") as name,
        pytest.MonkeyPatch.context() as patch,
    ):
        host = Host(Path(name), 3, patch)
        for index in range(6):
            host.add(weight=100 * (index + 1), hard=(ALL, 0b001, 0b110)[index % 3])
        for (what, index), length in zip(steps, lengths, strict=False):
            player = host.players[index]
            if what in ("wants", "rests"):
                player.wants = what == "wants"
            elif what in ("stops", "goes on"):
                player.stopped = what == "stops"
            else:
                player.hard = (player.hard + 1) % 8
            host.run(length * MS)
            check(host)
        for player in host.players:
            player.stopped = False
        host.run(3 * PATIENCE)
        check(host)
        waiting = [player for player in host.players if player.wants and not player.running]
        for player in waiting:
            allowed = {cpu for cpu in range(3) if (player.hard or 7) >> cpu & 1}
            assert allowed <= {other.cpu for other in host.players if other.running}
        host.close()


def check(host: Host) -> None:
    """Each that runs, and was not taken for dead, has a processor of its own."""
    holders = [player.cpu for player in host.players if player.running and not player.stopped]
    assert len(holders) == len(set(holders))


def test_a_look_is_due_within_a_slice_while_others_wait(one: Host) -> None:
    first, second = one.add(), one.add()
    busy(first)
    one.run(MS)
    busy(second)
    second.act(0)
    first.queue.charge(SLICE)
    delay = first.queue.look()
    assert delay is None or delay <= SLICE
