# SPDX-License-Identifier: GPL-2.0-or-later
"""What emulated instructions of a real vCPU reach in memory."""

from __future__ import annotations

import pytest
from small_domain import FREE, L3, TABLE, SmallDomain

from pyxen.hypervisor.page_flags import ACCESSED, DIRTY, PAGE_SIZE, PRESENT, RW
from pyxen.hypervisor.privileged_host import GuestFault, VcpuPrivileges

END = 1 << 64
PAGE_FAULT = 14
WRITE = 2


def test_access_across_the_end_of_the_address_space(guest: SmallDomain) -> None:
    """Addresses go on from 0, as a CPU's do, where this guest has mapped nothing."""
    guest.set_entry(L3, 511, guest.mfn(FREE), TABLE)
    guest.set_entry(FREE, 511, guest.mfn(FREE + 1), TABLE)
    guest.set_entry(FREE + 1, 511, guest.mfn(FREE + 2), PRESENT | RW | ACCESSED | DIRTY)
    host = VcpuPrivileges(guest.vcpu)
    host.write_linear(END - 4, b"last")
    assert host.read_linear(END - 4, 4) == b"last"
    with pytest.raises(GuestFault) as fault:
        host.write_linear(END - 2, b"over")
    error = fault.value
    assert (error.vector, error.error_code, error.address) == (PAGE_FAULT, WRITE, 0)
    with pytest.raises(GuestFault):
        host.read_linear(END - PAGE_SIZE, PAGE_SIZE + 1)
