# SPDX-License-Identifier: GPL-2.0-or-later
"""mmu_update: change page-table entries, or the machine-to-phys table, in a batch.

Each request is a machine address, whose two low bits are the command, and a value. The first refused request ends the
batch; the count of those done is stored, if asked for.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from pyxen.abi.errno import EINVAL, ENOSYS, EPERM, ESRCH
from pyxen.abi.xen import (
    DOMID_IO,
    DOMID_SELF,
    DOMID_XEN,
    MMU_MACHPHYS_UPDATE,
    MMU_NORMAL_PT_UPDATE,
    MMU_PT_UPDATE_NO_TRANSLATE,
    MMU_PT_UPDATE_PRESERVE_AD,
    HYPERVISOR_mmu_update,
)
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_flags import PAGE_SHIFT, PAGE_SIZE
from pyxen.hypervisor.vcpu import Vcpu

_COMMAND: Final = 7
_REQUEST: Final = 16


@hypercall(HYPERVISOR_mmu_update)
def mmu_update(vcpu: Vcpu, requests: int, count: int, done: int, domains: int) -> int:
    """``domains``: whose tables are meant (upper half, 0 for the guest's own) and whose pages."""
    check_table_owner(vcpu, domains >> 16 & 0xFFFF)
    count &= UINT32
    finished = 0
    try:
        check_page_owner(vcpu, domains)
        while finished < count:
            address = requests + _REQUEST * finished
            # Not beyond the page: those before one that cannot be read count.
            in_page = max(1, (PAGE_SIZE - address % PAGE_SIZE) // _REQUEST)
            chunk = min(count - finished, in_page)
            words = guest_access.read_words(vcpu, address, 2 * chunk)
            for index in range(0, 2 * chunk, 2):
                _update(vcpu, words[index], words[index + 1])
                finished += 1
    finally:
        store_done(vcpu, done, finished)
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


def _update(vcpu: Vcpu, pointer: int, value: int) -> None:
    command = pointer & _COMMAND
    if command in (MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_NO_TRANSLATE):
        vcpu.domain.pagetables.update(pointer & ~_COMMAND, value, preserve_ad=False)
    elif command == MMU_PT_UPDATE_PRESERVE_AD:
        vcpu.domain.pagetables.update(pointer & ~_COMMAND, value, preserve_ad=True)
    elif command == MMU_MACHPHYS_UPDATE:
        mfn = pointer >> PAGE_SHIFT
        if not vcpu.domain.memory.is_domains(mfn):
            raise XenError(EINVAL)
        vcpu.domain.memory.m2p[mfn] = value
    else:
        raise XenError(ENOSYS)
