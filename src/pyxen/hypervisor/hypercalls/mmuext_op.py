# SPDX-License-Identifier: GPL-2.0-or-later
"""mmuext_op: what there is to do with page tables beside their entries: pin, switch, flush."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyxen.abi.errno import EACCES, EFAULT, EINVAL, ENOSYS, EOPNOTSUPP
from pyxen.abi.xen import (
    MMUEXT_CLEAR_PAGE,
    MMUEXT_COPY_PAGE,
    MMUEXT_FLUSH_CACHE,
    MMUEXT_FLUSH_CACHE_GLOBAL,
    MMUEXT_INVLPG_ALL,
    MMUEXT_INVLPG_LOCAL,
    MMUEXT_INVLPG_MULTI,
    MMUEXT_MARK_SUPER,
    MMUEXT_NAMES,
    MMUEXT_NEW_BASEPTR,
    MMUEXT_NEW_USER_BASEPTR,
    MMUEXT_OP,
    MMUEXT_PIN_L1_TABLE,
    MMUEXT_PIN_L4_TABLE,
    MMUEXT_SET_LDT,
    MMUEXT_TLB_FLUSH_ALL,
    MMUEXT_TLB_FLUSH_LOCAL,
    MMUEXT_TLB_FLUSH_MULTI,
    MMUEXT_UNMARK_SUPER,
    MMUEXT_UNPIN_TABLE,
    HYPERVISOR_mmuext_op,
)
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32, is_guest_address
from pyxen.hypervisor.continuation import PREEMPTED, Continuation
from pyxen.hypervisor.descriptor_tables import release_ldt_pages
from pyxen.hypervisor.guest_access import NOT_MAPPED, find_words
from pyxen.hypervisor.hypercalls.mmu_update import check_page_owner, done_before, store_done
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.page_types import WRITABLE

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

_MAX_LDT_ENTRIES: Final = 8192
_MASK: Final = 0xFFFFFFFFFFFFFFFF
_SIZE: Final = MMUEXT_OP.size
_NAMES: Final = {number: f"mmuext_op.{name.lower()}" for number, name in MMUEXT_NAMES.items()}


@hypercall(HYPERVISOR_mmuext_op)
def mmuext_op(vcpu: Vcpu, operations: int, count: int, done: int, domain: int) -> int:
    """The first refused operation ends the batch; the count of those done is stored."""
    return _execute(vcpu, operations, count & UINT32, done, domain)


def _execute(vcpu: Vcpu, operations: int, count: int, done: int, domain: int) -> int:
    before = done_before(vcpu, done, count) if count & PREEMPTED else 0
    count &= ~PREEMPTED
    if not is_guest_address(operations):
        raise XenError(EFAULT)
    check_page_owner(vcpu, domain)
    finished = 0
    counters = vcpu.domain.counters
    try:
        while finished < count:
            address = (operations + finished * _SIZE) & _MASK
            if finished and vcpu.domain.preempt_check(vcpu):
                raise Continuation(address, count - finished | PREEMPTED, done, domain)
            place = find_words(vcpu, address, _SIZE // 8)
            if place == NOT_MAPPED:
                raise XenError(EFAULT)
            words = vcpu.words
            command = words[place] & UINT32
            counters.add_operation(_NAMES.get(command, "mmuext_op.unknown"))
            _operate(vcpu, command, words[place + 1], words[place + 2])
            finished += 1
    finally:
        if done:
            store_done(vcpu, done, before + finished)
    return 0


def _operate(vcpu: Vcpu, command: int, first: int, second: int) -> None:
    domain = vcpu.domain
    if command in (MMUEXT_TLB_FLUSH_MULTI, MMUEXT_INVLPG_MULTI):
        _check_vcpu_mask(vcpu, second)
    if command in (MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_MULTI, MMUEXT_INVLPG_ALL):
        if is_guest_address(first):
            domain.engine.flush_page(first)
    elif command in (MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_TLB_FLUSH_MULTI, MMUEXT_TLB_FLUSH_ALL):
        domain.engine.flush_tlb()
    elif command == MMUEXT_NEW_BASEPTR:
        domain.load_kernel_base(vcpu, first)
    elif command == MMUEXT_NEW_USER_BASEPTR:
        domain.load_user_base(vcpu, first)
    elif MMUEXT_PIN_L1_TABLE <= command <= MMUEXT_PIN_L4_TABLE:
        domain.pagetables.pin(first, command - MMUEXT_PIN_L1_TABLE + 1)
    elif command == MMUEXT_UNPIN_TABLE:
        domain.pagetables.unpin(first)
    elif command == MMUEXT_SET_LDT:
        _set_ldt(vcpu, first, second & UINT32)
    elif command == MMUEXT_CLEAR_PAGE:
        _write_page(domain, first, bytes(PAGE_SIZE))
    elif command == MMUEXT_COPY_PAGE:
        if not domain.memory.is_owned(second):
            raise XenError(EINVAL)
        source = second * PAGE_SIZE
        _write_page(domain, first, bytes(domain.memory.bytes[source : source + PAGE_SIZE]))
    elif command == MMUEXT_FLUSH_CACHE:
        raise XenError(EACCES)  # for those who have devices
    elif command == MMUEXT_FLUSH_CACHE_GLOBAL:
        raise XenError(EINVAL)  # the same, by another number
    elif command in (MMUEXT_MARK_SUPER, MMUEXT_UNMARK_SUPER):
        raise XenError(EOPNOTSUPP)
    else:
        raise XenError(ENOSYS)


def _check_vcpu_mask(vcpu: Vcpu, address: int) -> None:
    """The vCPUs that are to flush share their translations; the bitmap must be there all the same.

    Raises EINVAL, whatever is wrong with it.
    """
    try:
        read_vcpu_mask(vcpu, address)
    except XenError:
        raise XenError(EINVAL) from None


def read_vcpu_mask(vcpu: Vcpu, address: int) -> list[int]:
    """A bitmap of vCPUs, in words. Raises EFAULT."""
    return guest_access.read_words(vcpu, address, -(-len(vcpu.domain.vcpus) // 64))


def _set_ldt(vcpu: Vcpu, base: int, entries: int) -> None:
    """Without entries the address does not matter."""
    if not entries:
        base = 0
    if entries > _MAX_LDT_ENTRIES or base % PAGE_SIZE or not is_guest_address(base):
        raise XenError(EINVAL)
    if (base, entries) == (vcpu.ldt_base, vcpu.ldt_entries):
        return
    if release_ldt_pages(vcpu):
        vcpu.domain.engine.flush_tlb()
    vcpu.ldt_base = base
    vcpu.ldt_entries = entries
    vcpu.load_ldt()


def _write_page(domain: Domain, mfn: int, data: bytes) -> None:
    """Fill a frame of the guest's that is in use as nothing but writable. Raises EINVAL."""
    domain.pagetables.get_page_and_type(mfn, WRITABLE)
    start = mfn * PAGE_SIZE
    domain.memory.bytes[start : start + PAGE_SIZE] = data
    domain.pagetables.put_page_and_type(mfn)
    domain.engine.invalidate_code(start, PAGE_SIZE)
