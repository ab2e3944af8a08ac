# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain: everything that Xen keeps of one guest.

All of it is data in this object and what hangs on it. One thread runs the vCPUs and may touch it;
another thread hands in work with ``post``, which is done between two instructions of the guest.
"""

from __future__ import annotations

import logging
import uuid
from collections import deque
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from pyxen.abi.arch_x86_64 import FLAT_KERNEL_CS, FLAT_KERNEL_SS, XEN_LEGACY_MAX_VCPUS
from pyxen.abi.errno import EINVAL, EPERM, ESRCH
from pyxen.abi.memory import E820_ENTRY, E820_RAM
from pyxen.abi.sched import SHUTDOWN_NAMES, SHUTDOWN_crash
from pyxen.abi.xen import DOMID_SELF, VCPU_INFO
from pyxen.engine.protocol import EngineError
from pyxen.engine.registers import RAX, RBX, RCX, RDX
from pyxen.errors import XenError
from pyxen.hypervisor.audit import audit, frame_holders
from pyxen.hypervisor.clock import Clock
from pyxen.hypervisor.cpuid import CpuidPolicy
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.descriptor_tables import release_gdt, release_ldt_pages
from pyxen.hypervisor.events import DEFAULT_MAX_EVENT_CHANNELS, EventChannels
from pyxen.hypervisor.grants import GrantLimits, GrantTable
from pyxen.hypervisor.hypercall_page import HYPERCALL_PAGE
from pyxen.hypervisor.instruments import Counters, Instrument, Statistics
from pyxen.hypervisor.memory import Memory
from pyxen.hypervisor.page_flags import PAGE_SHIFT, PAGE_SIZE
from pyxen.hypervisor.page_types import L4, NONE, WRITABLE
from pyxen.hypervisor.pagetables import PageTables
from pyxen.hypervisor.scheduler import Scheduler
from pyxen.hypervisor.timers import SINGLE_SHOT, Timers
from pyxen.hypervisor.traps import Traps
from pyxen.hypervisor.vcpu import MASK, PENDING, VPF_PAUSED, Vcpu

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pyxen.engine.protocol import Engine, Registers
    from pyxen.hypervisor.cpuid_names import Place
    from pyxen.hypervisor.dispatcher import Dispatcher

log = logging.getLogger("pyxen")

_GDT_LIMIT: Final = 0xEFFF  # the last page that Xen has reserved is the fifteenth
_CPUID_ANSWERS: Final = 256
"""So many are kept: a program asks for the same leaves each time it starts."""


class Domain:
    """One guest on one engine.

    It starts with ``nr_pages`` and may have up to ``max_pages``, by default all of the machine's.
    ``max_event_channels`` is the highest port that it can have, as in ``xl.cfg``.
    ``console_output`` gets what the guest writes with ``console_io``. ``stopping`` is set to the
    reason when the domain is to stop: one of SHUTDOWN_* by the guest, or a word of the tool stack.
    """

    def __init__(
        self,
        engine: Engine,
        nr_pages: int,
        *,
        max_pages: int | None = None,
        domid: int = 1,
        max_event_channels: int = DEFAULT_MAX_EVENT_CHANNELS,
        console_output: Callable[[bytes], None] = lambda data: None,
        grant_limits: GrantLimits | None = None,
    ) -> None:
        self.engine = engine
        self.domid = domid
        self.uuid = uuid.uuid4()
        self.console_output = console_output
        self.clock = Clock(engine.read_tsc)
        self.counters = Counters()
        self.instruments: list[Instrument] = []
        self.reported: set[str] = set()
        self.memory = Memory(engine, nr_pages, max_pages)
        self.pagetables = PageTables(self.memory)
        self.memory_map = E820_ENTRY.pack(0, self.memory.max_pages * PAGE_SIZE, E820_RAM)
        shared_info = self.memory.shared_info_mfn * PAGE_SIZE
        self.vcpus = []
        for index, cpu in enumerate(engine.cpus):
            info = shared_info + index * VCPU_INFO.size
            if index >= XEN_LEGACY_MAX_VCPUS:  # until it registers one of its own
                info = self.memory.dummy_info_mfn * PAGE_SIZE
            self.vcpus.append(Vcpu(self, index, cpu, info))
        for slot in range(XEN_LEGACY_MAX_VCPUS):
            self.memory.bytes[shared_info + slot * VCPU_INFO.size + MASK] = 1
        self.events = EventChannels(self, max_event_channels)
        self.grants = GrantTable(self.memory, self.pagetables, domid, grant_limits or GrantLimits())
        self.timers = Timers(self)
        self.scheduler = Scheduler(self)
        self.dispatcher: Dispatcher
        self.traps = Traps(self)
        engine.set_handler(self.traps)

        self._cpuid_answers: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self.stopping: str = ""
        self.vm_assist = 0
        self.shutdown_code: int | None = None
        self.pause_count = 0
        self.cpuid_overrides: Mapping[Place, str] = {}
        self.pirqs: set[int] = set()
        """Physical interrupt numbers that the guest has asked for; nothing is behind them."""
        self.pirq_eoi_map_mfn = 0
        """The page that would tell which of them need an acknowledgement; 0: none yet."""
        self.attention = False
        self._posted: deque[Callable[[], None]] = deque()
        self._start_ns = 0

    # What guests set by hypercalls, as seen by others

    @property
    def runstate_update_flag(self) -> bool:
        return bool(self.vm_assist >> 5 & 1)

    @property
    def architectural_iopl(self) -> bool:
        return bool(self.vm_assist >> 4 & 1)

    def is_self(self, domid: int) -> bool:
        return domid in (DOMID_SELF, self.domid)

    def check_is_self(self, domid: int) -> None:
        """Raises EPERM for domain 0, ESRCH for a domain that does not exist."""
        if not self.is_self(domid):
            raise XenError(ESRCH if domid else EPERM)

    # Building

    def install_hypervisor_slots(self, l4_mfn: int) -> None:
        self.memory.install_xen_slots(l4_mfn)

    def fill_hypercall_page(self, mfn: int) -> None:
        """Write the stubs of the hypercall page into a frame of the domain."""
        address = mfn * PAGE_SIZE
        self.memory.bytes[address : address + PAGE_SIZE] = HYPERCALL_PAGE
        self.engine.invalidate_code(address, PAGE_SIZE)

    def forget_code(self, mfn: int) -> None:
        """The frame was written to other than by guest code: what the engine has translated from
        it is void. Whoever writes to frames that a guest may execute calls this, where
        ``memory.code_frames[mfn]`` is set."""
        self.engine.invalidate_code(mfn << PAGE_SHIFT, PAGE_SIZE)

    def start(self, entry: int, stack_pointer: int, start_info: int, l4_mfn: int) -> None:
        """Let vCPU 0 begin at ``entry``: the last step of a builder.

        Takes the initial page tables for good: they are validated and pinned. Raises XenError if
        they are not what a guest may have.
        """
        self.pagetables.pin(l4_mfn, L4)
        vcpu = self.vcpus[0]
        self.set_up_cpu(vcpu)
        self.load_kernel_base(vcpu, l4_mfn)
        registers = vcpu.cpu.registers
        registers.rip = entry
        registers.rsp = stack_pointer
        registers.rsi = start_info
        vcpu.initialised = True
        vcpu.up = True
        self.clock.start()
        self.cpuid = CpuidPolicy(
            self.engine.native_cpuid,
            self.clock.khz,
            self.clock.mul,
            self.clock.shift,
            self.memory.frames,
            self.cpuid_overrides,
        )
        self._start_ns = perf_counter_ns()
        self.clock.write_wall_clock(self.memory.bytes, self.memory.shared_info_mfn * PAGE_SIZE)
        for each in self.vcpus:
            self.update_time(each)

    def update_time(self, vcpu: Vcpu) -> None:
        """Write the vCPU's time record, and the copy that the guest may have asked for."""
        if vcpu.index < XEN_LEGACY_MAX_VCPUS or vcpu.info_registered:
            self.clock.write(self.memory.bytes, vcpu.info)
            vcpu.update_time_area()

    def set_up_cpu(self, vcpu: Vcpu) -> None:
        """Bring a CPU to the state in which a vCPU starts: flat kernel segments, Xen's GDT."""
        vcpu.cpu.enter_kernel(FLAT_KERNEL_CS, FLAT_KERNEL_SS)
        vcpu.cpu.set_descriptor_table(self.memory.gdt_address(vcpu.index), _GDT_LIMIT)
        vcpu.cpu.registers.rflags = 0x202

    # Base tables

    def load_kernel_base(self, vcpu: Vcpu, mfn: int) -> None:
        """Let the vCPU's kernel mode run on an L4 table. Raises what ``get_page_and_type`` does."""
        old = vcpu.kernel_table_mfn
        if not mfn or mfn != old:
            self.pagetables.get_page_and_type(mfn, L4)
            release_ldt_pages(vcpu)
        vcpu.kernel_table_mfn = mfn
        vcpu.cpu.load_kernel_page_table(mfn << PAGE_SHIFT)
        if old and mfn != old:
            self.pagetables.put_page_and_type(old)

    def load_user_base(self, vcpu: Vcpu, mfn: int) -> None:
        """The same for user mode; 0 for none."""
        old = vcpu.user_table_mfn
        if mfn == old:
            return
        if mfn:
            self.pagetables.get_page_and_type(mfn, L4)
        vcpu.user_table_mfn = mfn
        vcpu.cpu.load_user_page_table(mfn << PAGE_SHIFT)
        if old:
            self.pagetables.put_page_and_type(old)

    def held_frames(self) -> Iterator[tuple[int, int]]:
        """The page for acknowledgements, with its type."""
        if self.pirq_eoi_map_mfn:
            yield self.pirq_eoi_map_mfn, WRITABLE

    def cpuid_into(self, registers: Registers) -> None:
        """Answer CPUID for the leaf in eax, ecx."""
        words = registers.words
        leaf = words[RAX] & 0xFFFFFFFF
        subleaf = words[RCX] & 0xFFFFFFFF if leaf in self.cpuid.leaves_with_subleaves else 0
        answer = self._cpuid_answers.get((leaf, subleaf))
        if answer is None:
            answer = self.cpuid.leaf(leaf, subleaf)
            if len(self._cpuid_answers) < _CPUID_ANSWERS:
                self._cpuid_answers[leaf, subleaf] = answer
        words[RAX], words[RBX], words[RCX], words[RDX] = answer

    # Running

    def run(self) -> str:
        """Run until the domain stops; returns why: ``stopping``.

        Raises DomainCrash when the guest did what Xen crashes a domain for, EngineError when it
        came to a state that the engine cannot execute.
        """
        try:
            self.scheduler.run()
        except (DomainCrash, EngineError):
            if self.shutdown_code is None:
                self.shutdown_code = SHUTDOWN_crash
            raise
        return self.stopping

    def stop(self, reason: str) -> None:
        """Make ``run`` return; the first reason stays. In the thread of the vCPUs."""
        self.stopping = self.stopping or reason
        self.engine.stop()

    def shutdown(self, reason: int) -> None:
        """The guest ends itself; ``reason`` is a SHUTDOWN_*, unless one has been set before.

        Xen takes any number; to a tool stack one that has no name is a crash.
        """
        if self.shutdown_code is None:
            self.shutdown_code = reason
        self.stop(SHUTDOWN_NAMES.get(self.shutdown_code, "crash"))

    def pause(self) -> None:
        """Let no vCPU run until as many ``unpause`` have come; from another thread by ``post``.

        Meanwhile a vCPU that could run is offline, as under Xen; a guest counts that as stolen.
        """
        self.pause_count += 1
        if self.pause_count == 1:
            for vcpu in self.vcpus:
                vcpu.change_pause_flag(VPF_PAUSED, True)

    def unpause(self) -> None:
        """Take back one ``pause``. Raises XenError(EINVAL) if there is none."""
        if not self.pause_count:
            raise XenError(EINVAL)
        self.pause_count -= 1
        if not self.pause_count:
            for vcpu in self.vcpus:
                vcpu.change_pause_flag(VPF_PAUSED, False)

    def post(self, work: Callable[[], None]) -> None:
        """From any thread: do this soon in the thread of the vCPUs."""
        self._posted.append(work)
        self.ring()

    def call_later(self, seconds: float, work: Callable[[], None]) -> None:
        """In the thread of the vCPUs: do this there after a time."""
        self.timers.call_at(self.clock.now() + int(seconds * 1e9), work)

    def ring(self) -> None:
        """From any thread: interrupt guest code, or the sleep of an idle domain."""
        self.attention = True
        self.scheduler.wake()
        self.engine.kick()

    def attend(self) -> None:
        """Do what was posted, and what is due. In the thread of the vCPUs."""
        self.attention = False
        while self._posted:
            self._posted.popleft()()
        now = self.clock.now()
        if self.timers.next and self.timers.next <= now:
            self.timers.fire(now)
        if self.clock.steer():
            for vcpu in self.vcpus:
                self.update_time(vcpu)
        self.scheduler.check(now)

    def linger(self, over: Callable[[], bool]) -> None:
        """After its end: do what is posted until ``over``. In the thread of the vCPUs."""
        while not over():
            self.scheduler.wait_woken()
            while self._posted:
                self._posted.popleft()()

    def preempt_check(self, vcpu: Vcpu) -> bool:
        """Whether a long hypercall of this vCPU is to be left, and continued later.

        Xen's hypercall_preempt_check: another thread wants something, a deadline has come, another
        vCPU is to run, or an event can be delivered. Whoever leaves must have made progress.
        """
        if self.scheduler.is_due():
            self.attention = True
        if self.attention or self.stopping or self.scheduler.switching or not vcpu.runnable:
            return True
        view = self.memory.bytes
        return bool(view[vcpu.info + PENDING]) and not view[vcpu.info + MASK]

    def set_timer(self, vcpu: Vcpu, deadline: int) -> None:
        """The single-shot timer: VIRQ_TIMER at this system time; NO_DEADLINE stops it."""
        self.timers.set(vcpu, SINGLE_SHOT, deadline)

    def report_once(self, message: str) -> None:
        """Log something that a guest can do without end, once."""
        if message not in self.reported:
            self.reported.add(message)
            log.warning("%s", message)

    def statistics(self) -> Statistics:
        """A snapshot of the counters."""
        wall = perf_counter_ns() - self._start_ns if self._start_ns else 0
        return replace(self.counters.statistics(wall), ports=self.events.statistics())

    def close(self) -> None:
        """Free what the domain holds. It cannot be used afterwards."""
        self.grants.release_all()
        self._relinquish()

    def audit(self) -> list[str]:
        """What is wrong with the counts of the domain's frames: nothing."""
        return audit(self)

    def _relinquish(self) -> None:
        """Give up all uses of frames, and then the frames."""
        tables = self.pagetables
        for vcpu in self.vcpus:
            for mfn in (vcpu.kernel_table_mfn, vcpu.user_table_mfn):
                if mfn:
                    tables.put_page_and_type(mfn)
            vcpu.kernel_table_mfn = vcpu.user_table_mfn = 0
            release_ldt_pages(vcpu)
            release_gdt(vcpu)
        for holder in frame_holders(self):
            for mfn, kind in holder.held_frames():
                if kind == NONE:
                    tables.put_page(mfn)
                else:
                    tables.put_page_and_type(mfn)
        tables.unpin_all()
        tables.release_all()
