# SPDX-License-Identifier: GPL-2.0-or-later
"""A virtual CPU: what Xen keeps of it beside the registers, which are the engine's."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from pyxen.abi.vcpu import (
    RUNSTATE_NAMES,
    VCPU_RUNSTATE_INFO,
    XEN_RUNSTATE_UPDATE,
    RUNSTATE_blocked,
    RUNSTATE_offline,
    RUNSTATE_runnable,
    RUNSTATE_running,
)
from pyxen.abi.xen import VCPU_INFO, VCPU_TIME_INFO
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.emulate.privileged import CR4_TSD, guest_cr4, iopl_ok
from pyxen.hypervisor.memory import VCPU_PAGES
from pyxen.hypervisor.msr import VcpuMsrs
from pyxen.hypervisor.page_flags import PAGE_SHIFT
from pyxen.hypervisor.page_types import WRITABLE
from pyxen.hypervisor.run_queue import ALL
from pyxen.hypervisor.timers import NO_DEADLINE, POLL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyxen.engine.cpu import Cpu
    from pyxen.hypervisor.domain import Domain

TRAPS: Final = 256
NMI: Final = 2
DESCRIPTOR_SIZE: Final = 8

PENDING: Final = VCPU_INFO.offsets["evtchn_upcall_pending"]
MASK: Final = VCPU_INFO.offsets["evtchn_upcall_mask"]
PENDING_SELECTOR: Final = VCPU_INFO.offsets["evtchn_pending_sel"]
CR2: Final = VCPU_INFO.offsets["arch"]

TIME: Final = VCPU_INFO.offsets["time"]

VPF_BLOCKED: Final = 1
VPF_DOWN: Final = 2
VPF_PAUSED: Final = 4
"""Why a vCPU does not run: it waits for an event, is not up, its domain is paused."""

NOT_POLLING: Final = 0
ANY_PORT: Final = -1

RUNSTATE_LATE: Final = 1
TIME_LATE: Final = 2


class Vcpu:
    """All attributes are plain data, so that a vCPU can be saved and restored.

    ``info`` is the machine address of its ``vcpu_info``, ``words`` machine memory. Times are
    system time in ns.
    """

    def __init__(self, domain: Domain, index: int, cpu: Cpu, info: int) -> None:
        self.domain = domain
        self.words = domain.memory.words
        self.code_frames = domain.memory.code_frames
        self.index = index
        self.cpu = cpu
        self.info = info
        self.info_registered = False
        self.initialised = False

        # Traps and callbacks: linear addresses, 0 = none.
        self.trap_address = array("Q", bytes(8 * TRAPS))
        self.trap_flags = bytearray(TRAPS)
        self.trap_cs = array("H", bytes(2 * TRAPS))
        self.event_callback = 0
        self.failsafe_callback = 0
        self.failsafe_masks_events = False
        self.syscall_callback = 0
        self.syscall_masks_events = False
        self.syscall32_callback = 0
        self.sysenter_callback = 0
        self.sysenter_masks_events = False
        self.nmi_pending = False
        self.nmi_masked = False
        self.kernel_sp = 0
        self.kernel_ss = 0

        # Base tables: the mfns in use, 0 = none.
        self.kernel_table_mfn = 0
        self.user_table_mfn = 0

        # Virtual registers.
        self.iopl = 0
        self.port_breakpoints = False
        self.io_bitmap = 0
        self.io_bitmap_ports = 0
        self.cr4 = guest_cr4(0)
        self.msrs = VcpuMsrs()
        self.debug_registers = [0, 0, 0, 0, 0, 0, 0xFFFF0FF0, 0x400]
        self.ldt_base = 0
        self.ldt_entries = 0
        self.descriptor_pages = domain.memory.gdt_entries + index * VCPU_PAGES
        """Where in ``words`` the entries are that map its GDT and, from the 16th on, its LDT."""

        # Scheduling.
        self.pause_flags = VPF_DOWN
        self.polling = NOT_POLLING
        self.hard_affinity = ALL
        self.soft_affinity = ALL

        self.runstate = RUNSTATE_offline
        self.runstate_since = 0
        self.runstate_times = [0] * len(RUNSTATE_NAMES)
        self.runstate_area = 0
        self.time_area = 0
        self.areas_late = 0

    def set_iopl(self, value: int) -> None:
        """The virtual I/O privilege level."""
        if value != self.iopl:
            self.iopl = value
            self.update_ports()

    def update_ports(self) -> None:
        """Tell the engine for whom port instructions need no trap: who may use all of them, as all
        are empty. With breakpoints on ports each of them traps."""
        permitted = [
            iopl_ok(
                kernel_mode=kernel_mode,
                architectural_iopl=self.domain.architectural_iopl,
                iopl=self.iopl,
            )
            and not self.port_breakpoints
            for kernel_mode in (True, False)
        ]
        self.cpu.set_empty_ports(*permitted)

    def load_cr4(self, value: int) -> None:
        """Write CR4 as the guest does, which has a say in a few bits of it."""
        self.cr4 = guest_cr4(value)
        registers = self.cpu.registers
        registers.cr4 = registers.cr4 & ~CR4_TSD | self.cr4 & CR4_TSD

    def held_frames(self) -> Iterator[tuple[int, int]]:
        """The frame of the vcpu_info, where the guest has named one, with its type."""
        if self.info_registered:
            yield self.info >> PAGE_SHIFT, WRITABLE

    def load_ldt(self) -> None:
        """Let the CPU use the LDT that ``ldt_base`` and ``ldt_entries`` tell of."""
        limit = self.ldt_entries * DESCRIPTOR_SIZE - 1 if self.ldt_entries else 0
        self.cpu.set_local_descriptor_table(self.domain.memory.ldt_address(self.index), limit)

    def raise_nmi(self) -> None:
        """Let it have a non-maskable interrupt; one that has not been delivered yet stays one."""
        self.nmi_pending = True
        self.wake()

    # Why it does not run

    @property
    def runnable(self) -> bool:
        """Whether it would run if it had a processor."""
        return self.pause_flags == 0

    @property
    def up(self) -> bool:
        return not self.pause_flags & VPF_DOWN

    @up.setter
    def up(self, value: bool) -> None:
        self.change_pause_flag(VPF_DOWN, not value)

    @property
    def blocked(self) -> bool:
        return bool(self.pause_flags & VPF_BLOCKED)

    @blocked.setter
    def blocked(self, value: bool) -> None:
        self.change_pause_flag(VPF_BLOCKED, value)

    def change_pause_flag(self, flag: int, value: bool) -> None:
        """Set or clear one of VPF_*; it runs only when all are clear."""
        if value:
            self.pause_flags |= flag
            self.domain.scheduler.vcpu_sleep(self)
        elif self.pause_flags & flag:
            self.pause_flags &= ~flag
            self.domain.scheduler.vcpu_wake(self)

    def block(self) -> None:
        """Wait for an event."""
        self.blocked = True

    def poll(self, port: int, deadline: int) -> None:
        """Wait for this port or ANY_PORT, or until this time, if it is not NO_DEADLINE."""
        self.polling = port
        self.domain.scheduler.pollers.add(self.index)
        self.domain.timers.set(self, POLL, deadline)
        self.blocked = True

    def wake(self) -> None:
        """An event or a time-out has come."""
        if self.polling != NOT_POLLING:
            self.polling = NOT_POLLING
            self.domain.scheduler.pollers.discard(self.index)
            self.domain.timers.set(self, POLL, NO_DEADLINE)
        self.blocked = False

    def mark_events_pending(self) -> None:
        """Tell the vCPU that there are events; the first news of all wakes it up."""
        view = self.domain.memory.bytes
        pending = view[self.info + PENDING]
        if not pending & 1:
            view[self.info + PENDING] = pending | 1
            self.wake()

    # Run states

    def set_runstate(self, state: int, now: int) -> None:
        """Account for the time in the last state."""
        if state == self.runstate:
            return
        self._account(now)
        self.runstate = state

    def _account(self, now: int) -> None:
        passed = now - self.runstate_since
        if passed > 0:
            self.runstate_times[self.runstate] += passed
            self.runstate_since = now

    def note_stolen(self, stolen: int, now: int) -> None:
        """It was taken to run until now, but so many of the last ns it only could have run."""
        self._account(now)
        self.runstate_times[RUNSTATE_running] -= stolen
        self.runstate_times[RUNSTATE_runnable] += stolen

    def waiting_state(self) -> int:
        """The run state of this vCPU while another one runs."""
        if self.blocked:
            return RUNSTATE_blocked
        return RUNSTATE_runnable if self.runnable else RUNSTATE_offline

    def runstate_now(self) -> bytes:
        """The ``vcpu_runstate_info`` with the times up to now; asking changes nothing."""
        times = list(self.runstate_times)
        times[self.runstate] += max(0, self.domain.clock.now() - self.runstate_since)
        return VCPU_RUNSTATE_INFO.pack(self.runstate, self.runstate_since, *times)

    # Areas that Xen keeps up to date. They lie at linear addresses, and are written by way of the
    # page tables of the moment: those of user mode do not map the kernel's memory, and the update
    # is made up for when the kernel is entered. What is mapped nowhere is not written.

    def update_runstate_area(self) -> None:
        """The area of VCPUOP_register_runstate_memory_area; at each change of the vCPU that runs.

        A kernel that has asked for it finds XEN_RUNSTATE_UPDATE set while the area is written.
        """
        address = self.runstate_area
        if not address:
            return
        since = self.runstate_since
        times = self.runstate_times
        flag_at = address + VCPU_RUNSTATE_INFO.offsets["state_entry_time"] + 7
        try:
            if self.domain.runstate_update_flag:
                flagged = since | XEN_RUNSTATE_UPDATE
                guest_access.copy_to_area(self, flag_at, (flagged >> 56).to_bytes())
                guest_access.copy_to_area(
                    self, address, VCPU_RUNSTATE_INFO.pack(self.runstate, flagged, *times)
                )
                guest_access.copy_to_area(self, flag_at, (since >> 56).to_bytes())
            else:
                guest_access.copy_to_area(
                    self, address, VCPU_RUNSTATE_INFO.pack(self.runstate, since, *times)
                )
        except XenError:
            self._be_late(RUNSTATE_LATE)

    def update_time_area(self) -> None:
        """The copy of the time record of VCPUOP_register_vcpu_time_memory_area."""
        address = self.time_area
        if not address:
            return
        start = self.info + TIME
        record = bytes(self.domain.memory.bytes[start : start + VCPU_TIME_INFO.size])
        version = int.from_bytes(record[:4], "little")
        odd = (version - 1 & 0xFFFFFFFF).to_bytes(4, "little")
        try:
            guest_access.copy_to_area(self, address, odd)
            guest_access.copy_to_area(self, address, odd + record[4:])
            guest_access.copy_to_area(self, address, record[:4])
        except XenError:
            self._be_late(TIME_LATE)

    def _be_late(self, area: int) -> None:
        if self.cpu.user_mode:
            self.areas_late |= area

    def update_late_areas(self) -> None:
        """The kernel is entered from user mode."""
        late = self.areas_late
        self.areas_late = 0
        if late & RUNSTATE_LATE:
            self.update_runstate_area()
        if late & TIME_LATE:
            self.update_time_area()
