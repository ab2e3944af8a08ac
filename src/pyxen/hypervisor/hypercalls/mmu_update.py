# SPDX-License-Identifier: GPL-2.0-or-later
"""mmu_update: change page-table entries, or the machine-to-phys table, in a batch.

Each request is a machine address, whose two low bits are the command, and a value. The first refused request ends the
batch; the count of those done is stored, if asked for.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.errno import EINVAL, ENOSYS, EPERM, ESRCH
from pyxen.abi.xen import (
    MMU_MACHPHYS_UPDATE,
    MMU_NORMAL_PT_UPDATE,
    MMU_PT_UPDATE_PRESERVE_AD,
    HYPERVISOR_mmu_update,
)
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_flags import PAGE_SHIFT
from pyxen.hypervisor.vcpu import Vcpu

_COMMAND: Final = 3
_CHUNK: Final = 256


@hypercall(HYPERVISOR_mmu_update)
def mmu_update(vcpu: Vcpu, requests: int, count: int, done: int, domains: int) -> int:
    """``domains``: whose memory is meant; only the guest's own. Raises ESRCH for others."""
    check_domains(vcpu, domains)
    count &= 0xFFFFFFFF
    finished = 0
    try:
        while finished < count:
            chunk = min(count - finished, _CHUNK)
            words = guest_access.read_words(vcpu, requests + 16 * finished, 2 * chunk)
            for index in range(0, 2 * chunk, 2):
                _update(vcpu, words[index], words[index + 1])
                finished += 1
    finally:
        if done:
            guest_access.write_u32(vcpu, done, finished)
    return 0


def check_domains(vcpu: Vcpu, domains: int) -> None:
    """Both halves of the argument name a domain: whose tables, whose pages (0: the same)."""
    tables, pages = domains & 0xFFFF, domains >> 16 & 0xFFFF
    if not vcpu.domain.is_self(tables):
        raise XenError(ESRCH if tables < 0x7FF0 else EPERM)
    if pages and not vcpu.domain.is_self(pages - 1):
        raise XenError(EPERM)


def _update(vcpu: Vcpu, pointer: int, value: int) -> None:
    command = pointer & _COMMAND
    if command == MMU_NORMAL_PT_UPDATE:
        vcpu.domain.pagetables.update(pointer, value, preserve_ad=False)
    elif command == MMU_PT_UPDATE_PRESERVE_AD:
        vcpu.domain.pagetables.update(pointer & ~_COMMAND, value, preserve_ad=True)
    elif command == MMU_MACHPHYS_UPDATE:
        mfn = pointer >> PAGE_SHIFT
        if not vcpu.domain.memory.is_domains(mfn):
            raise XenError(EINVAL)
        vcpu.domain.memory.m2p[mfn] = value
    else:
        raise XenError(ENOSYS)
