# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen seen from inside a guest and from outside, at the same moments.

guests/xencheck checks from inside; the hypervisor's own account of the same is compared with what
Linux believes. Each kind of guest is booted once for all tests of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
from observed import Counted, Observer, Tables, run_observed
from programs import build_all, write_ramdisk

from pyxen.abi.vcpu import RUNSTATE_offline, RUNSTATE_runnable
from pyxen.abi.xen import VIRQ_TIMER
from pyxen.hypervisor.version import EXTRA_VERSION
from pyxen.toolstack import images

pytestmark = [pytest.mark.guest, pytest.mark.slow]

TRACE_PINS = "trace_event=xen:xen_mmu_pgd_pin,xen:xen_mmu_pgd_unpin"
MILLISECOND = 1_000_000
IPIS = ("resched", "callfunc", "callfuncsingle", "irqwork")
TICK_MS = 10
"""/proc/stat counts in USER_HZ."""


@dataclass(frozen=True)
class Kind:
    """A guest: its image, what its kernel is told, the subjects to check (none: all), its rows."""

    image: str
    vcpus: int
    parameters: str
    subjects: str
    rows: tuple[int, ...]


ALL_ROWS = (1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 23, 24, 26, 27)
TWO_LEVEL = "xen.fifo_events=0"
KINDS = {
    "generic-1": Kind("debian", 1, TRACE_PINS, "", ALL_ROWS),
    "generic-2": Kind(
        "debian", 2, TWO_LEVEL, "interface events time smp", (1, 2, 4, 5, 11, 12, 23)
    ),
    "cloud-4": Kind("debian-cloud", 4, f"{TRACE_PINS} preempt=full", "", ALL_ROWS),
    "generic-40": Kind("debian", 40, "", "events smp", (4, 12, 23)),
}


@dataclass(frozen=True)
class Run:
    """A guest that has come to its end."""

    kind: Kind
    seen: Observer
    exit_reason: str

    def difference(self, name: str) -> Counted:
        return self.seen.difference(f"before-{name}", f"after-{name}")


@pytest.fixture(scope="module")
def boot(
    tmp_path_factory: pytest.TempPathFactory,
    debian_image: images.Image,
    debian_cloud_image: images.Image,
) -> Callable[[str], Run]:
    """Boot a kind of guest, the first time that it is wanted."""
    folder = tmp_path_factory.mktemp("xencheck")
    ramdisk = write_ramdisk(folder / "ramdisk", build_all("xencheck", folder))
    pulled = {image.name: image for image in (debian_image, debian_cloud_image)}

    @cache
    def boot(name: str) -> Run:
        kind = KINDS[name]
        command_line = f"console=hvc0 quiet {kind.parameters} rdinit=/xencheck -- {kind.subjects}"
        kernel: Path = pulled[kind.image].kernel
        seen, outcome = run_observed(kernel, ramdisk, command_line, vcpus=kind.vcpus)
        return Run(kind, seen, outcome.exit_reason)

    return boot


@pytest.fixture
def run(request: pytest.FixtureRequest, boot: Callable[[str], Run]) -> Run:
    run = boot(request.param)
    assert "TAP version 13" in run.seen.console, run.seen.console[-4000:]
    return run


def in_guests(*names: str) -> pytest.MarkDecorator:
    """Run a test on these kinds."""
    return pytest.mark.parametrize("run", names, indirect=True)


WITH_ALL_SUBJECTS = ("generic-1", "cloud-4")


@in_guests(*KINDS)
def test_rows_hold_inside(run: Run) -> None:
    results = run.seen.results
    assert run.exit_reason == "poweroff", run.seen.console[-4000:]
    assert f"\n1..{len(results)}\n" in run.seen.console
    assert [result.number for result in results] == list(range(1, len(results) + 1))
    failed = [f"row {result.row}: {result.text}" for result in results if not result.good]
    assert not failed, "\n".join(failed)
    assert {result.row for result in results} == set(run.kind.rows)


@in_guests(*KINDS)
def test_guest_sees_its_vcpus(run: Run) -> None:
    """Rows 2, 12, 23: what happens once for each vCPU."""
    seen = run.seen
    vcpus = run.kind.vcpus
    end = seen.snapshots["end"]
    assert seen.values["cpus"] == vcpus
    assert end.operations.get("vcpu_op.initialise", 0) == vcpus - 1
    assert end.operations["vcpu_op.register_vcpu_info"] == vcpus
    assert end.hypercalls["set_trap_table"][0] >= 1
    assert end.hypercalls["set_gdt"][0] >= 1
    assert end.hypercalls["xen_version"][0] >= 3
    assert end.operations.get("vcpu_op.down", 0) == (3 if vcpus > 1 else 0)
    assert all(vcpu.info_registered for vcpu in seen.domain.vcpus)


@in_guests("generic-1", "generic-2", "cloud-4")
def test_version_is_ours(run: Run) -> None:
    """Row 1: the files in /sys/hypervisor have passed through unchanged."""
    results = {text for row, text in ((r.row, r.text) for r in run.seen.results) if row == 1}
    assert f"version/extra says something: {EXTRA_VERSION}" in results
    assert f"uuid says something: {run.seen.domain.uuid}" in results
    assert abs(run.seen.values["tsc-khz"] - run.seen.domain.clock.khz) <= 1


@in_guests(*KINDS)
def test_abi_of_events_is_the_wanted_one(run: Run) -> None:
    """Row 4: FIFO by default, two-level where the kernel is told so."""
    assert run.seen.values["fifo"] == (TWO_LEVEL not in run.kind.parameters)


@in_guests(*KINDS)
def test_interrupts_are_the_events_of_ports(run: Run) -> None:
    """Row 4: /proc/interrupts counts what the ports of vCPUs were raised for, one by one.

    Events may come between the reading of the file, which takes longer the more CPUs there are, and
    that of the ports' counts.
    """
    values = run.seen.values
    in_flight = 2 + run.kind.vcpus
    for vcpu in range(run.kind.vcpus):
        ports = [port for port in run.seen.ports.values() if port.vcpu == vcpu]
        virqs = {port.virq: port.raised for port in ports if port.kind == "virq"}
        # In the order in which Linux binds them. With several CPUs it has one for spin locks, which
        # it only polls: before the others, but behind them where another CPU is brought up.
        ipis = [port.raised for port in ports if port.kind == "ipi"]
        ipis = ipis[: len(IPIS)] if vcpu else ipis[-len(IPIS) :]
        counted = dict(zip(IPIS, ipis, strict=True)) | {"timer": virqs[VIRQ_TIMER]}
        believed = {name: values[f"irq-{name}{vcpu}"] for name in counted}
        assert believed == pytest.approx(counted, abs=in_flight)
        assert believed["timer"] > 0
    consoles = [port.raised for port in run.seen.ports.values() if port.kind == "interdomain"]
    assert any(values["irq-hvc_console"] == pytest.approx(each, abs=in_flight) for each in consoles)


@in_guests(*WITH_ALL_SUBJECTS)
def test_marked_pages_are_the_tables(run: Run) -> None:
    """Row 7: the pages that /proc/kpageflags marks are those that the hypervisor holds as tables.

    Linux has no place for the mark yet when it makes the tables of its P2M for what is missing;
    they are pinned, and no entry points at them.
    """
    tables = tables_of(run)
    marked = run.seen.flagged
    by_pfn = {tables.pfns[mfn]: mfn for mfn in tables.levels}
    assert marked
    assert marked - by_pfn.keys() == set()
    unmarked = {by_pfn[pfn] for pfn in by_pfn.keys() - marked}
    assert unmarked <= tables.pinned - tables.linked
    assert len(unmarked) <= 2
    assert {tables.levels[mfn] for mfn in unmarked} <= {1}


@in_guests(*WITH_ALL_SUBJECTS)
def test_pinned_tables_are_the_address_spaces(run: Run) -> None:
    """Row 8: two L4 tables for each, of the kernel and of user mode, and the kernel's own."""
    tables = tables_of(run)
    pinned = [mfn for mfn in tables.pinned if tables.levels[mfn] == 4]
    own = len(pinned) - 2 * run.seen.values["address-spaces"]
    assert own in (1, 3)  # the first of all, and the two in which Linux changes its code


@in_guests(*WITH_ALL_SUBJECTS)
def test_each_program_is_pinned_and_unpinned(run: Run) -> None:
    """Row 8: the hypervisor's count between two moments is that of the trace points."""
    did = run.difference("runs")
    runs = run.seen.values["pins-of-runs"]
    assert did.operations("mmuext_op.pin_l4_table") == 2 * runs
    tables = ("pin_l4_table", "pin_l3_table", "pin_l2_table", "pin_l1_table")
    pins = sum(did.operations(f"mmuext_op.{name}") for name in tables)
    assert did.operations("mmuext_op.unpin_table") == pins


@in_guests(*WITH_ALL_SUBJECTS)
def test_no_table_can_be_written(run: Run) -> None:
    """Row 9: no entry of an L1 table lets the guest write a table."""
    assert tables_of(run).writable == frozenset()


@in_guests(*KINDS)
def test_books_are_right(run: Run) -> None:
    """Rows 3, 9: each count of references and types is what the tables themselves say."""
    assert run.seen.audits > 0
    assert run.seen.audit_findings == []


@in_guests("generic-1")
def test_batches_are_those_of_the_trace_points(run: Run) -> None:
    """Row 14: multicalls, their entries and the requests of mmu_update, by both accounts."""
    values = run.seen.values
    windows = run.seen.windows.windows
    assert len(windows) == 3
    believed = [
        tuple(values[f"{name}-{n}"] for name in ("multicalls", "multicall-entries", "mmu-requests"))
        for n in range(3)
    ]
    counted = [(window.multicalls, window.entries, window.requests) for window in windows]
    # A switch of tasks between the start of a trace and that of its window may be in one alone.
    assert any(mine == theirs for mine, theirs in zip(counted, believed, strict=True)), (
        counted,
        believed,
    )
    for mine, theirs in zip(counted, believed, strict=True):
        assert mine == pytest.approx(theirs, abs=8)


@in_guests("generic-1")
def test_a_pause_is_stolen_time(run: Run) -> None:
    """Row 10: what /proc/stat says was stolen is as long as the domain was paused, and as long as
    the host had no processor for it besides."""
    paused_ms = run.seen.paused_ns / MILLISECOND
    assert paused_ms >= 800
    kept_off_ms = _kept_off(run, "pause") / MILLISECOND
    assert kept_off_ms >= paused_ms
    stolen_ms = run.seen.values["stolen-by-pause-ms"]
    assert stolen_ms == pytest.approx(kept_off_ms, rel=0.02, abs=2 * TICK_MS)


@in_guests("generic-1")
def test_a_cap_is_stolen_time(run: Run) -> None:
    """Row 10: /proc/stat has the time in which the vCPU could have run, by the run states."""
    kept_off = _kept_off(run, "cap")
    stolen_ms = run.seen.values["stolen-by-cap-ms"]
    assert stolen_ms == pytest.approx(kept_off / MILLISECOND, rel=0.02, abs=2 * TICK_MS)
    states = run.seen.run_states
    passed = states["after-cap"].now - states["before-cap"].now
    assert kept_off > 0.45 * passed  # a busy host may have kept it off for longer


def _kept_off(run: Run, name: str) -> int:
    """For how long the first vCPU could not run in a part of the program, in ns."""
    before, after = (run.seen.run_states[f"{when}-{name}"].times[0] for when in ("before", "after"))
    return sum(after[state] - before[state] for state in (RUNSTATE_runnable, RUNSTATE_offline))


@in_guests(*WITH_ALL_SUBJECTS)
def test_run_states_sum_up_to_the_time(run: Run) -> None:
    """Row 10: of each vCPU, the times of the four states are all the time that has passed."""
    before, after = (run.seen.run_states[f"{name}-cap"] for name in ("before", "after"))
    for old, new in zip(before.times, after.times, strict=True):
        assert all(b <= a for b, a in zip(old, new, strict=True))
        assert sum(new) - sum(old) == pytest.approx(after.now - before.now, abs=MILLISECOND)


@in_guests(*WITH_ALL_SUBJECTS)
def test_system_calls_need_only_iret(run: Run) -> None:
    """Row 24: switching interrupts off and on, some times in each system call, is no hypercall."""
    did = run.difference("system-calls")
    calls = run.seen.values["system-calls"]
    assert did.traps("system_call") >= calls
    others = sum(did.all_hypercalls().values()) - did.hypercalls("iret")
    # Timer ticks have some, and switches of tasks.
    assert others < 5 * did.operations("upcall") + 50
    assert others < calls


@in_guests(*WITH_ALL_SUBJECTS)
@pytest.mark.parametrize("what", ["iret", "system-calls", "runs"])
def test_iret_ends_each_entry(run: Run, what: str) -> None:
    """Row 26: as many returns as exceptions, system calls and upcalls were delivered."""
    did = run.difference(what)
    bounced = (
        "system_call",
        "page_fault_user",
        "page_fault_kernel",
        "general_protection",
        "invalid_opcode",
        "debug",
        "int3",
    )
    entries = sum(did.traps(name) for name in bounced) + did.operations("upcall")
    # Those that have not ended yet at one of the two moments: one for each vCPU and the asking one.
    assert did.hypercalls("iret") == pytest.approx(entries, abs=2 * run.kind.vcpus)
    assert did.traps("system_call") > 0


@in_guests(*WITH_ALL_SUBJECTS)
def test_a_bad_return_is_the_guests_affair(run: Run) -> None:
    """Row 15: none until the check returns to bad cs, ss or rip, then a fault for each."""
    boot = run.seen.snapshots["begin"]
    assert boot.operations.get("failsafe", 0) == 0
    assert boot.operations.get("return_fault", 0) == 0
    assert run.difference("segments").operations("return_fault") == run.seen.values["bad-returns"]


@in_guests(*WITH_ALL_SUBJECTS)
def test_ports_are_emulated_one_by_one(run: Run) -> None:
    """Row 27: a program whose kernel lets it use ports traps at each access, and reads ones."""
    did = run.difference("ports")
    assert did.traps("privileged_instruction") == run.seen.values["port-accesses"]
    assert did.operations("physdev_op.set_iobitmap") > 0


def tables_of(run: Run) -> Tables:
    assert run.seen.tables is not None
    return run.seen.tables
