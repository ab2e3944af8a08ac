# SPDX-License-Identifier: GPL-2.0-or-later
"""What Xen tells of itself when one of its debug keys is pressed.

Each key dumps one thing into the hypervisor's messages. Xen goes through all its domains; a
hypervisor here has one, so that each dumps its own part, and ``begin`` is what Xen says before all
of them. A key that is not in the table does nothing.

Reference for the keys and the formats: Xen's ``keyhandler.c`` and the files that register others.
What there is nothing for here (NUMA, HVM, the interrupts of the machine) is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from pyxen.abi.event_channel import (
    EVTCHNSTAT_interdomain,
    EVTCHNSTAT_unbound,
    EVTCHNSTAT_virq,
)
from pyxen.abi.vcpu import RUNSTATE_NAMES
from pyxen.abi.xen import VIRQ_DEBUG
from pyxen.hypervisor.maptrack import PER_FRAME
from pyxen.hypervisor.memory import SHARED
from pyxen.hypervisor.page_flags import PAGE_SHIFT
from pyxen.hypervisor.timers import NO_DEADLINE, WATCHDOGS
from pyxen.hypervisor.vcpu import MASK, PENDING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.grants import GrantTable
    from pyxen.hypervisor.vcpu import Vcpu

_NANOSECONDS: Final = 1_000_000_000
_REGISTERS: Final = (
    ("rax", "rbx", "rcx"),
    ("rdx", "rsi", "rdi"),
    ("rbp", "rsp", "r8"),
    ("r9", "r10", "r11"),
    ("r12", "r13", "r14"),
    ("r15", "cr0", "cr4"),
    ("cr3", "cr2"),
)
_SELECTORS: Final = ("ds", "es", "fs", "gs", "ss", "cs")


class KeyHandler(Struct, frozen=True):
    """``dump`` gives the lines of one domain; it is called in the thread of its vCPUs."""

    description: str
    dump: Callable[[Domain], Iterator[str]]
    begin: str = ""


def show_handlers() -> list[str]:
    """What the key ``h`` dumps; it needs no domain."""
    described = {key: handler.description for key, handler in HANDLERS.items()}
    described |= {"h": "show this message", "*": "print all diagnostics"}
    return [
        "'h' pressed -> showing installed handlers",
        *(
            f" key '{key}' (ascii '{ord(key):02x}') => {text}"
            for key, text in sorted(described.items())
        ),
    ]


# q: domains


def _dump_domain(domain: Domain) -> Iterator[str]:
    now = domain.clock.now()
    memory = domain.memory
    yield f"General information for domain {domain.domid}:"
    yield f"    dying={int(bool(domain.stopping))} pause_count={domain.pause_count}"
    yield (
        f"    nr_pages={memory.nr_pages} xenheap_pages={memory.owner.count(SHARED)} "
        f"max_pages={memory.max_pages}"
    )
    yield f"    handle={domain.uuid} vm_assist={domain.vm_assist:08x}"
    for number in range(WATCHDOGS):
        deadline = domain.timers.watchdog_deadline(number)
        if deadline != NO_DEADLINE:
            seconds = (deadline - now) // _NANOSECONDS
            yield f"    watchdog {number} expires in {seconds} seconds"
    yield f"VCPU information and callbacks for domain {domain.domid}:"
    for vcpu in domain.vcpus:
        yield from _dump_vcpu(vcpu)
    for vcpu in domain.vcpus:
        port = domain.events.virq_port(VIRQ_DEBUG, vcpu.index)
        yield f"Notifying guest {domain.domid}:{vcpu.index} (virq {VIRQ_DEBUG}, port {port})"
        domain.events.raise_virq(VIRQ_DEBUG, vcpu.index)


def _dump_vcpu(vcpu: Vcpu) -> Iterator[str]:
    view = vcpu.domain.memory.bytes
    has = "T" if _runs(vcpu) else "F"
    yield (
        f"    VCPU{vcpu.index}: CPU0 [has={has}] poll={vcpu.polling} "
        f"upcall_pend={view[vcpu.info + PENDING]:02x} upcall_mask={view[vcpu.info + MASK]:02x}"
    )
    yield f"    pause_flags={vcpu.pause_flags:x}"
    period = vcpu.domain.timers.periods[vcpu.index]
    if period:
        yield f"    {_NANOSECONDS // period} Hz periodic timer (period {period // 10**6} ms)"
    else:
        yield "    No periodic timer"


def _runs(vcpu: Vcpu) -> bool:
    return RUNSTATE_NAMES[vcpu.runstate] == "running"


# e: event channels


def _dump_events(domain: Domain) -> Iterator[str]:
    ports, operations = domain.events.ports, domain.events.operations
    polling = ",".join(map(str, sorted(domain.scheduler.pollers)))
    yield f"Event channel information for domain {domain.domid}:"
    yield f"Polling vCPUs: {{{polling}}}"
    yield "    port [p/m/s]"
    for number in range(1, len(ports)):
        if not ports.is_usable(number):
            continue
        state = ports.state[number]
        line = (
            f"    {number:4d} [{operations.is_pending(number):d}/{operations.is_masked(number):d}/"
            f"{operations.show_state(number)}]: "
            f"s={state + 1} n={ports.vcpu[number]} x=0"  # Xen's own numbers have a reserved state
        )
        if state == EVTCHNSTAT_unbound:
            line += f" d={ports.remote_domain[number]}"
        elif state == EVTCHNSTAT_interdomain:
            line += f" d={ports.remote_domain[number]} p={ports.remote_port[number]}"
        elif state == EVTCHNSTAT_virq:
            line += f" v={ports.virq[number]}"
        yield line


# g: grants


def _dump_grants(domain: Domain) -> Iterator[str]:
    table = domain.grants
    yield "      -------- active --------       -------- shared --------"
    yield "[ref] localdom mfn      pin          localdom gmfn     flags"
    yield f"grant-table for remote d{domain.domid} (v{table.version})"
    maptrack = table.maptrack
    yield (
        f"  {table.nr_frames} frames ({table.limits.max_frames} max), "
        f"{len(maptrack.flags) // PER_FRAME} maptrack frames ({maptrack.max_frames} max)"
    )
    used = [ref for ref in range(table.entries) if table.pins[ref]]
    for ref in used:
        shared_domid, frame, flags = _shared_entry(table, ref)
        yield (
            f"[0x{ref:03x}]  {table.domids[ref]:5d} 0x{table.frames[ref]:06x} "
            f"0x{table.pins[ref]:08x}      {shared_domid:5d} 0x{frame:06x} 0x{flags:02x}"
        )
    if not used:
        yield "no active grant table entries"


def _shared_entry(table: GrantTable, ref: int) -> tuple[int, int, int]:
    """Domain, frame and flags as the guest sees them, in version 2 the status instead of flags."""
    view = table.memory.bytes
    size = 8 if table.version == 1 else 16
    page, at = divmod(ref * size, 1 << PAGE_SHIFT)
    start = (table.mfns[page] << PAGE_SHIFT) + at
    flags, domid = view[start : start + 2], view[start + 2 : start + 4]
    if table.version == 1:
        frame = view[start + 4 : start + 8]
    else:
        frame = view[start + 8 : start + 16]
        page, at = divmod(ref * 2, 1 << PAGE_SHIFT)
        status = (table.status_mfns[page] << PAGE_SHIFT) + at
        flags = view[status : status + 2]
    read = [int.from_bytes(part, "little") for part in (domid, frame, flags)]
    return read[0], read[1], read[2]


# d, r, t, m


def _dump_registers(domain: Domain) -> Iterator[str]:
    for vcpu in domain.vcpus:
        if not vcpu.initialised:
            continue
        registers = vcpu.cpu.registers
        name = f"d{domain.domid}v{vcpu.index}"
        masked = domain.memory.bytes[vcpu.info + MASK] & 1
        yield f"*** Dumping CPU0 guest state ({name}): ***"
        yield f"RIP:    {registers.cs:04x}:[<{registers.rip:016x}>]"
        yield f"RFLAGS: {registers.rflags:016x}   EM: {masked}   CONTEXT: pv guest ({name})"
        for row in _REGISTERS:
            yield "   ".join(
                f"{register + ':':4} {getattr(registers, register):016x}" for register in row
            )
        yield (
            f"fsb: {registers.fs_base:016x}   gsb: {registers.gs_base:016x}   "
            f"gss: {vcpu.cpu.inactive_gs_base:016x}"
        )
        yield "   ".join(f"{each}: {getattr(registers, each):04x}" for each in _SELECTORS)


def _dump_run_queue(domain: Domain) -> Iterator[str]:
    yield f"NOW={domain.clock.now()}"
    yield f"Domain: {domain.domid} v {len(domain.vcpus)}"
    for vcpu in domain.vcpus:
        name = f"[{domain.domid}.{vcpu.index}]"
        times = " ".join(
            f"{RUNSTATE_NAMES[state]}={spent}" for state, spent in enumerate(vcpu.runstate_times)
        )
        state = RUNSTATE_NAMES[vcpu.runstate]
        yield f"  {vcpu.index + 1:3d}: {name} flags={vcpu.pause_flags:x} cpu=0 {state} {times}"


def _dump_clock(domain: Domain) -> Iterator[str]:
    clock = domain.clock
    yield (
        f"dom{domain.domid}: now={clock.now()}ns khz={clock.khz} mul={clock.mul} "
        f"shift={clock.shift} behind={clock.behind()}ns"
    )


def _dump_memory(domain: Domain) -> Iterator[str]:
    memory = domain.memory
    kib = 1 << PAGE_SHIFT - 10
    yield f"Domain {domain.domid}:"
    yield f"    Dom heap: {len(memory.free_frames()) * kib}kB free"
    yield f"    nr_pages={memory.nr_pages} max_pages={memory.max_pages}"


HANDLERS: Final = {
    "d": KeyHandler("dump registers", _dump_registers, "'d' pressed -> dumping registers"),
    "e": KeyHandler("dump evtchn info", _dump_events, "'e' pressed -> dumping event-channel info"),
    "g": KeyHandler("print grant table usage", _dump_grants, "'g' pressed -> grant table usage"),
    "m": KeyHandler("memory info", _dump_memory, "Physical memory information:"),
    "q": KeyHandler(
        "dump domain (and guest debug) info", _dump_domain, "'q' pressed -> dumping domain info"
    ),
    "r": KeyHandler("dump run queues", _dump_run_queue, "Run queues:"),
    "t": KeyHandler("display multi-cpu clock info", _dump_clock, "Clocks:"),
}
"""Those that dump something of a domain, all of them for ``*``."""
