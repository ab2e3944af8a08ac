# SPDX-License-Identifier: GPL-2.0-or-later
"""mmu_update: change page-table entries, or the machine-to-phys table, in a batch.

Each request is a machine address, whose three low bits are the command, and a value. The first
refused request ends the batch; the count of those done is stored, if asked for. A batch that gave
way goes on with the highest bit of its count set: what is stored is added to then.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from pyxen.abi.errno import EFAULT, ENOSYS, EPERM, ESRCH
from pyxen.abi.xen import (
    DOMID_IO,
    DOMID_SELF,
    DOMID_XEN,
    MMU_PT_UPDATE_NO_TRANSLATE,
    MMU_UPDATE,
    HYPERVISOR_mmu_update,
)
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32, is_guest_address
from pyxen.hypervisor.continuation import PREEMPTED, Continuation
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu

_DOM0: Final = 0
_MASK: Final = 0xFFFFFFFFFFFFFFFF
_COMMAND: Final = 7
_LAST_COMMAND: Final = MMU_PT_UPDATE_NO_TRANSLATE
_REQUEST: Final = MMU_UPDATE.size


@hypercall(HYPERVISOR_mmu_update)
def mmu_update(vcpu: Vcpu, requests: int, count: int, done: int, domains: int) -> int:
    """``domains``: whose tables are meant (upper half, 0 for the guest's own) and whose pages.

    Pages of DOMID_IO are devices; a domain without any gets nothing there, but is not refused.
    """
    return _update(vcpu, requests, count & UINT32, done, domains & UINT32)


def _update(vcpu: Vcpu, requests: int, count: int, done: int, domains: int) -> int:
    before = done_before(vcpu, done, count) if count & PREEMPTED else 0
    count &= ~PREEMPTED
    if not is_guest_address(requests):
        raise XenError(EFAULT)
    tables = vcpu.domain.pagetables
    tables.done = 0
    if domains != DOMID_SELF:
        _check_table_owner(vcpu, domains >> 16)
    try:
        if domains == DOMID_SELF:
            tables.apply_batch(vcpu, requests, count, False)
        else:
            _apply_for_others(vcpu, requests, count, domains)
    finally:
        if done:
            store_done(vcpu, done, before + tables.done)
    if tables.done < count:
        rest = requests + _REQUEST * tables.done & _MASK
        raise Continuation(rest, count - tables.done | PREEMPTED, done, domains)
    return 0


def _check_table_owner(vcpu: Vcpu, number: int) -> None:
    """0, or a domain's number plus one. Raises ESRCH for a domain that is not."""
    if number and number - 1 not in (vcpu.domain.domid, _DOM0):
        raise XenError(ESRCH)


def _apply_for_others(vcpu: Vcpu, requests: int, count: int, domains: int) -> None:
    """Pages that are not the guest's own, or whose tables are not."""
    page_owner = domains & 0xFFFF
    if page_owner not in (DOMID_SELF, DOMID_IO, DOMID_XEN, _DOM0):
        raise XenError(ESRCH)
    own_tables = domains >> 16 in (0, vcpu.domain.domid + 1)
    if own_tables and page_owner in (DOMID_SELF, DOMID_IO):
        vcpu.domain.pagetables.apply_batch(vcpu, requests, count, page_owner == DOMID_IO)
    elif count:
        _refuse(vcpu, requests)


def _refuse(vcpu: Vcpu, request: int) -> None:
    """A request for a domain that is out of reach: EPERM, if it is one at all."""
    (pointer,) = guest_access.read_words(vcpu, request, 1)
    raise XenError(EPERM if pointer & _COMMAND <= _LAST_COMMAND else ENOSYS)


def done_before(vcpu: Vcpu, address: int, count: int) -> int:
    """How many were done before the call gave way; a bad pointer is no error."""
    if count & PREEMPTED and address:
        with suppress(XenError):
            return int.from_bytes(guest_access.copy_from(vcpu, address, 4), "little")
    return 0


def store_done(vcpu: Vcpu, address: int, finished: int) -> None:
    """Tell how many were done, if it is asked for; a bad pointer is no error."""
    if address:
        with suppress(XenError):
            guest_access.write_u32(vcpu, address, finished & UINT32)


def check_page_owner(vcpu: Vcpu, domid: int) -> None:
    """Whose pages are meant: DOMID_SELF, as a domain's own number is no foreign one (ESRCH).

    Raises EPERM for the domains that there are, ESRCH for others.
    """
    domid &= 0xFFFF
    if domid in (_DOM0, DOMID_IO, DOMID_XEN):
        raise XenError(EPERM)
    if domid != DOMID_SELF:
        raise XenError(ESRCH)
