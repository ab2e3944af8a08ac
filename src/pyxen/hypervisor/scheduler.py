# SPDX-License-Identifier: GPL-2.0-or-later
"""Which vCPU runs, and when waiting ends.

The vCPUs of a domain share one thread. Who has run least runs next: each vCPU has a *virtual time*
that grows while it runs, and those that wait for the processor are sorted by it. A vCPU runs until
it blocks, yields, or its time slice is over while another one waits. One that has slept is not
owed all that time: its virtual time is set to a little before that of the others, so that it runs
soon, and the vCPU that runs has to make way for it, but not before it has run for a moment (as
Xen's ``sched_ratelimit_us``) and for as long as it had to wait itself. Else many vCPUs that wake
all the time, such as forty with a timer tick each, would leave nothing to one that works.

A *cap* limits what the vCPUs of the domain use together, in percent of one processor. It is a
budget for each period of 10 ms, as in Xen's credit2; when it is used up, all vCPUs wait for the
next period. What was used too much is taken from the periods that follow.

What counts is the time for which the thread really had a processor. While the host gives it to
others, the vCPU whose turn it is can run and does not: it is *runnable*, which its guest sees as
stolen time. Domains that share their host's processors take turns (``Turns``), see ``run_queue``.

When none can run, the thread sleeps until the next deadline or until something is posted from
another thread. While guest code runs the engine looks at the clock: it returns when the next
deadline has come.
"""

from __future__ import annotations

import threading
from heapq import heapify, heappop, heappush
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final, Protocol

from pyxen.abi.vcpu import RUNSTATE_blocked, RUNSTATE_offline, RUNSTATE_runnable, RUNSTATE_running
from pyxen.engine.protocol import NEVER
from pyxen.hypervisor.timers import NO_DEADLINE, PERIODIC
from pyxen.hypervisor.vcpu import ANY_PORT

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

TIME_SLICE: Final = 10_000_000
RATE_LIMIT: Final = 500_000
"""A vCPU runs for at least so long before one that was woken takes its place."""
_PREFERENCE: Final = TIME_SLICE
"""So far before the others a vCPU that has slept is set."""
_CAP_PERIOD: Final = 10_000_000
_MADE_UP: Final = 10
"""So many periods of a cap can be made up for."""
_STOLEN_TOLD: Final = 100_000
"""So much stolen time is told to the guest at once."""
_RETRY: Final = 100_000_000
"""So often a domain that waits for its turn asks for it."""
_LONG: Final = 10.0
_NOT_WAITING: Final = 0


class Turns(Protocol):
    """When a domain may use a processor of its host; ``RunQueue`` is one. Affinities are masks.

    ``slice`` is in how many ns to ``look`` after the domain has begun to run; 0 for never.
    """

    slice: int

    @property
    def is_told(self) -> bool:
        """Whether there is a reason to ``look`` at once."""

    def take(self, hard: int, soft: int) -> bool:
        """The domain wants to run a vCPU, or goes on; True if it may."""

    def look(self) -> int | None:
        """While it runs: in how many ns to look again, or None when its turn is over."""

    def charge(self, used: int) -> None:
        """It has used so many ns of processor time."""

    def give(self) -> None:
        """It does not want to run."""


class NoTurns:
    """A domain that runs when it likes."""

    slice = 0
    is_told = False

    def take(self, hard: int, soft: int) -> bool:
        return True

    def look(self) -> int | None:
        return 0

    def charge(self, used: int) -> None: ...

    def give(self) -> None: ...


class Scheduler:
    """The loop of the thread that runs the vCPUs.

    ``switching`` is set when the vCPU that runs shall make way for another one; ``pollers`` are
    the indices of the vCPUs that are blocked in a poll.
    """

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._deadline = NO_DEADLINE
        self._wake = threading.Event()
        self.switching = False
        self._yielding = False

        self._current: Vcpu | None = None
        self._started = 0
        self._settled = 0
        self._charged = 0
        self._slice_end = NO_DEADLINE

        self._virtual_times = [0] * len(domain.vcpus)
        self._floor = 0
        self._queue: list[tuple[int, int, int]] = []  # virtual time, ticket, index of the vCPU
        self._tickets = [_NOT_WAITING] * len(domain.vcpus)
        self._last_ticket = 0
        self._waiting = 0

        self.pollers: set[int] = set()

        self._allowance = 0
        self._budget = 0
        self._period_end = 0

        self._processor_time = 0
        self._stolen = 0
        self._turns: Turns = NoTurns()
        self._turn_end = NO_DEADLINE

    def share(self, turns: Turns) -> None:
        """Take turns with other domains; before ``run``."""
        self._turns = turns

    def wake(self) -> None:
        """From any thread: end the sleep of an idle domain."""
        self._wake.set()

    def wait_woken(self) -> None:
        """Sleep until ``wake``, if it was not called since the last time."""
        self._wake.wait()
        self._wake.clear()

    def run(self) -> None:
        """Run the vCPUs until the domain stops."""
        try:
            self._run()
        finally:
            self._turns.give()

    def _run(self) -> None:
        domain = self._domain
        engine = domain.engine
        counters = domain.counters
        while not domain.stopping:
            self._wake.clear()
            domain.attend()
            if self._stopping():
                break
            vcpu = self._schedule()
            if vcpu is None:
                self._idle()
                continue
            domain.traps.return_to_guest(vcpu)
            if vcpu.runnable and not self.switching and not self._stopping():
                start = perf_counter_ns()
                engine.run(vcpu.cpu)
                counters.engine_ns += perf_counter_ns() - start
        now = domain.clock.now()
        self._charge(now)
        self._switch(None, now)

    def _stopping(self) -> bool:
        return bool(self._domain.stopping)

    # Choosing

    def _schedule(self) -> Vcpu | None:
        """The vCPU that runs from now on: the one that ran, or the next one."""
        now = self._domain.clock.now()
        current = self._current
        self._charge(now)
        if current is not None:
            if current.runnable and not self.switching and not self._exhausted():
                return current
            if current.runnable:
                self._enqueue(current)
        self.switching = self._yielding = False
        vcpu = None if self._exhausted() else self._pop()
        if vcpu is None:
            self._turns.give()
        elif not self._turns.take(vcpu.hard_affinity, vcpu.soft_affinity):
            self._enqueue(vcpu)
            vcpu = None
        self._switch(vcpu, now)
        return self._current

    def _switch(self, vcpu: Vcpu | None, now: int) -> None:
        old = self._current
        self._current = vcpu
        if old is None:
            self._processor_time = self._domain.engine.processor_time()
        elif old is not vcpu:
            self._tell_stolen(old, now)
            old.set_runstate(old.waiting_state(), now)
            old.update_runstate_area()
            self._domain.timers.set(old, PERIODIC, NO_DEADLINE)
        if vcpu is not None:
            waited = 0
            if vcpu is not old:
                if vcpu.runstate == RUNSTATE_runnable:
                    waited = now - vcpu.runstate_since
                vcpu.set_runstate(RUNSTATE_running, now)
                vcpu.update_runstate_area()
                self._domain.timers.run_periodic(vcpu, now)
            self._started = self._charged = now
            self._settled = now + max(RATE_LIMIT, min(waited, TIME_SLICE))
            self._slice_end = now + TIME_SLICE if self._waiting else NO_DEADLINE
            if self._turns.slice and (old is None or not self._turn_end):
                self._turn_end = now + self._turns.slice
            self._set_deadline()

    def _enqueue(self, vcpu: Vcpu) -> None:
        index = vcpu.index
        if self._yielding and self._waiting:
            # Behind all that wait now.
            last = max(
                time for time, ticket, other in self._queue if ticket == self._tickets[other]
            )
            self._virtual_times[index] = max(self._virtual_times[index], last)
        self._last_ticket += 1
        self._tickets[index] = self._last_ticket
        self._waiting += 1
        if len(self._queue) > 4 * len(self._tickets):
            self._tidy()
        heappush(self._queue, (self._virtual_times[index], self._last_ticket, index))

    def _tidy(self) -> None:
        """Drop entries that do not count: a guest may take vCPUs up and down again and again."""
        self._queue = [entry for entry in self._queue if entry[1] == self._tickets[entry[2]]]
        heapify(self._queue)

    def _dequeue(self, vcpu: Vcpu) -> None:
        """Its entry in the queue stays, and does not count."""
        if self._tickets[vcpu.index] != _NOT_WAITING:
            self._tickets[vcpu.index] = _NOT_WAITING
            self._waiting -= 1

    def _pop(self) -> Vcpu | None:
        while self._queue:
            time, ticket, index = heappop(self._queue)
            if ticket == self._tickets[index]:
                vcpu = self._domain.vcpus[index]
                self._dequeue(vcpu)
                self._floor = max(self._floor, time)
                return vcpu
        return None

    def _leave(self) -> None:
        self.switching = True
        self._domain.engine.stop()

    def affinity_changed(self) -> None:
        """The running vCPU may have to run elsewhere."""
        if self._current is not None:
            self._leave()

    # What vCPUs do

    def vcpu_wake(self, vcpu: Vcpu) -> None:
        """One of the reasons why it could not run is gone."""
        now = self._domain.clock.now()
        if not vcpu.runnable:
            if vcpu.runstate == RUNSTATE_blocked and not vcpu.blocked:
                vcpu.set_runstate(RUNSTATE_offline, now)
            return
        if vcpu is self._current or self._tickets[vcpu.index] != _NOT_WAITING:
            return
        vcpu.set_runstate(RUNSTATE_runnable, now)
        virtual = max(self._virtual_times[vcpu.index], self._floor - _PREFERENCE)
        self._virtual_times[vcpu.index] = virtual
        self._enqueue(vcpu)
        if self._current is not None:
            self._make_way(virtual, now)

    def _make_way(self, virtual: int, now: int) -> None:
        """Let the slice of the running vCPU end for one with this virtual time."""
        assert self._current is not None
        own = self._virtual_times[self._current.index] + now - self._charged
        end = self._settled if virtual < own else self._started + TIME_SLICE
        if end <= now:
            self._leave()
        elif not self._slice_end or end < self._slice_end:
            self._slice_end = end
            self.new_deadline(end)

    def vcpu_sleep(self, vcpu: Vcpu) -> None:
        """It cannot run any more."""
        if vcpu is self._current:
            self._leave()
            return
        self._dequeue(vcpu)
        if vcpu.runstate == RUNSTATE_runnable:
            vcpu.set_runstate(vcpu.waiting_state(), self._domain.clock.now())

    def yield_slice(self) -> None:
        """The running vCPU goes behind all that wait."""
        if self._waiting:
            self._yielding = True
            self._leave()

    def check_pollers(self, port: int) -> None:
        """A port has become pending: wake the vCPUs that poll it, or several ports (as Xen)."""
        for index in sorted(self.pollers):
            vcpu = self._domain.vcpus[index]
            if vcpu.polling in (ANY_PORT, port):
                vcpu.wake()

    # Cap

    def set_cap(self, percent: int) -> None:
        """So much of a processor the vCPUs may use together; 0: no limit."""
        now = self._domain.clock.now()
        self._charge(now)
        self._allowance = self._budget = _CAP_PERIOD * percent // 100
        self._period_end = now + _CAP_PERIOD
        self._set_deadline()

    def _charge(self, now: int) -> None:
        """Account for what the running vCPU has used up to now, and what was kept from it."""
        vcpu = self._current
        if vcpu is None:
            return
        processor_time = self._domain.engine.processor_time()
        passed = now - self._charged
        used = min(passed, processor_time - self._processor_time)
        self._charged, self._processor_time = now, processor_time
        self._virtual_times[vcpu.index] += used
        self._budget -= used
        self._turns.charge(used)
        self._stolen += passed - used
        if self._stolen >= _STOLEN_TOLD:
            self._tell_stolen(vcpu, now)
            vcpu.update_runstate_area()

    def _tell_stolen(self, vcpu: Vcpu, now: int) -> None:
        """Of the time for which the vCPU was taken to run, so much it only could have run."""
        vcpu.note_stolen(self._stolen, now)
        self._stolen = 0

    def _exhausted(self) -> bool:
        return self._allowance != 0 and self._budget <= 0

    def _replenish(self, now: int) -> None:
        periods = (now - self._period_end) // _CAP_PERIOD + 1
        self._period_end += periods * _CAP_PERIOD
        # What it wanted to use and could not, for the sake of others, it may make up for.
        wants = self._waiting or self._current is not None
        most = self._allowance * (_MADE_UP if wants else 1)
        self._budget = min(most, self._budget + periods * self._allowance)

    # Time

    def check(self, now: int) -> None:
        """At an attention: is the slice over, or the budget?"""
        if self._allowance:
            self._charge(now)
            if now >= self._period_end:
                self._replenish(now)
            if self._current is not None and self._exhausted():
                self._leave()
        if self._slice_end and now >= self._slice_end:
            self._slice_end = NO_DEADLINE
            self._leave()
        if self._turn_end and (now >= self._turn_end or self._turns.is_told):
            self._look(now)
        self._set_deadline()

    def _look(self, now: int) -> None:
        """Is it another domain's turn?"""
        self._turn_end = NO_DEADLINE
        if self._current is None:
            return
        self._charge(now)
        delay = self._turns.look()
        if delay is None:
            self._leave()
        else:
            self._turn_end = now + delay

    def new_deadline(self, deadline: int) -> None:
        """There is one that the engine may not know of."""
        now = self._domain.clock.now()
        if deadline <= now:
            self._domain.attention = True
        elif not self._deadline or deadline < self._deadline:
            self._set_deadline()

    def is_due(self) -> bool:
        """While a vCPU runs: has the next deadline come?"""
        return self._deadline != NO_DEADLINE and self._domain.clock.now() >= self._deadline

    def _set_deadline(self) -> None:
        """Tell the engine of the next deadline at which the running vCPU is interrupted."""
        if self._current is None:
            return
        deadline = self._earliest(self._domain.timers.next, self._slice_end)
        deadline = self._earliest(deadline, self._turn_end)
        if self._allowance:
            deadline = self._earliest(deadline, max(1, self._charged + self._budget))
        self._deadline = deadline
        tsc = self._domain.clock.tsc_at(deadline) if deadline else NEVER
        self._domain.engine.set_deadline(min(tsc, NEVER))

    @staticmethod
    def _earliest(one: int, other: int) -> int:
        return min(one, other) if one and other else one or other

    def _idle(self) -> None:
        """Sleep until the next deadline or ``wake``."""
        domain = self._domain
        self._deadline = NO_DEADLINE
        deadline = domain.timers.next
        if self._waiting and self._exhausted():
            deadline = self._earliest(deadline, self._period_end)
        elif self._waiting:  # for a turn
            deadline = self._earliest(deadline, domain.clock.now() + _RETRY)
        start = perf_counter_ns()
        wait = (deadline - domain.clock.now()) / 1e9 if deadline else _LONG
        if wait > 0:
            self._wake.wait(min(wait, _LONG))
        domain.attention = True
        domain.counters.idle_ns += perf_counter_ns() - start
