# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that runs in this process, and asks the test questions on its console.

The programs in guests/ print TAP. A line "#host ..." is a request, which is carried out at that
moment, while the program waits for the answer, by the thread of the vCPUs: it may look at all of
the domain. "#value NAME NUMBER" hands over a number.
"""

from __future__ import annotations

import asyncio
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyxen.abi.version import XENVER_extraversion
from pyxen.abi.xen import HYPERVISOR_mmu_update, HYPERVISOR_multicall, HYPERVISOR_xen_version
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.instruments import Instrument, PortStatistics, Statistics
from pyxen.hypervisor.page_flags import ENTRIES, FRAME, PAGE_SHIFT, PRESENT, RW
from pyxen.hypervisor.vcpu import Vcpu
from pyxen.toolstack import lifecycle
from pyxen.toolstack.config import DomainConfig
from pyxen.toolstack.devices.nic import NicConfig
from pyxen.toolstack.running import RunningDomain

LIMIT = 300.0
L1, L4 = 1, 4
_RESULT = re.compile(r"(ok|not ok) (\d+) - row (\d+): (.*)")
_PREEMPTED = 1 << 31
_COUNT = _PREEMPTED - 1


@dataclass(frozen=True)
class Result:
    """A line of TAP."""

    good: bool
    number: int
    row: int
    text: str


@dataclass(frozen=True)
class Tables:
    """The page tables of a domain at one moment: mfn -> level.

    ``pinned`` are those that are held by a pin, ``linked`` those that an entry of a higher one
    points at, ``writable`` those that an entry of an L1 table would let the guest write. ``pfns``
    has the guest's own number of each.
    """

    levels: dict[int, int]
    pinned: frozenset[int]
    linked: frozenset[int]
    writable: frozenset[int]
    pfns: dict[int, int]


@dataclass(frozen=True)
class RunStates:
    """At a system time, the ns that each vCPU has spent running, runnable, blocked, offline."""

    now: int
    times: list[list[int]]


@dataclass
class Window:
    """What was counted between two calls of xen_version(XENVER_extraversion)."""

    multicalls: int = 0
    entries: int = 0
    requests: int = 0


class CountWindows(Instrument):
    """Counts in every other space between two calls of xen_version(XENVER_extraversion).

    A hypercall that gives way is made again, but ends only once. (Linux makes its multicalls with
    events masked, so that nothing else comes between.)
    """

    def __init__(self) -> None:
        self.windows: list[Window] = []
        self._open = False
        self._within = False

    def before_hypercall(self, vcpu: Vcpu, number: int, arguments: tuple[int, ...]) -> None:
        if number == HYPERVISOR_xen_version and arguments[0] == XENVER_extraversion:
            self._open = not self._open
            if self._open:
                self.windows.append(Window())
        elif self._open:
            if number == HYPERVISOR_multicall:
                self._within = True
            elif number == HYPERVISOR_mmu_update and not arguments[1] & _PREEMPTED:
                self.windows[-1].requests += arguments[1] & _COUNT

    def after_hypercall(self, vcpu: Vcpu, number: int, result: int) -> None:
        if number == HYPERVISOR_multicall:
            self._within = False
            if self._open:
                self.windows[-1].multicalls += 1
        elif self._open and self._within:
            self.windows[-1].entries += 1


class Observer(Instrument):
    """Both the console of a guest, and what waits for its first hypercall to know its domain."""

    def __init__(self) -> None:
        self.console = ""
        self.results: list[Result] = []
        self.values: dict[str, int] = {}
        self.flagged: set[int] = set()
        self.snapshots: dict[str, Statistics] = {}
        self.tables: Tables | None = None
        self.windows = CountWindows()
        self.paused_ns = 0
        self.run_states: dict[str, RunStates] = {}
        self.ports: dict[int, PortStatistics] = {}
        self.audits = 0
        self.audit_findings: list[str] = []
        self._line = ""
        self._left = threading.Event()
        self._answer: Callable[[bytes], None] = lambda data: None

    # As an instrument

    def before_hypercall(self, vcpu: Vcpu, number: int, arguments: tuple[int, ...]) -> None:
        self.domain: Domain = vcpu.domain
        self.domain.instruments.remove(self)

    # As a console

    def output(self, data: bytes) -> None:
        text = data.decode(errors="replace").replace("\r", "")
        self.console += text
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._read(line)

    async def serve(
        self, write_input: Callable[[bytes], None], pending_input: Callable[[], int]
    ) -> None:
        self._answer = write_input
        while not self._left.is_set():
            await asyncio.sleep(1)

    def leave(self) -> None:
        self._left.set()

    # The guest's lines

    def _read(self, line: str) -> None:
        if line.startswith("#host "):
            name, *arguments = line.split()[1:]
            answer = getattr(self, "answer_" + name.replace("-", "_"))(*arguments)
            self._answer((answer or "done").encode() + b"\n")
        elif line.startswith("#value "):
            _, name, number = line.split()
            self.values[name] = int(number)
        elif line.startswith("#flagged "):
            first, count = map(int, line.split()[1:])
            self.flagged |= set(range(first, first + count))
        elif match := _RESULT.fullmatch(line):
            self.results.append(Result(match[1] == "ok", int(match[2]), int(match[3]), match[4]))

    def answer_begin(self) -> None:
        self.snapshots["begin"] = self.domain.statistics()

    def answer_end(self) -> None:
        self.snapshots["end"] = self.domain.statistics()
        self._audit()

    def answer_snapshot(self, name: str) -> None:
        self.snapshots[name] = self.domain.statistics()

    def answer_time(self) -> str:
        return f"{time.monotonic_ns()} {time.time_ns()}"

    def answer_count(self) -> None:
        self.domain.instruments.append(self.windows)

    def answer_audit(self) -> None:
        self._audit()

    def answer_tables(self) -> None:
        self._audit()
        self.tables = find_tables(self.domain)

    def answer_pause(self, milliseconds: str) -> None:
        """Pause the domain from now on, for so long."""
        domain = self.domain
        begin = domain.clock.now()

        def resume() -> None:
            domain.unpause()
            self.paused_ns = domain.clock.now() - begin

        domain.pause()
        threading.Timer(int(milliseconds) / 1000, domain.post, [resume]).start()

    def answer_cap(self, percent: str) -> None:
        self.domain.scheduler.set_cap(int(percent))

    def answer_run_states(self, name: str) -> None:
        now = self.domain.clock.now()
        self.run_states[name] = RunStates(now, [run_state_times(v, now) for v in self.domain.vcpus])

    def answer_ports(self) -> None:
        self.ports = self.domain.statistics().ports

    def _audit(self) -> None:
        self.audits += 1
        self.audit_findings += self.domain.audit()

    # For tests

    def difference(self, before: str, after: str) -> Counted:
        """What was done between two snapshots."""
        return Counted(self.snapshots[before], self.snapshots[after])


class Counted:
    """What was done between two snapshots of the counters."""

    def __init__(self, before: Statistics, after: Statistics) -> None:
        self._before = before
        self._after = after

    def hypercalls(self, name: str) -> int:
        return (
            self._after.hypercalls.get(name, (0, 0))[0]
            - self._before.hypercalls.get(name, (0, 0))[0]
        )

    def traps(self, name: str) -> int:
        return self._after.traps.get(name, (0, 0))[0] - self._before.traps.get(name, (0, 0))[0]

    def operations(self, name: str) -> int:
        return self._after.operations.get(name, 0) - self._before.operations.get(name, 0)

    def all_hypercalls(self) -> dict[str, int]:
        return {name: self.hypercalls(name) for name in self._after.hypercalls}

    def all_traps(self) -> dict[str, int]:
        return {name: self.traps(name) for name in self._after.traps}


def run_state_times(vcpu: Vcpu, now: int) -> list[int]:
    """The times of a vCPU's run states up to now."""
    times = list(vcpu.runstate_times)
    times[vcpu.runstate] += now - vcpu.runstate_since
    return times


def find_tables(domain: Domain) -> Tables:
    """What are tables, and which of them an entry of an L1 table would let the guest write."""
    tables: Any = domain.pagetables
    memory = domain.memory
    levels = {mfn: level for mfn, level in enumerate(tables.types) if L1 <= level <= L4}
    linked, writable = set(), set()
    for mfn, level in levels.items():
        for entry in memory.words[mfn * ENTRIES : (mfn + 1) * ENTRIES]:
            target = (entry & FRAME) >> PAGE_SHIFT
            if not entry & PRESENT or target not in levels:
                continue
            if level > L1:
                linked.add(target)
            elif entry & RW:
                writable.add(target)
    pinned = frozenset(mfn for mfn in levels if tables.pinned[mfn])
    pfns = {mfn: memory.m2p[mfn] for mfn in levels}
    return Tables(levels, pinned, frozenset(linked), frozenset(writable), pfns)


def run_observed(
    kernel: Path,
    ramdisk: Path,
    command_line: str,
    *,
    memory_mib: int = 256,
    vcpus: int = 1,
    nics: tuple[NicConfig, ...] = (),
    limit: float = LIMIT,
    observer: Observer | None = None,
    started: Callable[[RunningDomain], None] = lambda running: None,
) -> tuple[Observer, lifecycle.Outcome]:
    """Run a guest to its end."""
    observer = observer or Observer()
    config = DomainConfig(
        kernel=kernel,
        ramdisk=ramdisk,
        command_line=command_line,
        memory_mib=memory_mib,
        vcpus=vcpus,
        nics=nics,
        on_reboot="destroy",
    )
    with _switch_interval_kept():
        outcome = lifecycle.run(config, observer, [observer], started, timeout=limit)
    return observer, outcome


@contextmanager
def _switch_interval_kept() -> Iterator[None]:
    kept = sys.getswitchinterval()
    try:
        yield
    finally:
        sys.setswitchinterval(kept)
