# SPDX-License-Identifier: GPL-2.0-or-later
"""Debug keys: what each dumps of a domain, in Xen's formats."""

from __future__ import annotations

import pytest
from fifo_guest import FifoGuest
from granting import Granting
from small_domain import SmallDomain

from pyxen.abi.xen import DOMID_SELF, VIRQ_DEBUG, VIRQ_TIMER
from pyxen.hypervisor.keyhandler import HANDLERS, show_handlers


def dump(guest: SmallDomain, key: str) -> list[str]:
    return list(HANDLERS[key].dump(guest.domain))


def test_domains_and_their_vcpus(guest2: SmallDomain) -> None:
    domain = guest2.domain
    port = domain.events.bind_virq(VIRQ_DEBUG, 1)
    domain.timers.set_watchdog(0, 10, domain.clock.now())
    domain.timers.set_period(domain.vcpus[0], 10_000_000, domain.clock.now())
    domain.pause()
    lines = dump(guest2, "q")
    assert lines[0] == "General information for domain 1:"
    assert lines[1] == "    dying=0 pause_count=1"
    assert f"handle={domain.uuid} vm_assist=00000000" in lines[3]
    assert lines[4] == "    watchdog 0 expires in 10 seconds"
    assert lines[6] == "    VCPU0: CPU0 [has=F] poll=0 upcall_pend=00 upcall_mask=01"
    assert lines[8] == "    100 Hz periodic timer (period 10 ms)"
    assert lines[11] == "    No periodic timer"
    assert lines[-2:] == [
        f"Notifying guest 1:0 (virq {VIRQ_DEBUG}, port 0)",
        f"Notifying guest 1:1 (virq {VIRQ_DEBUG}, port {port})",
    ]
    assert domain.events.operations.is_pending(port)


def test_event_channels(guest2: SmallDomain) -> None:
    events = guest2.domain.events
    waiting = events.alloc_unbound(0)
    timer = events.bind_virq(VIRQ_TIMER, 1)
    unbound = events.alloc_unbound(DOMID_SELF)
    bound = events.bind_interdomain(1, unbound)
    ipi = events.bind_ipi(1)
    events.close(waiting)
    events.set_pending(ipi)
    pending = events.operations.is_pending(bound)
    assert dump(guest2, "e") == [
        "Event channel information for domain 1:",
        "Polling vCPUs: {}",
        "    port [p/m/s]",
        f"    {timer:4d} [0/0/1]: s=5 n=1 x=0 v=0",
        f"    {unbound:4d} [0/0/{int(pending)}]: s=3 n=0 x=0 d=1 p={bound}",
        f"    {bound:4d} [{int(pending)}/0/{int(pending)}]: s=3 n=0 x=0 d=1 p={unbound}",
        f"    {ipi:4d} [1/0/1]: s=6 n=1 x=0",
    ]


def test_fifo_event_channels(guest: SmallDomain) -> None:
    events = guest.domain.events
    first, second = events.alloc_unbound(0), events.bind_ipi(0)
    fifo = FifoGuest(guest)
    fifo.init_control(0)
    assert dump(guest, "e")[3] == f"    {first:4d} [0/1/?     ]: s=2 n=0 x=0 d=0"
    fifo.expand_array()
    third = events.bind_ipi(0)
    events.set_pending(second)
    events.set_pending(third)
    lines = dump(guest, "e")
    assert lines[4] == f"    {second:4d} [1/0/  {third:<4d}]: s=6 n=0 x=0"
    assert lines[5] == f"    {third:4d} [1/0/  0   ]: s=6 n=0 x=0"


@pytest.mark.parametrize("version", (1, 2))
def test_grants(guest: SmallDomain, version: int) -> None:
    granting = Granting(guest)
    assert granting.set_version(version) == 0
    assert dump(guest, "g")[-1] == "no active grant table entries"
    granting.grant(9, 16)
    mapping = granting.access.map(9)
    mfn = guest.mfn(16)
    flags = 0x19 if version == 1 else 0x18
    lines = dump(guest, "g")
    assert lines[2] == f"grant-table for remote d1 (v{version})"
    assert lines[3] == "  1 frames (64 max), 0 maptrack frames (1024 max)"
    assert lines[4:] == [
        f"[0x009]      0 0x{mfn:06x} 0x00000001          0 0x{mfn:06x} 0x{flags:02x}"
    ]
    granting.access.unmap(mapping)


def test_registers(guest: SmallDomain) -> None:
    guest.vcpu.cpu.registers.r8 = 0xABC
    lines = dump(guest, "d")
    rip = guest.vcpu.cpu.registers.rip
    assert lines[0] == "*** Dumping CPU0 guest state (d1v0): ***"
    assert lines[1] == f"RIP:    e033:[<{rip:016x}>]"
    assert lines[2] == f"RFLAGS: {0x202:016x}   EM: 1   CONTEXT: pv guest (d1v0)"
    assert lines[5].endswith(f"   r8:  {0xABC:016x}")
    assert lines[-1].startswith("ds: ")


def test_the_others(guest: SmallDomain) -> None:
    memory = guest.memory
    free = 4 * len(memory.free_frames())
    assert dump(guest, "m") == [
        "Domain 1:",
        f"    Dom heap: {free}kB free",
        f"    nr_pages={memory.nr_pages} max_pages={memory.max_pages}",
    ]
    (line,) = dump(guest, "t")
    assert line.startswith(f"dom1: now={guest.domain.clock.now()}ns khz={guest.domain.clock.khz} ")
    lines = dump(guest, "r")
    assert lines[1] == "Domain: 1 v 1"
    assert lines[2].startswith("    1: [1.0] flags=0 cpu=0 runnable running=")


def test_the_list_of_keys() -> None:
    lines = show_handlers()
    assert lines[0] == "'h' pressed -> showing installed handlers"
    assert lines[1] == " key '*' (ascii '2a') => print all diagnostics"
    assert " key 'e' (ascii '65') => dump evtchn info" in lines
    assert len(lines) == len(HANDLERS) + 3
