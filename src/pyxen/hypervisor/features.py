# SPDX-License-Identifier: GPL-2.0-or-later
"""The features that we offer to guests and check kernels against.

XENVER_get_features tells them; page directories above 4 GiB only to who has asked for them by
vm_assist."""

from __future__ import annotations

from typing import Final

from pyxen.abi.features import (
    XENFEAT_direct_mapped,
    XENFEAT_gnttab_map_avail_bits,
    XENFEAT_highmem_assist,
    XENFEAT_memory_op_vnode_supported,
    XENFEAT_mmu_pt_update_preserve_ad,
    XENFEAT_pae_pgdir_above_4gb,
)

FEATURES: Final = (
    1 << XENFEAT_pae_pgdir_above_4gb
    | 1 << XENFEAT_mmu_pt_update_preserve_ad
    | 1 << XENFEAT_highmem_assist
    | 1 << XENFEAT_gnttab_map_avail_bits
    | 1 << XENFEAT_memory_op_vnode_supported
    | 1 << XENFEAT_direct_mapped
)
