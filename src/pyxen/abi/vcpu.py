# SPDX-License-Identifier: GPL-2.0-or-later
"""vCPU operations (public/vcpu.h).

vcpu_op names an operation and a vCPU of the domain. A kernel starts a further vCPU by giving its
whole initial state (initialise, with a vcpu_guest_context) and then bringing it up. A vCPU has one
periodic and one single-shot timer, which both raise VIRQ_TIMER; kernels of today use the second.
The rest registers areas that Xen keeps up to date in the guest's memory: where the vcpu_info is to
be (instead of in the shared info page), the time spent in each run state, a copy of the time
record.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.layout import Layout
from pyxen.abi.names import names_of

VCPUOP_initialise: Final = 0
VCPUOP_up: Final = 1
VCPUOP_down: Final = 2
VCPUOP_is_up: Final = 3
VCPUOP_get_runstate_info: Final = 4
VCPUOP_register_runstate_memory_area: Final = 5
VCPUOP_set_periodic_timer: Final = 6
VCPUOP_stop_periodic_timer: Final = 7
VCPUOP_set_singleshot_timer: Final = 8
VCPUOP_stop_singleshot_timer: Final = 9
VCPUOP_register_vcpu_info: Final = 10
VCPUOP_send_nmi: Final = 11
VCPUOP_get_physid: Final = 12
VCPUOP_register_vcpu_time_memory_area: Final = 13
VCPUOP_register_runstate_phys_area: Final = 14
VCPUOP_register_vcpu_time_phys_area: Final = 15

VCPUOP_NAMES: Final[dict[int, str]] = names_of(globals(), "VCPUOP_")

# vcpu_runstate_info.state, and the index into its times.
RUNSTATE_running: Final = 0
RUNSTATE_runnable: Final = 1
RUNSTATE_blocked: Final = 2
RUNSTATE_offline: Final = 3

RUNSTATE_NAMES: Final[dict[int, str]] = names_of(globals(), "RUNSTATE_")

# Set in state_entry_time while Xen writes the record, if the guest asked for it by vm_assist.
XEN_RUNSTATE_UPDATE: Final = 1 << 63

# vcpu_set_singleshot_timer.flags: refuse with ETIME what is already past.
VCPU_SSHOTTMR_future: Final = 1 << 0

# Nanoseconds; time[RUNSTATE_*].
VCPU_RUNSTATE_INFO: Final = Layout(
    "vcpu_runstate_info_t",
    ("state", "i"),
    ("state_entry_time", "Q"),
    ("time", "4Q"),
)
VCPU_REGISTER_RUNSTATE_MEMORY_AREA: Final = Layout(
    "vcpu_register_runstate_memory_area_t",
    ("addr.p", "Q"),
)
VCPU_SET_PERIODIC_TIMER: Final = Layout("vcpu_set_periodic_timer_t", ("period_ns", "Q"))
VCPU_SET_SINGLESHOT_TIMER: Final = Layout(
    "vcpu_set_singleshot_timer_t",
    ("timeout_abs_ns", "Q"),
    ("flags", "I"),
)
VCPU_REGISTER_VCPU_INFO: Final = Layout(
    "vcpu_register_vcpu_info_t",
    ("mfn", "Q"),
    ("offset", "I"),
    ("rsvd", "I"),
)

# phys_id: the APIC number in the low half, the ACPI number in the high half.
VCPU_GET_PHYSID: Final = Layout("vcpu_get_physid_t", ("phys_id", "Q"))
VCPU_REGISTER_TIME_MEMORY_AREA: Final = Layout(
    "vcpu_register_time_memory_area_t",
    ("addr.p", "Q"),
)

NOT_IN_HEADERS: Final[dict[str, str]] = {
    "VCPUOP_register_runstate_phys_area": "later than Xen 4.17",
    "VCPUOP_register_vcpu_time_phys_area": "later than Xen 4.17",
}
