# SPDX-License-Identifier: GPL-2.0-or-later
"""update_va_mapping: change the L1 entry that maps a linear address, and flush."""

from __future__ import annotations

from pyxen.abi.errno import EINVAL
from pyxen.abi.xen import (
    UVMF_ALL,
    UVMF_FLUSHTYPE_MASK,
    UVMF_INVLPG,
    UVMF_LOCAL,
    UVMF_TLB_FLUSH,
    HYPERVISOR_update_va_mapping,
    HYPERVISOR_update_va_mapping_otherdomain,
)
from pyxen.errors import XenError
from pyxen.hypervisor.addresses import is_guest_address
from pyxen.hypervisor.hypercalls.mmu_update import check_page_owner
from pyxen.hypervisor.hypercalls.mmuext_op import read_vcpu_mask
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_update_va_mapping)
def update_va_mapping(vcpu: Vcpu, address: int, value: int, flags: int) -> int:
    return _update(vcpu, address, value, flags)


def _update(vcpu: Vcpu, address: int, value: int, flags: int) -> int:
    domain = vcpu.domain
    if not is_guest_address(address):
        raise XenError(EINVAL)
    tables = domain.pagetables
    tables.update_mapping(vcpu, address, value)
    kind = flags & UVMF_FLUSHTYPE_MASK
    # The vCPUs share one set of translations, so that a flush for any of them is one for all.
    if kind == UVMF_TLB_FLUSH:
        domain.engine.flush_tlb()
    elif kind == UVMF_INVLPG:
        domain.engine.flush_page(address)
    else:
        return 0
    mask = flags & ~UVMF_FLUSHTYPE_MASK
    if mask not in (UVMF_LOCAL, UVMF_ALL):
        read_vcpu_mask(vcpu, mask)
    return 0


@hypercall(HYPERVISOR_update_va_mapping_otherdomain)
def update_va_mapping_otherdomain(
    vcpu: Vcpu, address: int, value: int, flags: int, domid: int
) -> int:
    """Only a domain that may map another one's pages has a use for it."""
    check_page_owner(vcpu, domid)
    return _update(vcpu, address, value, flags)
