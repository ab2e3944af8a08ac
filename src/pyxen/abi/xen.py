# SPDX-License-Identifier: GPL-2.0-or-later
"""The common part of the interface (public/xen.h).

A guest asks Xen for something by a hypercall: a number (HYPERVISOR_*) and up to five arguments in
registers, of which some are addresses of structures in the guest's memory; the result is zero or
more, or minus an error number (`errno`). `multicall` makes many calls in one. In the other
direction Xen tells a guest something through memory and events: one `SHARED_INFO` page for each
domain, in it one `VCPU_INFO` for each vCPU with the flag that an event waits and with what the
vCPU needs to compute the time from its TSC.

A PV guest owns machine frames (mfn) that are scattered over the machine, and numbers them itself
without gaps (pfn). Its page tables hold mfns, are read-only to it, and are changed through
`mmu_update` and `update_va_mapping`; `mmuext_op` pins tables, switches the base pointer and
flushes. The domain begins to run with rsi pointing at `START_INFO`, which names everything that
the builder has prepared: the list of its frames, the page tables, the shared info page, the
ramdisk, the command line, and the pages and ports of console and xenstore.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.arch_x86_64 import ARCH_SHARED_INFO, ARCH_VCPU_INFO, XEN_LEGACY_MAX_VCPUS
from pyxen.abi.layout import Layout
from pyxen.abi.names import names_of

# Hypercall numbers. Those named compat have an older form of the arguments.
HYPERVISOR_set_trap_table: Final = 0
HYPERVISOR_mmu_update: Final = 1
HYPERVISOR_set_gdt: Final = 2
HYPERVISOR_stack_switch: Final = 3
HYPERVISOR_set_callbacks: Final = 4
HYPERVISOR_fpu_taskswitch: Final = 5
HYPERVISOR_sched_op_compat: Final = 6
HYPERVISOR_platform_op: Final = 7
HYPERVISOR_set_debugreg: Final = 8
HYPERVISOR_get_debugreg: Final = 9
HYPERVISOR_update_descriptor: Final = 10
HYPERVISOR_memory_op: Final = 12
HYPERVISOR_multicall: Final = 13
HYPERVISOR_update_va_mapping: Final = 14
HYPERVISOR_set_timer_op: Final = 15
HYPERVISOR_event_channel_op_compat: Final = 16
HYPERVISOR_xen_version: Final = 17
HYPERVISOR_console_io: Final = 18
HYPERVISOR_physdev_op_compat: Final = 19
HYPERVISOR_grant_table_op: Final = 20
HYPERVISOR_vm_assist: Final = 21
HYPERVISOR_update_va_mapping_otherdomain: Final = 22
HYPERVISOR_iret: Final = 23
HYPERVISOR_vcpu_op: Final = 24
HYPERVISOR_set_segment_base: Final = 25
HYPERVISOR_mmuext_op: Final = 26
HYPERVISOR_xsm_op: Final = 27
HYPERVISOR_nmi_op: Final = 28
HYPERVISOR_sched_op: Final = 29
HYPERVISOR_callback_op: Final = 30
HYPERVISOR_xenoprof_op: Final = 31
HYPERVISOR_event_channel_op: Final = 32
HYPERVISOR_physdev_op: Final = 33
HYPERVISOR_hvm_op: Final = 34
HYPERVISOR_sysctl: Final = 35
HYPERVISOR_domctl: Final = 36
HYPERVISOR_kexec_op: Final = 37
HYPERVISOR_tmem_op: Final = 38
HYPERVISOR_argo_op: Final = 39
HYPERVISOR_xenpmu_op: Final = 40
HYPERVISOR_dm_op: Final = 41
HYPERVISOR_hypfs_op: Final = 42
HYPERVISOR_arch_0: Final = 48
HYPERVISOR_arch_1: Final = 49
HYPERVISOR_arch_2: Final = 50
HYPERVISOR_arch_3: Final = 51
HYPERVISOR_arch_4: Final = 52
HYPERVISOR_arch_5: Final = 53
HYPERVISOR_arch_6: Final = 54
HYPERVISOR_arch_7: Final = 55

HYPERCALL_NAMES: Final[dict[int, str]] = names_of(globals(), "HYPERVISOR_")

# Virtual interrupts. TIMER, DEBUG, XENOPROF and XENPMU are per vCPU, the others one per domain.
VIRQ_TIMER: Final = 0
VIRQ_DEBUG: Final = 1
VIRQ_CONSOLE: Final = 2
VIRQ_DOM_EXC: Final = 3
VIRQ_TBUF: Final = 4
VIRQ_DEBUGGER: Final = 6
VIRQ_XENOPROF: Final = 7
VIRQ_CON_RING: Final = 8
VIRQ_PCPU_STATE: Final = 9
VIRQ_MEM_EVENT: Final = 10
VIRQ_ARGO: Final = 11
VIRQ_ENOMEM: Final = 12
VIRQ_XENPMU: Final = 13
VIRQ_ARCH_0: Final = 16
VIRQ_ARCH_1: Final = 17
VIRQ_ARCH_2: Final = 18
VIRQ_ARCH_3: Final = 19
VIRQ_ARCH_4: Final = 20
VIRQ_ARCH_5: Final = 21
VIRQ_ARCH_6: Final = 22
VIRQ_ARCH_7: Final = 23
NR_VIRQS: Final = 24

VIRQ_NAMES: Final[dict[int, str]] = names_of(globals(), "VIRQ_")

# The two low bits of mmu_update.ptr.
MMU_NORMAL_PT_UPDATE: Final = 0
MMU_MACHPHYS_UPDATE: Final = 1
MMU_PT_UPDATE_PRESERVE_AD: Final = 2
MMU_PT_UPDATE_NO_TRANSLATE: Final = 3

MMU_NAMES: Final[dict[int, str]] = names_of(globals(), "MMU_")

# mmuext_op.cmd.
MMUEXT_PIN_L1_TABLE: Final = 0
MMUEXT_PIN_L2_TABLE: Final = 1
MMUEXT_PIN_L3_TABLE: Final = 2
MMUEXT_PIN_L4_TABLE: Final = 3
MMUEXT_UNPIN_TABLE: Final = 4
MMUEXT_NEW_BASEPTR: Final = 5
MMUEXT_TLB_FLUSH_LOCAL: Final = 6
MMUEXT_INVLPG_LOCAL: Final = 7
MMUEXT_TLB_FLUSH_MULTI: Final = 8
MMUEXT_INVLPG_MULTI: Final = 9
MMUEXT_TLB_FLUSH_ALL: Final = 10
MMUEXT_INVLPG_ALL: Final = 11
MMUEXT_FLUSH_CACHE: Final = 12
MMUEXT_SET_LDT: Final = 13
MMUEXT_NEW_USER_BASEPTR: Final = 15
MMUEXT_CLEAR_PAGE: Final = 16
MMUEXT_COPY_PAGE: Final = 17
MMUEXT_FLUSH_CACHE_GLOBAL: Final = 18
MMUEXT_MARK_SUPER: Final = 19
MMUEXT_UNMARK_SUPER: Final = 20

MMUEXT_NAMES: Final[dict[int, str]] = names_of(globals(), "MMUEXT_")

# Flags of update_va_mapping: what to flush, and on which vCPUs. With UVMF_MULTI the rest of the
# flags argument is the address of a bitmap of vCPUs, and 0 there means this vCPU alone.
UVMF_NONE: Final = 0
UVMF_TLB_FLUSH: Final = 1
UVMF_INVLPG: Final = 2
UVMF_FLUSHTYPE_MASK: Final = 3
UVMF_MULTI: Final = 0
UVMF_LOCAL: Final = 0
UVMF_ALL: Final = 1 << 2

CONSOLEIO_write: Final = 0
CONSOLEIO_read: Final = 1

CONSOLEIO_NAMES: Final[dict[int, str]] = names_of(globals(), "CONSOLEIO_")

# vm_assist: command, and which assistance (also bit numbers in vcpu_guest_context.vm_assist).
VMASST_CMD_enable: Final = 0
VMASST_CMD_disable: Final = 1

VMASST_TYPE_4gb_segments: Final = 0
VMASST_TYPE_4gb_segments_notify: Final = 1
VMASST_TYPE_writable_pagetables: Final = 2
VMASST_TYPE_pae_extended_cr3: Final = 3
VMASST_TYPE_architectural_iopl: Final = 4
VMASST_TYPE_runstate_update_flag: Final = 5
VMASST_TYPE_m2p_strict: Final = 32

VMASST_TYPE_NAMES: Final[dict[int, str]] = names_of(globals(), "VMASST_TYPE_")

# Domain numbers with a meaning of their own.
DOMID_FIRST_RESERVED: Final = 0x7FF0
DOMID_SELF: Final = 0x7FF0
DOMID_IO: Final = 0x7FF1
DOMID_XEN: Final = 0x7FF2
DOMID_COW: Final = 0x7FF3
DOMID_INVALID: Final = 0x7FF4
DOMID_IDLE: Final = 0x7FFF
DOMID_MASK: Final = 0x7FFF

# vcpu_time_info.flags.
XEN_PVCLOCK_TSC_STABLE_BIT: Final = 1 << 0
XEN_PVCLOCK_GUEST_STOPPED: Final = 1 << 1

MAX_GUEST_CMDLINE: Final = 1024

# start_info.flags.
SIF_PRIVILEGED: Final = 1 << 0
SIF_INITDOMAIN: Final = 1 << 1
SIF_MULTIBOOT_MOD: Final = 1 << 2
SIF_MOD_START_PFN: Final = 1 << 3
SIF_VIRT_P2M_4TOOLS: Final = 1 << 4
SIF_PM_MASK: Final = 0xFF << 8

# Value of dom0_vga_console_info.video_type.
XEN_VGATYPE_TEXT_MODE_3: Final = 0x03
XEN_VGATYPE_VESA_LFB: Final = 0x23
XEN_VGATYPE_EFI_LFB: Final = 0x70

# ptr: machine address of the entry, with an MMU_* command in its two low bits.
MMU_UPDATE: Final = Layout("mmu_update_t", ("ptr", "Q"), ("val", "Q"))

# Two unions, here by their largest members. arg1 is also linear_addr. arg2 is also vcpumask, an
# address, and nr_ents, which is its low 32 bits alone (the guest need not clear the others).
MMUEXT_OP: Final = Layout(
    "mmuext_op_t",
    ("cmd", "I"),
    ("arg1.mfn", "Q"),
    ("arg2.src_mfn", "Q"),
)

# The C type of result is unsigned; it is read as the signed number that it means.
MULTICALL_ENTRY: Final = Layout("multicall_entry_t", ("op", "Q"), ("result", "q"), ("args", "6Q"))

# version is odd while Xen writes. Nanoseconds since boot are
# system_time + (((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >> 32).
VCPU_TIME_INFO: Final = Layout(
    "vcpu_time_info_t",
    ("version", "I"),
    ("pad0", "I"),
    ("tsc_timestamp", "Q"),
    ("system_time", "Q"),
    ("tsc_to_system_mul", "I"),
    ("tsc_shift", "b"),
    ("flags", "B"),
    ("pad1", "2x"),
)

# arch is ARCH_VCPU_INFO, time is VCPU_TIME_INFO.
VCPU_INFO: Final = Layout(
    "vcpu_info_t",
    ("evtchn_upcall_pending", "B"),
    ("evtchn_upcall_mask", "B"),
    ("evtchn_pending_sel", "Q"),
    ("arch", ARCH_VCPU_INFO),
    ("time", VCPU_TIME_INFO),
)

# The wall clock is the time of day at which system time was 0; wc_version as in vcpu_time_info.
SHARED_INFO: Final = Layout(
    "shared_info_t",
    ("vcpu_info", (VCPU_INFO, XEN_LEGACY_MAX_VCPUS)),
    ("evtchn_pending", "64Q"),
    ("evtchn_mask", "64Q"),
    ("wc_version", "I"),
    ("wc_sec", "I"),
    ("wc_nsec", "I"),
    ("wc_sec_hi", "I"),
    ("arch", ARCH_SHARED_INFO),
)

# shared_info is a machine address, store_mfn and console mfn are frames, pt_base, mfn_list and
# mod_start are virtual addresses (mod_start a pfn if SIF_MOD_START_PFN is set).
START_INFO: Final = Layout(
    "start_info_t",
    ("magic", "32s"),
    ("nr_pages", "Q"),
    ("shared_info", "Q"),
    ("flags", "I"),
    ("store_mfn", "Q"),
    ("store_evtchn", "I"),
    ("console.domU.mfn", "Q"),
    ("console.domU.evtchn", "I"),
    ("pt_base", "Q"),
    ("nr_pt_frames", "Q"),
    ("mfn_list", "Q"),
    ("mod_start", "Q"),
    ("mod_len", "Q"),
    ("cmd_line", f"{MAX_GUEST_CMDLINE}s"),
    ("first_p2m_pfn", "Q"),
    ("nr_p2m_frames", "Q"),
)

# Several ramdisks in one, listed at its front; offsets count from there, mod_start 0 ends the list.
XEN_MULTIBOOT_MOD_LIST: Final = Layout(
    "struct xen_multiboot_mod_list",
    ("mod_start", "I"),
    ("mod_end", "I"),
    ("cmdline", "I"),
    ("pad", "I"),
)

XEN_UUID: Final = Layout("xen_uuid_t", ("a", "16s"))
