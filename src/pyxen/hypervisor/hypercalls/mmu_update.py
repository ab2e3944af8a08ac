# SPDX-License-Identifier: GPL-2.0-or-later
"""mmu_update: change page-table entries, or the machine-to-phys table, in a batch.

Each request is a machine address, whose two low bits are the command, and a value. The first
refused request ends the batch; the count of those done is stored, if asked for.
"""

from __future__ import annotations

from contextlib import suppress

from pyxen.abi.errno import EPERM, ESRCH
from pyxen.abi.xen import (
    DOMID_IO,
    DOMID_SELF,
    DOMID_XEN,
    HYPERVISOR_mmu_update,
)
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_mmu_update)
def mmu_update(vcpu: Vcpu, requests: int, count: int, done: int, domains: int) -> int:
    """``domains``: whose tables are meant (upper half, 0 for the guest's own) and whose pages."""
    check_table_owner(vcpu, domains >> 16 & 0xFFFF)
    count &= UINT32
    tables = vcpu.domain.pagetables
    tables.done = 0
    try:
        check_page_owner(vcpu, domains)
        tables.apply_batch(vcpu, requests, count)
    finally:
        store_done(vcpu, done, tables.done)
    return 0


def store_done(vcpu: Vcpu, address: int, finished: int) -> None:
    """Tell how many were done, if it is asked for; a bad pointer is no error."""
    if address:
        with suppress(XenError):
            guest_access.write_u32(vcpu, address, finished)


def check_table_owner(vcpu: Vcpu, number: int) -> None:
    """0, or a domain's number plus one. Raises EPERM for domain 0, ESRCH for one that is not."""
    if number and number - 1 != vcpu.domain.domid:
        raise XenError(EPERM if number == 1 else ESRCH)


def check_page_owner(vcpu: Vcpu, domid: int) -> None:
    """Whose pages are meant: DOMID_SELF, as a domain's own number is no foreign one (ESRCH).

    Raises EPERM for the domains that there are, ESRCH for others.
    """
    domid &= 0xFFFF
    if domid in (0, DOMID_IO, DOMID_XEN):
        raise XenError(EPERM)
    if domid != DOMID_SELF:
        raise XenError(ESRCH)
