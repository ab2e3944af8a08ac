# SPDX-License-Identifier: GPL-2.0-or-later
"""Which vCPU runs, and when waiting ends.

The vCPUs of a domain share one thread. A vCPU runs until it blocks, yields or its time slice is
over while another one could run. When none can run, the thread sleeps until the next deadline or
until something is posted from another thread. While guest code runs nobody looks at the clock, so
the *alarm*, a thread of its own that only sleeps, kicks the engine when the next deadline has
come.
"""

from __future__ import annotations

import threading
from time import monotonic_ns, perf_counter_ns
from typing import TYPE_CHECKING, Final

from pyxen.abi.vcpu import RUNSTATE_running
from pyxen.hypervisor.vcpu import NO_DEADLINE

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

TIME_SLICE: Final = 10_000_000
_LONG: Final = 10.0


class Alarm:
    """Calls ``ring`` from a thread of its own when a deadline of the monotonic clock has passed."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._condition = threading.Condition()
        self._deadline = NO_DEADLINE
        self._waiting_for = 0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="pyxen-alarm", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def set(self, deadline: int) -> None:
        """The next deadline in ns of time.monotonic_ns, or NO_DEADLINE.

        A later deadline than the thread waits for costs nothing: it finds out when it wakes.
        """
        self._deadline = deadline
        if deadline and (not self._waiting_for or deadline < self._waiting_for):
            with self._condition:
                self._condition.notify()

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._condition:
                if self._closed:
                    return
                deadline = self._deadline
                wait = (deadline - monotonic_ns()) / 1e9 if deadline else _LONG
                if wait > 0:
                    self._waiting_for = deadline
                    self._condition.wait(min(wait, _LONG))
                    self._waiting_for = NO_DEADLINE
                    continue
                if self._deadline == deadline:
                    self._deadline = NO_DEADLINE
            self._domain.ring()


class Scheduler:
    """The loop of the thread that runs the vCPUs."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._alarm = Alarm(domain)
        self._wake = threading.Event()
        self._last = 0
        self._slice_end = NO_DEADLINE
        self.switching = False

    def start(self) -> None:
        self._alarm.start()

    def close(self) -> None:
        self._alarm.close()

    def wake(self) -> None:
        """From any thread: end the sleep of an idle domain."""
        self._wake.set()

    def run(self) -> None:
        """Run the vCPUs until the domain stops."""
        domain = self._domain
        engine = domain.engine
        counters = domain.counters
        while not domain.stopping:
            self._wake.clear()
            domain.attend()
            if self._stopping():
                return
            vcpu = self._next()
            if vcpu is None:
                self._idle()
                continue
            now = domain.clock.now()
            vcpu.set_runstate(RUNSTATE_running, now)
            self._start_slice(now)
            domain.traps.return_to_guest(vcpu)
            if vcpu.runnable and not self._stopping():
                start = perf_counter_ns()
                engine.run(vcpu.cpu)
                counters.engine_ns += perf_counter_ns() - start
            vcpu.set_runstate(vcpu.waiting_state(), domain.clock.now())

    def _stopping(self) -> bool:
        return bool(self._domain.stopping)

    def yield_slice(self) -> None:
        """The running vCPU gives the rest of its slice to another one."""
        if sum(vcpu.runnable for vcpu in self._domain.vcpus) > 1:
            self.switching = True
            self._domain.engine.stop()

    def _next(self) -> Vcpu | None:
        """The vCPU that ran last if it may go on, else the next one in turn."""
        vcpus = self._domain.vcpus
        first = 1 if self.switching else 0
        self.switching = False
        for step in range(first, len(vcpus) + first):
            vcpu = vcpus[(self._last + step) % len(vcpus)]
            if vcpu.runnable:
                if vcpu.index != self._last:
                    self._slice_end = NO_DEADLINE
                self._last = vcpu.index
                return vcpu
        return None

    def _start_slice(self, now: int) -> None:
        if sum(vcpu.runnable for vcpu in self._domain.vcpus) > 1:
            if not self._slice_end:
                self._slice_end = now + TIME_SLICE
        else:
            self._slice_end = NO_DEADLINE
        self.set_alarm(now)

    def check_slice(self, now: int) -> None:
        """At an attention: is the slice over?"""
        if self._slice_end and now >= self._slice_end:
            self._slice_end = NO_DEADLINE
            self.switching = True
            self._domain.engine.stop()

    def next_deadline(self) -> int:
        """The earliest of all deadlines in system time, or NO_DEADLINE."""
        deadline = NO_DEADLINE
        for vcpu in self._domain.vcpus:
            for other in (vcpu.timer_deadline, vcpu.period_deadline, vcpu.poll_deadline):
                if other and (not deadline or other < deadline):
                    deadline = other
        return deadline

    def set_alarm(self, now: int) -> None:
        """Tell the alarm of the next deadline; to be called when one has changed."""
        deadline = self.next_deadline()
        if self._slice_end and (not deadline or self._slice_end < deadline):
            deadline = self._slice_end
        self._alarm.set(max(1, deadline - now + monotonic_ns()) if deadline else NO_DEADLINE)

    def _idle(self) -> None:
        """Sleep until the next deadline or ``wake``."""
        domain = self._domain
        self._alarm.set(NO_DEADLINE)
        deadline = self.next_deadline()
        start = perf_counter_ns()
        wait = (deadline - domain.clock.now()) / 1e9 if deadline else _LONG
        if wait > 0:
            self._wake.wait(min(wait, _LONG))
        domain.attention = True
        domain.counters.idle_ns += perf_counter_ns() - start
