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
)
from pyxen.abi.xen import VCPU_INFO
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.emulate.privileged import guest_cr4

if TYPE_CHECKING:
    from pyxen.engine.cpu import Cpu
    from pyxen.hypervisor.domain import Domain

TRAPS: Final = 256

PENDING: Final = VCPU_INFO.offsets["evtchn_upcall_pending"]
MASK: Final = VCPU_INFO.offsets["evtchn_upcall_mask"]
PENDING_SELECTOR: Final = VCPU_INFO.offsets["evtchn_pending_sel"]
CR2: Final = VCPU_INFO.offsets["arch"]

NO_DEADLINE: Final = 0


class Vcpu:
    """All attributes are plain data, so that a vCPU can be saved and restored.

    ``info`` is the machine address of its ``vcpu_info``, ``words`` machine memory. Times are
    system time in ns.
    """

    def __init__(self, domain: Domain, index: int, cpu: Cpu, info: int) -> None:
        self.domain = domain
        self.words = domain.memory.words
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
        self.nmi_callback = 0
        self.kernel_sp = 0
        self.kernel_ss = 0

        # Base tables: the mfns in use, 0 = none.
        self.kernel_table_mfn = 0
        self.user_table_mfn = 0

        # Virtual registers.
        self.iopl = 0
        self.cr4 = guest_cr4(0)
        self.debug_registers = [0] * 8
        self.ldt_base = 0
        self.ldt_entries = 0

        # Scheduling.
        self.up = False
        self.blocked = False
        self.polling: list[int] = []
        self.poll_deadline = NO_DEADLINE
        self.timer_deadline = NO_DEADLINE
        self.timer_port = 0
        self.timer_period = 0
        self.period_deadline = NO_DEADLINE

        self.runstate = RUNSTATE_offline
        self.runstate_since = 0
        self.runstate_times = [0] * len(RUNSTATE_NAMES)
        self.runstate_area = 0

    @property
    def runnable(self) -> bool:
        """Whether it would run if it had a processor."""
        return self.up and not self.blocked

    def block(self) -> None:
        """Wait for an event."""
        self.blocked = True
        self.domain.engine.stop()

    def wake(self) -> None:
        """An event or a time-out has come."""
        self.blocked = False
        self.polling = []
        self.poll_deadline = NO_DEADLINE

    def set_runstate(self, state: int, now: int) -> None:
        """Account the time in the last state and tell the guest, if it has an area for it."""
        self.runstate_times[self.runstate] += now - self.runstate_since
        self.runstate = state
        self.runstate_since = now
        if self.runstate_area:
            self.write_runstate()

    def waiting_state(self) -> int:
        """The run state of this vCPU while another one runs."""
        if not self.up:
            return RUNSTATE_offline
        return RUNSTATE_blocked if self.blocked else RUNSTATE_runnable

    def pack_runstate(self, since: int) -> bytes:
        """The ``vcpu_runstate_info`` of now."""
        return VCPU_RUNSTATE_INFO.pack(self.runstate, since, *self.runstate_times)

    def write_runstate(self) -> None:
        """Update the area of VCPUOP_register_runstate_memory_area.

        It lies at a linear address; while it is not mapped, nothing is written, as under Xen.
        """
        address = self.runstate_area
        entry_time = address + VCPU_RUNSTATE_INFO.offsets["state_entry_time"]
        since = self.runstate_since
        try:
            if self.domain.runstate_update_flag:
                guest_access.write_word(self, entry_time, since | XEN_RUNSTATE_UPDATE)
                guest_access.copy_to(self, address, self.pack_runstate(since | XEN_RUNSTATE_UPDATE))
                guest_access.write_word(self, entry_time, since)
            else:
                guest_access.copy_to(self, address, self.pack_runstate(since))
        except XenError:
            return
