# SPDX-License-Identifier: GPL-2.0-or-later
"""The timers of a domain: deadlines in system time, and what happens when one has come.

Each vCPU has three: the *single-shot* and the *periodic* timer, which both raise VIRQ_TIMER, and
the time-out of a poll. The domain has two *watchdogs*: a guest that does not put the deadline off
in time is shut down for the reason "watchdog". Back ends have what they want to be called for
(``call_at``), as a process in dom0 has timers.

As under Xen, the periodic timer ticks only while its vCPU runs. It does not wake one that waits;
a tick that is overdue comes when the vCPU is switched in.

All timers are slots of one array. A heap of (deadline, slot) tells the earliest one; an entry of
the heap counts only as long as the array agrees.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING, Final

from pyxen.abi.errno import EINVAL, ENOSPC
from pyxen.abi.sched import SHUTDOWN_watchdog
from pyxen.abi.xen import VIRQ_TIMER
from pyxen.errors import XenError

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

NO_DEADLINE: Final = 0
SINGLE_SHOT: Final = 0
PERIODIC: Final = 1
POLL: Final = 2
_KINDS: Final = 3
WATCHDOGS: Final = 2
_SECOND: Final = 1_000_000_000


class Timers:
    """``next`` is the earliest deadline, or NO_DEADLINE. In the thread of the vCPUs only."""

    def __init__(self, domain: Domain) -> None:
        vcpus = len(domain.vcpus)
        self._domain = domain
        self._first_watchdog = vcpus * _KINDS
        self._call_slot = self._first_watchdog + WATCHDOGS
        self._deadlines = [NO_DEADLINE] * (self._call_slot + 1)
        self._heap: list[tuple[int, int]] = []
        self.next = NO_DEADLINE
        self.periods = [0] * vcpus
        self._last_ticks = [0] * vcpus
        self._watchdogs_in_use = [False] * WATCHDOGS
        self._calls: list[tuple[int, int, Callable[[], None]]] = []
        self._last_call = 0

    def deadline(self, vcpu: Vcpu, kind: int) -> int:
        """When the vCPU's timer of this kind is due, or NO_DEADLINE."""
        return self._deadlines[vcpu.index * _KINDS + kind]

    def set(self, vcpu: Vcpu, kind: int, deadline: int) -> None:
        """Set or, with NO_DEADLINE, stop a timer of the vCPU."""
        self._set(vcpu.index * _KINDS + kind, deadline)

    def _set(self, slot: int, deadline: int) -> None:
        if self._deadlines[slot] == deadline:
            return
        self._deadlines[slot] = deadline
        if deadline:
            if len(self._heap) > 4 * len(self._deadlines):
                self._tidy()
            heappush(self._heap, (deadline, slot))
        self._find_next()
        if deadline and self.next == deadline:
            self._domain.scheduler.new_deadline(deadline)

    def _tidy(self) -> None:
        """A guest may set a timer again and again: drop the entries that do not count."""
        self._heap = [(deadline, slot) for slot, deadline in enumerate(self._deadlines) if deadline]
        heapify(self._heap)

    def _find_next(self) -> None:
        heap = self._heap
        while heap and self._deadlines[heap[0][1]] != heap[0][0]:
            heappop(heap)
        self.next = heap[0][0] if heap else NO_DEADLINE

    def fire(self, now: int) -> None:
        """Let happen what is due."""
        due = []
        while self.next and self.next <= now:
            slot = self._heap[0][1]
            self._deadlines[slot] = NO_DEADLINE
            due.append(slot)
            self._find_next()
        for slot in due:
            self._expire(slot, now)

    def _expire(self, slot: int, now: int) -> None:
        if slot == self._call_slot:
            self._call(now)
            return
        if slot >= self._first_watchdog:
            self._domain.report_once("the guest's watchdog has expired")
            self._domain.shutdown(SHUTDOWN_watchdog)
            return
        index, kind = divmod(slot, _KINDS)
        vcpu = self._domain.vcpus[index]
        if kind == SINGLE_SHOT:
            self._raise_timer(vcpu)
        elif kind == PERIODIC:
            self.run_periodic(vcpu, now)
        else:
            vcpu.wake()

    def _raise_timer(self, vcpu: Vcpu) -> None:
        if self._domain.events.raise_virq(VIRQ_TIMER, vcpu.index):
            self._domain.counters.add_operation("virq_timer")

    # The periodic timer

    def set_period(self, vcpu: Vcpu, period: int, now: int) -> None:
        """Let it tick each ``period`` ns from the last tick on, at once if it is time; 0: stop."""
        self.set(vcpu, PERIODIC, NO_DEADLINE)
        self.periods[vcpu.index] = period
        self.run_periodic(vcpu, now)

    def run_periodic(self, vcpu: Vcpu, now: int) -> None:
        """Tick if it is time, and wait for the next one; also when the vCPU is switched in."""
        index = vcpu.index
        period = self.periods[index]
        if not period:
            return
        if now >= self._last_ticks[index] + period:
            self._last_ticks[index] = now
            self._raise_timer(vcpu)
        self.set(vcpu, PERIODIC, self._last_ticks[index] + period)

    # Watchdogs

    def set_watchdog(self, number: int, seconds: int, now: int) -> int:
        """Start, put off or, with 0 seconds, stop a watchdog; number 0 takes a free one.

        Returns the number of the one that was taken, else 0. Raises EINVAL for one that is not in
        use, ENOSPC if none is free.
        """
        if number > WATCHDOGS:
            raise XenError(EINVAL)
        deadline = now + seconds * _SECOND
        if number == 0:
            for free, used in enumerate(self._watchdogs_in_use):
                if not used:
                    self._watchdogs_in_use[free] = True
                    self._set(self._first_watchdog + free, max(1, deadline))
                    return free + 1
            raise XenError(ENOSPC)
        if not self._watchdogs_in_use[number - 1]:
            raise XenError(EINVAL)
        if seconds == 0:
            self._watchdogs_in_use[number - 1] = False
            deadline = NO_DEADLINE
        self._set(self._first_watchdog + number - 1, deadline)
        return 0

    def watchdog_deadline(self, number: int) -> int:
        """When it expires, or NO_DEADLINE. Here the first has number 0."""
        return self._deadlines[self._first_watchdog + number]

    # Calls

    def call_at(self, deadline: int, work: Callable[[], None]) -> None:
        """Do this in the thread of the vCPUs, when the time has come."""
        self._last_call += 1
        heappush(self._calls, (max(1, deadline), self._last_call, work))
        self._set(self._call_slot, self._calls[0][0])

    def _call(self, now: int) -> None:
        due = []
        while self._calls and self._calls[0][0] <= now:
            due.append(heappop(self._calls)[2])
        if self._calls:
            self._set(self._call_slot, self._calls[0][0])
        for work in due:
            work()
