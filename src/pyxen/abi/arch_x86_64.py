# SPDX-License-Identifier: GPL-2.0-or-later
"""The x86-64 parts of the interface (public/arch-x86/xen.h, arch-x86/xen-x86_64.h).

A 64-bit PV kernel runs without privilege, at ring 3 like its own processes, in an address space
whose part from HYPERVISOR_VIRT_START to HYPERVISOR_VIRT_END belongs to Xen. It makes a hypercall
by calling into its hypercall page at number * 32, or by a bare `syscall`: number in rax, arguments
in rdi, rsi, rdx, r10, r8, result in rax; rcx and r11 are lost. It has no IDT: it hands Xen a table
of `TRAP_INFO`, and Xen delivers a trap by building on the kernel's stack the frame that the
processor would have built, with rcx and r11 above it. It goes back to user mode with the iret
hypercall, from an `IRET_CONTEXT` on its stack. It has no GDT register either: the first
FIRST_RESERVED_GDT_PAGE pages of the GDT are its own frames, the next ones are Xen's and hold the
flat segments of FLAT_*. The machine-to-physical table (mfn -> pfn, 8 bytes each) is readable from
MACH2PHYS_VIRT_START.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.layout import Layout

# Segment selectors in Xen's part of every GDT. 64-bit data segments are the null selector.
FLAT_RING3_CS32: Final = 0xE023
FLAT_RING3_CS64: Final = 0xE033
FLAT_RING3_DS32: Final = 0xE02B
FLAT_RING3_DS64: Final = 0x0000
FLAT_RING3_SS32: Final = 0xE02B
FLAT_RING3_SS64: Final = 0xE02B

FLAT_KERNEL_DS64: Final = FLAT_RING3_DS64
FLAT_KERNEL_DS32: Final = FLAT_RING3_DS32
FLAT_KERNEL_DS: Final = FLAT_KERNEL_DS64
FLAT_KERNEL_CS64: Final = FLAT_RING3_CS64
FLAT_KERNEL_CS32: Final = FLAT_RING3_CS32
FLAT_KERNEL_CS: Final = FLAT_KERNEL_CS64
FLAT_KERNEL_SS64: Final = FLAT_RING3_SS64
FLAT_KERNEL_SS32: Final = FLAT_RING3_SS32
FLAT_KERNEL_SS: Final = FLAT_KERNEL_SS64

FLAT_USER_DS64: Final = FLAT_RING3_DS64
FLAT_USER_DS32: Final = FLAT_RING3_DS32
FLAT_USER_DS: Final = FLAT_USER_DS64
FLAT_USER_CS64: Final = FLAT_RING3_CS64
FLAT_USER_CS32: Final = FLAT_RING3_CS32
FLAT_USER_CS: Final = FLAT_USER_CS64
FLAT_USER_SS64: Final = FLAT_RING3_SS64
FLAT_USER_SS32: Final = FLAT_RING3_SS32
FLAT_USER_SS: Final = FLAT_USER_SS64

# GDT pages, bytes and entries of the guest; what follows them is Xen's.
FIRST_RESERVED_GDT_PAGE: Final = 14
FIRST_RESERVED_GDT_BYTE: Final = FIRST_RESERVED_GDT_PAGE * 4096
FIRST_RESERVED_GDT_ENTRY: Final = FIRST_RESERVED_GDT_BYTE // 8

# vCPUs whose vcpu_info is in the shared info page; others register their own.
XEN_LEGACY_MAX_VCPUS: Final = 32

# Virtual addresses that belong to Xen, and in them the machine-to-physical table.
HYPERVISOR_VIRT_START: Final = 0xFFFF800000000000
HYPERVISOR_VIRT_END: Final = 0xFFFF880000000000
MACH2PHYS_VIRT_START: Final = 0xFFFF800000000000
MACH2PHYS_VIRT_END: Final = 0xFFFF804000000000
MACH2PHYS_NR_ENTRIES: Final = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) >> 3

# First argument of set_segment_base. USER_SEL loads a selector into the user's gs.
SEGBASE_FS: Final = 0
SEGBASE_GS_USER: Final = 1
SEGBASE_GS_KERNEL: Final = 2
SEGBASE_GS_USER_SEL: Final = 3

# Flags of vcpu_guest_context and, the last one, of iret_context.
VGCF_i387_valid: Final = 1 << 0
VGCF_in_kernel: Final = 1 << 2
VGCF_failsafe_disables_events: Final = 1 << 3
VGCF_syscall_disables_events: Final = 1 << 4
VGCF_online: Final = 1 << 5
VGCF_in_syscall: Final = 1 << 8

# Parts of trap_info.flags (the header has the macros TI_GET_DPL and TI_GET_IF): who may raise the
# vector by a software interrupt, and whether delivery masks events.
TI_DPL_MASK: Final = 3
TI_IF_MASK: Final = 4

XEN_CPUID_NO_SUBLEAF: Final = 0xFFFFFFFF

# Port to which a guest may write characters for Xen's own console.
XEN_HVM_DEBUGCONS_IOPORT: Final = 0xE9

# Instruction bytes ud2, 'x', 'e', 'n': Xen emulates the instruction that follows. With cpuid it is
# the only way in which a PV guest sees the leaves that Xen means for it.
XEN_EMULATE_PREFIX: Final = b"\x0f\x0bxen"
XEN_CPUID: Final = XEN_EMULATE_PREFIX + b"\x0f\xa2"

# Set of emulated devices of an HVM or PVH domain.
XEN_X86_EMU_LAPIC: Final = 1 << 0
XEN_X86_EMU_HPET: Final = 1 << 1
XEN_X86_EMU_PM: Final = 1 << 2
XEN_X86_EMU_RTC: Final = 1 << 3
XEN_X86_EMU_IOAPIC: Final = 1 << 4
XEN_X86_EMU_PIC: Final = 1 << 5
XEN_X86_EMU_VGA: Final = 1 << 6
XEN_X86_EMU_IOMMU: Final = 1 << 7
XEN_X86_EMU_PIT: Final = 1 << 8
XEN_X86_EMU_USE_PIRQ: Final = 1 << 9
XEN_X86_EMU_VPCI: Final = 1 << 10
XEN_X86_EMU_ALL: Final = 0x7FF

XEN_X86_MSR_RELAXED: Final = 1 << 0
XEN_X86_MISC_FLAGS_MAX: Final = XEN_X86_MSR_RELAXED

# One entry of set_trap_table; an entry with address 0 ends the table.
TRAP_INFO: Final = Layout(
    "trap_info_t",
    ("vector", "B"),
    ("flags", "B"),
    ("cs", "H"),
    ("address", "Q"),
)

# What the iret hypercall finds at rsp. With VGCF_in_syscall in flags, r11, rcx, cs, ss are ignored.
IRET_CONTEXT: Final = Layout(
    "struct iret_context",
    ("rax", "Q"),
    ("r11", "Q"),
    ("rcx", "Q"),
    ("flags", "Q"),
    ("rip", "Q"),
    ("cs", "Q"),
    ("rflags", "Q"),
    ("rsp", "Q"),
    ("ss", "Q"),
)

CPU_USER_REGS: Final = Layout(
    "cpu_user_regs_t",
    ("r15", "Q"),
    ("r14", "Q"),
    ("r13", "Q"),
    ("r12", "Q"),
    ("rbp", "Q"),
    ("rbx", "Q"),
    ("r11", "Q"),
    ("r10", "Q"),
    ("r9", "Q"),
    ("r8", "Q"),
    ("rax", "Q"),
    ("rcx", "Q"),
    ("rdx", "Q"),
    ("rsi", "Q"),
    ("rdi", "Q"),
    ("error_code", "I"),
    ("entry_vector", "I"),
    ("rip", "Q"),
    ("cs", "H"),
    ("_pad0", "2x"),
    ("saved_upcall_mask", "B"),
    ("_pad1", "3x"),
    ("rflags", "Q"),
    ("rsp", "Q"),
    ("ss", "H"),
    ("_pad2", "6x"),
    ("es", "H"),
    ("_pad3", "6x"),
    ("ds", "H"),
    ("_pad4", "6x"),
    ("fs", "H"),
    ("_pad5", "6x"),
    ("gs", "H"),
    ("_pad6", "6x"),
)

# State in which a vCPU starts (VCPUOP_initialise). ctrlreg[1] holds the user page table; gdt_frames
# are mfns; fpu_ctxt is an FXSAVE image. user_regs is CPU_USER_REGS, trap_ctxt 256 of TRAP_INFO.
VCPU_GUEST_CONTEXT: Final = Layout(
    "vcpu_guest_context_t",
    ("fpu_ctxt", "512s"),
    ("flags", "Q"),
    ("user_regs", CPU_USER_REGS),
    ("trap_ctxt", (TRAP_INFO, 256)),
    ("ldt_base", "Q"),
    ("ldt_ents", "Q"),
    ("gdt_frames", "16Q"),
    ("gdt_ents", "Q"),
    ("kernel_ss", "Q"),
    ("kernel_sp", "Q"),
    ("ctrlreg", "8Q"),
    ("debugreg", "8Q"),
    ("event_callback_eip", "Q"),
    ("failsafe_callback_eip", "Q"),
    ("syscall_callback_eip", "Q"),
    ("vm_assist", "Q"),
    ("fs_base", "Q"),
    ("gs_base_kernel", "Q"),
    ("gs_base_user", "Q"),
)

# Part of vcpu_info: the faulting address of the last page fault.
ARCH_VCPU_INFO: Final = Layout("arch_vcpu_info_t", ("cr2", "Q"), ("pad", "Q"))

# Part of shared_info, written by the guest (but nmi_reason) for the tools: where its P2M is. The
# P2M is a tree of frames, or linear at p2m_vaddr if p2m_cr3 is not 0; p2m_generation is odd while
# it changes.
ARCH_SHARED_INFO: Final = Layout(
    "arch_shared_info_t",
    ("max_pfn", "Q"),
    ("pfn_to_mfn_frame_list_list", "Q"),
    ("nmi_reason", "Q"),
    ("p2m_cr3", "Q"),
    ("p2m_vaddr", "Q"),
    ("p2m_generation", "Q"),
)

# Items of a saved domain's CPU policy.
XEN_CPUID_LEAF: Final = Layout(
    "xen_cpuid_leaf_t",
    ("leaf", "I"),
    ("subleaf", "I"),
    ("a", "I"),
    ("b", "I"),
    ("c", "I"),
    ("d", "I"),
)
XEN_MSR_ENTRY: Final = Layout("xen_msr_entry_t", ("idx", "I"), ("flags", "I"), ("val", "Q"))
