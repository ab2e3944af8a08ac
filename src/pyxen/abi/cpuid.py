# SPDX-License-Identifier: GPL-2.0-or-later
"""Xen's own CPUID leaves (public/arch-x86/cpuid.h).

From 0x40000000 on CPUID tells of the hypervisor. Leaf +0: the last leaf, and the signature
"XenVMMXenVMM" in ebx, ecx, edx. +1: version, major in the high half of eax. +2: number of
hypercall pages, the MSR that fills them, two words of features. +3: the TSC, in three sub-leaves:
mode, frequency and incarnation; offset and scale to nanoseconds; frequency of the host. +4:
features of HVM and PVH domains. +5: for PV domains, the width of machine addresses.
"""

from __future__ import annotations

from typing import Final

XEN_CPUID_FIRST_LEAF: Final = 0x40000000

XEN_CPUID_SIGNATURE_EBX: Final = 0x566E6558
XEN_CPUID_SIGNATURE_ECX: Final = 0x65584D4D
XEN_CPUID_SIGNATURE_EDX: Final = 0x4D4D566E

# Leaf +2, ecx.
XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD: Final = 1 << 0

# Leaf +3, sub-leaf 0: flags in eax, mode in ebx.
XEN_CPUID_TSC_EMULATED: Final = 1 << 0
XEN_CPUID_HOST_TSC_RELIABLE: Final = 1 << 1
XEN_CPUID_RDTSCP_INSTR_AVAIL: Final = 1 << 2
XEN_CPUID_TSC_MODE_DEFAULT: Final = 0
XEN_CPUID_TSC_MODE_ALWAYS_EMULATE: Final = 1
XEN_CPUID_TSC_MODE_NEVER_EMULATE: Final = 2
XEN_CPUID_TSC_MODE_PVRDTSCP: Final = 3

# Leaf +4, eax. The vCPU number is then in ebx, the domain number in ecx.
XEN_HVM_CPUID_APIC_ACCESS_VIRT: Final = 1 << 0
XEN_HVM_CPUID_X2APIC_VIRT: Final = 1 << 1
XEN_HVM_CPUID_IOMMU_MAPPINGS: Final = 1 << 2
XEN_HVM_CPUID_VCPU_ID_PRESENT: Final = 1 << 3
XEN_HVM_CPUID_DOMID_PRESENT: Final = 1 << 4
XEN_HVM_CPUID_EXT_DEST_ID: Final = 1 << 5
XEN_HVM_CPUID_UPCALL_VECTOR: Final = 1 << 6

# Leaf +5, ebx.
XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK: Final = 0xFF

XEN_CPUID_MAX_NUM_LEAVES: Final = 5

NOT_IN_HEADERS: Final[dict[str, str]] = {
    "XEN_CPUID_TSC_EMULATED": "named later than Xen 4.17, the bit is older",
    "XEN_CPUID_HOST_TSC_RELIABLE": "named later than Xen 4.17, the bit is older",
    "XEN_CPUID_RDTSCP_INSTR_AVAIL": "named later than Xen 4.17, the bit is older",
    "XEN_CPUID_TSC_MODE_DEFAULT": "named later than Xen 4.17, the value is older",
    "XEN_CPUID_TSC_MODE_ALWAYS_EMULATE": "named later than Xen 4.17, the value is older",
    "XEN_CPUID_TSC_MODE_NEVER_EMULATE": "named later than Xen 4.17, the value is older",
    "XEN_CPUID_TSC_MODE_PVRDTSCP": "named later than Xen 4.17, the value is older",
}
