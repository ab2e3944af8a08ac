# SPDX-License-Identifier: GPL-2.0-or-later
"""Features (public/features.h).

A feature is a bit on which guest and hypervisor agree. Xen tells its own by xen_version, 32 to a
word (get_features). A kernel says in its ELF notes which ones it can work with and which ones it
needs, as a bit map or as a string of names without XENFEAT_, separated by `|`, those needed with a
leading `!`. A builder refuses a kernel that needs what is not there.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.names import names_of

XENFEAT_writable_page_tables: Final = 0
XENFEAT_writable_descriptor_tables: Final = 1
XENFEAT_auto_translated_physmap: Final = 2
XENFEAT_supervisor_mode_kernel: Final = 3
XENFEAT_pae_pgdir_above_4gb: Final = 4
XENFEAT_mmu_pt_update_preserve_ad: Final = 5
XENFEAT_highmem_assist: Final = 6
XENFEAT_gnttab_map_avail_bits: Final = 7
XENFEAT_hvm_callback_vector: Final = 8
XENFEAT_hvm_safe_pvclock: Final = 9
XENFEAT_hvm_pirqs: Final = 10
XENFEAT_dom0: Final = 11
XENFEAT_grant_map_identity: Final = 12
XENFEAT_memory_op_vnode_supported: Final = 13
XENFEAT_ARM_SMCCC_supported: Final = 14
XENFEAT_linux_rsdp_unrestricted: Final = 15
XENFEAT_not_direct_mapped: Final = 16
XENFEAT_direct_mapped: Final = 17
XENFEAT_runstate_phys_area: Final = 18
XENFEAT_vcpu_time_phys_area: Final = 19
XENFEAT_dm_msix_all_writes: Final = 20

XENFEAT_NAMES: Final[dict[int, str]] = names_of(globals(), "XENFEAT_")

XENFEAT_NR_SUBMAPS: Final = 1

NOT_IN_HEADERS: Final[dict[str, str]] = {
    "XENFEAT_grant_map_identity": "withdrawn, but old kernels may name it; only a comment in 4.17",
    "XENFEAT_runstate_phys_area": "later than Xen 4.17",
    "XENFEAT_vcpu_time_phys_area": "later than Xen 4.17",
    "XENFEAT_dm_msix_all_writes": "later than Xen 4.17",
}
