# SPDX-License-Identifier: GPL-2.0-or-later
"""Which vCPU runs, and when waiting ends: with the host's clock and scripted vCPUs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, repeat

import pytest
from small_domain import STACK, SmallDomain, small_domain

from pyxen.abi import sched, vcpu, xen
from pyxen.engine.protocol import TrapHandler
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.events import BACK_END_DOMAIN
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.scheduler import RATE_LIMIT
from pyxen.hypervisor.vcpu import Vcpu
from pyxen.testing import FakeCpu, make_hypercall
from pyxen.testing.fake_engine import Step

MS = 1_000_000
GRACE = 20.0
"""Seconds after which what should have happened has not: far more than a busy machine takes."""
PENDING_WORDS = xen.SHARED_INFO.offsets["evtchn_pending"] // 8


@pytest.fixture
def real() -> Iterator[SmallDomain]:
    with small_domain(real_time=True) as guest:
        yield guest


@pytest.fixture
def real2() -> Iterator[SmallDomain]:
    with small_domain(2, real_time=True) as guest:
        second = guest.domain.vcpus[1]
        second.initialised = second.up = True
        guest.domain.set_up_cpu(second)
        guest.domain.load_kernel_base(second, guest.vcpu.kernel_table_mfn)
        yield guest


@contextmanager
def stopping_after(guest: SmallDomain, seconds: float) -> Iterator[None]:
    """Post a stop from another thread; and, for a guest that has not heard it, one more later."""
    timers = [
        threading.Timer(delay, guest.domain.post, [lambda: guest.domain.stop("enough")])
        for delay in (seconds, seconds + GRACE)
    ]
    for timer in timers:
        timer.start()
    yield
    for timer in timers:
        timer.cancel()
        timer.join()


def share(vcpu_: Vcpu) -> int:
    return vcpu_.runstate_times[vcpu.RUNSTATE_running]


def power_off(guest: SmallDomain) -> None:
    guest.engine.cpus[0].script(
        [make_hypercall(xen.HYPERVISOR_sched_op_compat, sched.SCHEDOP_shutdown, 0)]
    )


BLOCK = make_hypercall(xen.HYPERVISOR_sched_op, sched.SCHEDOP_block)
YIELD = make_hypercall(xen.HYPERVISOR_sched_op, sched.SCHEDOP_yield)


def test_two_busy_vcpus_are_interrupted_for_each_other(real2: SmallDomain) -> None:
    interrupted = [0, 0]

    def spin(handler: TrapHandler, cpu: FakeCpu) -> None:
        real2.engine.spin(handler, cpu)
        interrupted[cpu.index] += 1
        if min(interrupted) == 3:
            real2.domain.stop("both")

    for cpu in real2.engine.cpus:
        cpu.script(repeat(spin))
    with stopping_after(real2, GRACE):
        assert real2.domain.run() == "both"


def test_yield_lets_the_other_one_run(real2: SmallDomain) -> None:
    order: list[int] = []

    def note(handler: TrapHandler, cpu: FakeCpu) -> None:
        order.append(cpu.index)

    for cpu in real2.engine.cpus:
        cpu.script([note, YIELD, note, YIELD])
    power_off(real2)
    assert real2.domain.run() == "poweroff"
    assert order == [0, 1, 0, 1]


def test_yield_alone_goes_on(real: SmallDomain) -> None:
    real.engine.cpus[0].script([YIELD] * 5)
    power_off(real)
    assert real.domain.run() == "poweroff"


def test_two_busy_vcpus_share_the_time() -> None:
    with virtual_time(2, 1000 * MS) as guest:
        for cpu in guest.engine.cpus:
            cpu.script(repeat(compute(guest, 300_000)))
        assert guest.domain.run() == "watchdog"
        first, second = (share(each) for each in guest.domain.vcpus)
        assert first + second == pytest.approx(1000 * MS, rel=0.01)
        assert first == pytest.approx(second, rel=0.1)
        for each in guest.domain.vcpus:
            assert sum(each.runstate_times) == each.runstate_since
            assert each.runstate_times[vcpu.RUNSTATE_runnable] > 400 * MS


def test_blocked_vcpu_gives_the_time_to_the_other() -> None:
    with virtual_time(2, 1000 * MS) as guest:
        guest.engine.cpus[0].script([compute(guest, 300_000), BLOCK])
        guest.engine.cpus[1].script(repeat(compute(guest, 300_000)))
        assert guest.domain.run() == "watchdog"
        assert share(guest.domain.vcpus[0]) == 300_000
        assert share(guest.domain.vcpus[1]) > 990 * MS


def test_idle_until_the_deadline(real: SmallDomain) -> None:
    deadline = real.domain.clock.now() + 300 * MS
    times: list[int] = []

    def note(handler: TrapHandler, cpu: FakeCpu) -> None:
        times.append(real.domain.clock.now())

    real.domain.events.bind_virq(xen.VIRQ_TIMER, 0)
    real.engine.cpus[0].script(
        [make_hypercall(xen.HYPERVISOR_set_timer_op, deadline), note, BLOCK, note]
    )
    power_off(real)
    processor = time.thread_time_ns()
    assert real.domain.run() == "poweroff"
    processor = time.thread_time_ns() - processor
    blocked, woken = times
    assert deadline <= woken < deadline + GRACE * 1000 * MS
    assert real.domain.statistics().idle_ns > (woken - blocked) / 2
    assert processor < (woken - blocked) / 2


def test_timer_interrupts_a_busy_guest(real: SmallDomain) -> None:
    port = real.domain.events.bind_virq(xen.VIRQ_TIMER, 0)
    deadline = real.domain.clock.now() + 30 * MS
    late: list[int] = []

    def note(handler: TrapHandler, cpu: FakeCpu) -> None:
        assert real.domain.events.poll(port)
        late.append(real.domain.clock.now() - deadline)

    real.set_upcall_mask(1)
    real.engine.cpus[0].script(
        [make_hypercall(xen.HYPERVISOR_set_timer_op, deadline), real.engine.spin, note]
    )
    power_off(real)
    assert real.domain.run() == "poweroff"
    assert 0 <= late[0] < GRACE * 1000 * MS


def test_event_posted_from_another_thread_wakes_an_idle_domain(real: SmallDomain) -> None:
    events = real.domain.events
    port = events.bind_back_end(events.alloc_unbound(BACK_END_DOMAIN))
    timer = threading.Timer(0.03, real.domain.post, [port.send])
    real.engine.cpus[0].script([BLOCK])
    power_off(real)
    start = time.monotonic()
    timer.start()
    assert real.domain.run() == "poweroff"
    timer.join()
    assert 0.03 <= time.monotonic() - start < GRACE


def test_posted_stop_ends_an_idle_domain_at_once(real: SmallDomain) -> None:
    real.engine.cpus[0].script([BLOCK])
    start = time.monotonic()
    with stopping_after(real, 0.03):
        assert real.domain.run() == "enough"
    assert time.monotonic() - start < GRACE


def test_posted_work_is_done_in_the_thread_of_the_vcpus(real: SmallDomain) -> None:
    threads: list[threading.Thread] = []
    timer = threading.Timer(
        0.03, real.domain.post, [lambda: threads.append(threading.current_thread())]
    )
    real.engine.cpus[0].script([real.engine.spin])
    power_off(real)
    timer.start()
    assert real.domain.run() == "poweroff"
    timer.join()
    assert threads == [threading.main_thread()]


def test_posted_stop_ends_a_busy_guest_at_once(real: SmallDomain) -> None:
    real.engine.cpus[0].script(repeat(real.engine.spin))
    start = time.monotonic()
    with stopping_after(real, 0.03):
        assert real.domain.run() == "enough"
    assert time.monotonic() - start < GRACE


def test_first_reason_stays(real: SmallDomain) -> None:
    real.domain.stop("first")
    real.domain.stop("second")
    assert real.domain.run() == "first"


def test_stop_that_was_posted_before_run_runs_no_guest_code(real: SmallDomain) -> None:
    """The kick of the post may have been used up by a run that has just ended."""
    real.domain.post(lambda: real.domain.stop("posted"))
    real.engine.run(real.engine.cpus[0])
    real.engine.cpus[0].script([BLOCK])
    assert real.domain.run() == "posted"
    assert not real.vcpu.blocked


def test_crash_comes_out_of_run(real: SmallDomain) -> None:
    def fault(handler: TrapHandler, cpu: FakeCpu) -> None:
        handler.exception(cpu, 0, 0, False)

    real.engine.cpus[0].script([fault])
    with pytest.raises(DomainCrash, match="divide_error"):
        real.domain.run()


class VirtualSleep:
    """Takes the place of the event on which an idle domain sleeps: the guest's clock runs on."""

    def __init__(self, guest: SmallDomain) -> None:
        self._guest = guest

    def wait(self, seconds: float) -> None:
        self._guest.host.ns += max(1, round(seconds * 1e9))

    def clear(self) -> None:
        """Nobody else wakes it."""

    def set(self) -> None:
        """The same."""


@contextmanager
def virtual_time(vcpus: int, end: int) -> Iterator[SmallDomain]:
    """A domain whose vCPUs are all up and whose clock goes on in steps; it stops at ``end`` ns."""
    with small_domain(vcpus) as guest:
        guest.domain.scheduler._wake = VirtualSleep(guest)
        for each in guest.domain.vcpus[1:]:
            each.initialised = each.up = True
            guest.domain.set_up_cpu(each)
            guest.domain.load_kernel_base(each, guest.vcpu.kernel_table_mfn)
        guest.domain.timers.set_watchdog(0, 1, guest.domain.clock.now() + end - 1000 * MS)
        yield guest


def compute(guest: SmallDomain, ns: int) -> Step:
    """A step that takes so long."""

    def step(handler: TrapHandler, cpu: FakeCpu) -> None:
        guest.host.ns += ns

    return step


def test_woken_vcpu_does_not_wait_for_slices() -> None:
    """The first one computes; the second one waits for events that it sends itself by a timer."""
    with virtual_time(2, 1000 * MS) as guest:
        late: list[int] = []
        clock = guest.domain.clock
        second = guest.domain.vcpus[1]
        guest.domain.events.bind_virq(xen.VIRQ_TIMER, 1)
        deadline = 0

        def set_timer(handler: TrapHandler, cpu: FakeCpu) -> None:
            nonlocal deadline
            cpu.registers.rsp = guest.address(STACK) + PAGE_SIZE  # back from the last event
            guest.take_events(second)
            guest.memory.words[guest.memory.shared_info_mfn * 512 + PENDING_WORDS] = 0
            deadline = clock.now() + 3 * MS
            make_hypercall(xen.HYPERVISOR_set_timer_op, deadline)(handler, cpu)

        def note(handler: TrapHandler, cpu: FakeCpu) -> None:
            late.append(clock.now() - deadline)

        guest.engine.cpus[0].script(repeat(compute(guest, 100_000)))
        guest.engine.cpus[1].script(chain.from_iterable(repeat((set_timer, BLOCK, note))))
        assert guest.domain.run() == "watchdog"
        assert len(late) > 200
        assert max(late) <= RATE_LIMIT + 100_000
        assert share(guest.vcpu) > 900 * MS


def test_vcpus_that_wake_all_the_time_leave_half_to_one_that_works() -> None:
    with virtual_time(9, 1000 * MS) as guest:
        others = guest.domain.vcpus[1:]

        def block(handler: TrapHandler, cpu: FakeCpu) -> None:
            guest.domain.vcpus[cpu.index].block()

        def wake_all(handler: TrapHandler, cpu: FakeCpu) -> None:
            guest.host.ns += 100_000
            for each in others:
                each.wake()

        guest.engine.cpus[0].script(repeat(wake_all))
        for each in others:
            steps = (compute(guest, 500_000), block)
            guest.engine.cpus[each.index].script(chain.from_iterable(repeat(steps)))
        assert guest.domain.run() == "watchdog"
        times = [share(each) for each in guest.domain.vcpus]
        assert 400 * MS < times[0] < 600 * MS
        assert sum(times) == pytest.approx(1000 * MS, rel=0.01)
        assert max(times[1:]) == pytest.approx(min(times[1:]), rel=0.1)


@pytest.mark.parametrize("percent", [5, 30, 99])
def test_cap_leaves_that_much_of_a_processor(percent: int) -> None:
    with virtual_time(2, 1000 * MS) as guest:
        for cpu in guest.engine.cpus:
            cpu.script(repeat(compute(guest, 300_000)))
        guest.domain.scheduler.set_cap(percent)
        assert guest.domain.run() == "watchdog"
        ran = [share(each) for each in guest.domain.vcpus]
        assert sum(ran) == pytest.approx(percent * 10 * MS, rel=0.02)
        assert ran[0] == pytest.approx(ran[1], rel=0.3)
        for each in guest.domain.vcpus:
            waited = each.runstate_times[vcpu.RUNSTATE_runnable]
            waited += guest.domain.clock.now() - each.runstate_since
            assert share(each) + waited == pytest.approx(1000 * MS, rel=0.001)


def test_what_the_host_keeps_from_a_vcpu_is_stolen() -> None:
    """The thread gets the processor for three quarters of the time."""
    with virtual_time(1, 1000 * MS) as guest:
        engine = guest.engine
        engine.processor_time = lambda: engine.read_tsc() // 2 * 3 // 4  # type: ignore[method-assign]
        engine.cpus[0].script(repeat(compute(guest, 300_000)))
        start = guest.domain.clock.now()
        assert guest.domain.run() == "watchdog"
        times = guest.vcpu.runstate_times
        passed = guest.domain.clock.now() - start
        assert times[vcpu.RUNSTATE_running] == pytest.approx(passed * 3 / 4, rel=0.01)
        assert times[vcpu.RUNSTATE_runnable] == pytest.approx(passed / 4, rel=0.01)
        assert sum(times) == guest.vcpu.runstate_since


def test_a_cap_is_made_up_for_what_others_have_kept() -> None:
    """Half of the processor, of which the host has had nothing to give for a while."""
    with virtual_time(1, 2000 * MS) as guest:
        engine, domain = guest.engine, guest.domain
        kept = 0

        def step(handler: TrapHandler, cpu: FakeCpu) -> None:
            nonlocal kept
            guest.host.ns += 300_000
            if kept < 60 * MS:
                guest.host.ns += 10 * MS
                kept += 10 * MS

        engine.processor_time = lambda: engine.read_tsc() // 2 - kept  # type: ignore[method-assign]
        engine.cpus[0].script(repeat(step))
        domain.scheduler.set_cap(50)
        assert domain.run() == "watchdog"
        assert share(guest.vcpu) == pytest.approx(1000 * MS, rel=0.02)


class Alternating:
    """Turns of 10 ms each, every second of which is refused once: the domain asks again."""

    slice = 10 * MS
    is_told = False

    def __init__(self) -> None:
        self.looks = self.takes = self.used = self.given = 0

    def take(self, hard: int, soft: int) -> bool:
        self.takes += 1
        return self.takes % 2 == 1

    def look(self) -> int | None:
        self.looks += 1
        return None if self.looks % 3 == 0 else self.slice

    def charge(self, used: int) -> None:
        self.used += used

    def give(self) -> None:
        self.given += 1


def test_turns_are_looked_at_and_asked_for_again() -> None:
    """Also when the next turn follows at once."""
    with virtual_time(1, 2000 * MS) as guest:
        turns = Alternating()
        guest.engine.cpus[0].script(repeat(compute(guest, 300_000)))
        guest.domain.scheduler.share(turns)
        assert guest.domain.run() == "watchdog"
        # Three slices, a tenth of a second of waiting, three slices, and so on.
        ran = share(guest.vcpu)
        assert turns.used == ran
        assert turns.looks == pytest.approx(ran / turns.slice, rel=0.1)
        assert turns.takes == pytest.approx(2 * turns.looks / 3, abs=3)
        waited = guest.vcpu.runstate_times[vcpu.RUNSTATE_runnable]
        assert waited == pytest.approx(turns.takes / 2 * 100 * MS, rel=0.1)
        assert turns.given > 0


def test_pause_stops_the_guest_and_counts_as_offline() -> None:
    with virtual_time(1, 1000 * MS) as guest:

        def pause(handler: TrapHandler, cpu: FakeCpu) -> None:
            guest.domain.post(guest.domain.pause)

        guest.engine.cpus[0].script([compute(guest, 100 * MS), pause])
        guest.engine.cpus[0].script(repeat(compute(guest, MS)))
        guest.domain.timers.set_watchdog(0, 1, guest.domain.clock.now())
        assert guest.domain.run() == "watchdog"
        assert share(guest.vcpu) == 100 * MS
        assert guest.vcpu.runstate == vcpu.RUNSTATE_offline
        assert guest.domain.clock.now() - guest.vcpu.runstate_since == 900 * MS


def test_vcpus_that_go_up_and_down_take_no_memory(guest2: SmallDomain) -> None:
    second = guest2.domain.vcpus[1]
    for _ in range(1000):
        second.up = True
        second.up = False
    assert len(guest2.domain.scheduler._queue) < 20


class TestPreemptCheck:
    def test_undisturbed(self, guest2: SmallDomain) -> None:
        guest2.domain.attend()
        guest2.set_upcall_mask(0)
        assert not guest2.domain.preempt_check(guest2.vcpu)

    def test_event_that_can_be_delivered(self, guest: SmallDomain) -> None:
        guest.domain.attend()
        guest.set_upcall_mask(1)
        guest.domain.events.send(guest.domain.events.bind_ipi(0))
        assert not guest.domain.preempt_check(guest.vcpu)
        guest.set_upcall_mask(0)
        assert guest.domain.preempt_check(guest.vcpu)

    def test_work_of_another_thread(self, guest: SmallDomain) -> None:
        guest.domain.attend()
        guest.domain.post(lambda: None)
        assert guest.domain.preempt_check(guest.vcpu)
        guest.domain.attend()
        assert not guest.domain.preempt_check(guest.vcpu)

    def test_end_of_the_domain(self, guest: SmallDomain) -> None:
        guest.domain.attend()
        guest.domain.stop("enough")
        assert guest.domain.preempt_check(guest.vcpu)

    def test_vcpu_that_has_yielded_or_blocked(self, real2: SmallDomain) -> None:
        real2.domain.attend()
        real2.call(xen.HYPERVISOR_sched_op, sched.SCHEDOP_yield)
        assert real2.domain.preempt_check(real2.vcpu)
        real2.domain.scheduler.switching = False
        real2.call(xen.HYPERVISOR_sched_op, sched.SCHEDOP_block)
        assert real2.domain.preempt_check(real2.vcpu)


def test_calls_come_in_the_order_of_their_times(real: SmallDomain) -> None:
    """Also those of an idle domain, and those that a call asks for."""
    domain = real.domain
    calls: list[str] = []

    def stop() -> None:
        calls.append("stop")
        domain.stop("called")

    def second() -> None:
        calls.append("second")
        domain.call_later(0, stop)

    domain.call_later(0.02, second)
    domain.call_later(0.0002, lambda: calls.append("first"))
    real.engine.cpus[0].script(repeat(BLOCK))
    begin = time.monotonic()
    with stopping_after(real, GRACE):
        assert domain.run() == "called"
    assert calls == ["first", "second", "stop"]
    assert time.monotonic() - begin >= 0.02


def test_a_call_interrupts_a_busy_vcpu(real: SmallDomain) -> None:
    real.engine.cpus[0].script(repeat(real.engine.spin))
    real.domain.call_later(0.01, lambda: real.domain.stop("called"))
    with stopping_after(real, GRACE):
        assert real.domain.run() == "called"
