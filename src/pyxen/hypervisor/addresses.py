# SPDX-License-Identifier: GPL-2.0-or-later
"""Which linear addresses a 64-bit PV guest may name to Xen."""

from __future__ import annotations

from typing import Final

from pyxen.abi.arch_x86_64 import HYPERVISOR_VIRT_END

UINT32: Final = 0xFFFFFFFF
"""Arguments that Xen declares as int or unsigned int: only these bits of the register count."""

_LOW_END: Final = 1 << 47


def is_guest_address(address: int) -> bool:
    """Whether an address lies in the lower half or above Xen's range (Xen's ``__addr_ok``)."""
    return address < _LOW_END or address >= HYPERVISOR_VIRT_END
