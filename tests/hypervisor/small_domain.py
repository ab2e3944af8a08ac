# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain of 64 pages on the fake engine, built by hand, and calls of its hypercalls.

Its page tables map pfn N at ``BASE + N * PAGE_SIZE``:

=====  ======================================================================
pfn    use
=====  ======================================================================
0-3    the L4, L3, L2 and L1 table, mapped read-only
4      the kernel stack; nothing is mapped behind it
6-8    scratch, writable, in a row; nothing is mapped behind it
10     mapped read-only
12     the L4 table of user mode: empty but for Xen's slots, not mapped
16-63  free for tests, not mapped
=====  ======================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from pyxen.engine.protocol import Engine
from pyxen.hypervisor import clock, guest_access
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.page_flags import ACCESSED, DIRTY, ENTRIES, PAGE_SIZE, PRESENT, RW
from pyxen.hypervisor.vcpu import MASK, PENDING, PENDING_SELECTOR, Vcpu
from pyxen.testing import FakeEngine

BASE = 0xFFFFFFFF80000000
PAGES = 64
MAX_PAGES = 96
L4, L3, L2, L1, STACK, SCRATCH, READ_ONLY, USER_L4, FREE = 0, 1, 2, 3, 4, 6, 10, 12, 16
TABLE = PRESENT | RW | ACCESSED | DIRTY
ENTRY_POINT = 0x1000
EVENT_CALLBACK = 0x2000
SYSCALL_LENGTH = 2
MAPPED = {L4: 0, L3: 0, L2: 0, L1: 0, STACK: RW, 6: RW, 7: RW, 8: RW, READ_ONLY: 0}

NOT_MAPPED = BASE + 40 * PAGE_SIZE
NON_CANONICAL = 0x0000_8000_0000_1000
XEN_ADDRESS = 0xFFFF_8000_0000_0000
LAST_SCRATCH = BASE + 9 * PAGE_SIZE
"""End of the mapped scratch pages: what begins a little before it crosses into nothing."""
BAD_POINTERS = {
    "unmapped": NOT_MAPPED,
    "non-canonical": NON_CANONICAL,
    "Xen's": XEN_ADDRESS,
    "crossing a page end": LAST_SCRATCH - 1,
    "null": 0,
    "end of the address space": (1 << 64) - 1,
}


class HostTime:
    """The host's clock as tests want it: it stands still unless it is moved.

    Takes the place of the module ``time`` in ``pyxen.hypervisor.clock``. Two TSC ticks are one ns.
    """

    def __init__(self) -> None:
        self.ns = 5_000_000_000
        self.drift = 0
        self.wall_clock = 1_700_000_000_123_456_789

    def monotonic_ns(self) -> int:
        return self.ns

    def time_ns(self) -> int:
        return self.wall_clock

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)

    def read_tsc(self) -> int:
        return self.ns * 2 + self.drift


class SmallDomain:
    """See the module. ``host`` is its clock; ``output`` what it wrote to Xen's console."""

    engine: FakeEngine

    def __init__(
        self,
        host: HostTime | None,
        vcpus: int = 1,
        *,
        engine: Engine | None = None,
        **options: Any,
    ) -> None:
        self.host = host
        self.engine = engine or FakeEngine(  # type: ignore[assignment]
            MAX_PAGES, vcpus, read_tsc=host.read_tsc if host else None
        )
        self.output: list[bytes] = []
        self.domain = Domain(self.engine, PAGES, console_output=self.output.append, **options)
        self.memory = self.domain.memory
        self.tables = self.domain.pagetables
        self.vcpu = self.domain.vcpus[0]
        self._build_tables()
        self.domain.start(ENTRY_POINT, self.address(STACK) + PAGE_SIZE, 0, self.mfn(L4))
        self.vcpu.kernel_sp = self.address(STACK) + PAGE_SIZE
        for vcpu in self.domain.vcpus:  # so that events can be delivered to all of them
            self.domain.set_up_cpu(vcpu)
            vcpu.event_callback = EVENT_CALLBACK
            vcpu.cpu.load_kernel_page_table(self.maddr(L4))
            vcpu.cpu.registers.rsp = self.vcpu.kernel_sp

    def _build_tables(self) -> None:
        self.set_entry(L4, BASE >> 39 & 511, self.mfn(L3), TABLE)
        self.set_entry(L3, BASE >> 30 & 511, self.mfn(L2), TABLE)
        self.set_entry(L2, BASE >> 21 & 511, self.mfn(L1), TABLE)
        for pfn, flags in MAPPED.items():
            self.set_entry(L1, pfn, self.mfn(pfn), PRESENT | ACCESSED | DIRTY | flags)

    def close(self) -> None:
        assert self.domain.audit() == []
        self.domain.close()
        assert not any(self.tables.type_counts[self.memory.ram_mfn :])
        assert not any(self.tables.refs[self.memory.ram_mfn :])
        self.engine.close()

    # Memory

    @staticmethod
    def address(pfn: int) -> int:
        return BASE + pfn * PAGE_SIZE

    def mfn(self, pfn: int) -> int:
        return self.memory.ram_mfn + pfn

    def maddr(self, pfn: int, offset: int = 0) -> int:
        return self.mfn(pfn) * PAGE_SIZE + offset

    def entry(self, pfn: int, index: int) -> int:
        return int(self.memory.words[self.mfn(pfn) * ENTRIES + index])

    def set_entry(self, pfn: int, index: int, mfn: int, flags: int) -> None:
        """As the guest would: by Xen, if the frame is a table already. Raises what that does."""
        self.tables.update(self.maddr(pfn, index * 8), mfn * PAGE_SIZE | flags, False)

    def write(self, address: int, data: bytes) -> int:
        """Returns the address."""
        guest_access.copy_to(self.vcpu, address, data)
        return address

    def read(self, address: int, size: int) -> bytes:
        return guest_access.copy_from(self.vcpu, address, size)

    def put(self, data: bytes, offset: int = 0) -> int:
        """Write to the scratch page; returns the address."""
        return self.write(self.address(SCRATCH) + offset, data)

    def put_struct(self, layout: Any, *values: object, offset: int = 0) -> int:
        return self.put(layout.pack(*values), offset)

    def read_struct(self, layout: Any, address: int) -> tuple[Any, ...]:
        result: tuple[Any, ...] = layout.unpack(self.read(address, layout.size))
        return result

    def snapshot(self) -> bytes:
        """All of the guest's RAM and what Xen keeps of it."""
        return (
            bytes(self.memory.bytes[self.maddr(0) :])
            + bytes(self.tables.types)
            + bytes(self.tables.pinned)
            + bytes(self.tables.type_counts)
            + bytes(self.tables.refs)
            + bytes(self.memory.owner)
            + self.memory.m2p[self.memory.ram_mfn :].tobytes()
        )

    # Hypercalls

    def call(self, number: int, *arguments: int, vcpu: Vcpu | None = None) -> int:
        """Make a hypercall through the dispatcher; returns what the guest gets in rax, signed.

        One that gives way is made again, as by the instruction, until it is done or the domain
        stops. Events are masked meanwhile, as they are in the guest's callback.
        """
        vcpu = vcpu or self.vcpu
        registers = vcpu.cpu.registers
        registers.rax = number
        names = ("rdi", "rsi", "rdx", "r10", "r8")
        for name, value in zip(names, [*arguments, 0, 0, 0, 0, 0], strict=False):
            setattr(registers, name, value)
        mask = self.upcall_mask(vcpu)
        rip = registers.rip
        self.domain.dispatcher.hypercall(vcpu)
        while vcpu.cpu.registers.rip == rip - SYSCALL_LENGTH:
            self.domain.attend()
            if self.domain.stopping:
                break
            vcpu.cpu.registers.rip = rip
            self.set_upcall_mask(1, vcpu)
            self.domain.dispatcher.hypercall(vcpu)
            self.set_upcall_mask(mask, vcpu)
        result = vcpu.cpu.registers.rax
        return result - (1 << 64) if result >> 63 else result

    # vcpu_info

    def upcall_mask(self, vcpu: Vcpu | None = None) -> int:
        return int(self.memory.bytes[(vcpu or self.vcpu).info + MASK])

    def set_upcall_mask(self, value: int, vcpu: Vcpu | None = None) -> None:
        self.memory.bytes[(vcpu or self.vcpu).info + MASK] = value

    def upcall_pending(self, vcpu: Vcpu | None = None) -> int:
        return int(self.memory.bytes[(vcpu or self.vcpu).info + PENDING])

    def pending_selector(self, vcpu: Vcpu | None = None) -> int:
        return int(self.memory.words[(vcpu or self.vcpu).info + PENDING_SELECTOR >> 3])

    def take_events(self, vcpu: Vcpu | None = None) -> None:
        """What a guest's event callback does first."""
        vcpu = vcpu or self.vcpu
        self.memory.bytes[vcpu.info + PENDING] = 0
        self.memory.words[vcpu.info + PENDING_SELECTOR >> 3] = 0


@contextmanager
def small_domain(
    vcpus: int = 1, *, real_time: bool = False, **options: Any
) -> Iterator[SmallDomain]:
    """With a clock that stands still, or with the host's. ``options`` are those of ``Domain``."""
    with pytest.MonkeyPatch.context() as patch:
        host = None
        if not real_time:
            host = HostTime()
            patch.setattr(clock, "time", host)
        guest = SmallDomain(host, vcpus, **options)
        try:
            yield guest
        finally:
            guest.close()
