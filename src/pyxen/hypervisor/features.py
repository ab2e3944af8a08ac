# SPDX-License-Identifier: GPL-2.0-or-later
"""The features that we offer to guests (XENVER_get_features) and check kernels against."""

from __future__ import annotations

from typing import Final

from pyxen.abi.features import (
    XENFEAT_gnttab_map_avail_bits,
    XENFEAT_mmu_pt_update_preserve_ad,
    XENFEAT_pae_pgdir_above_4gb,
)

FEATURES: Final = (
    1 << XENFEAT_pae_pgdir_above_4gb
    | 1 << XENFEAT_mmu_pt_update_preserve_ad
    | 1 << XENFEAT_gnttab_map_avail_bits
)
