# SPDX-License-Identifier: GPL-2.0-or-later
"""set_segment_base: the FS and GS bases, which a kernel without privileges cannot set."""

from __future__ import annotations

from pyxen.abi.arch_x86_64 import (
    SEGBASE_FS,
    SEGBASE_GS_KERNEL,
    SEGBASE_GS_USER,
    SEGBASE_GS_USER_SEL,
)
from pyxen.abi.errno import EINVAL
from pyxen.abi.xen import HYPERVISOR_set_segment_base
from pyxen.engine.registers import GS
from pyxen.errors import XenError
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.msr import is_canonical
from pyxen.hypervisor.segments import RPL, SegmentFault, check_data, segment_base
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_set_segment_base)
def set_segment_base(vcpu: Vcpu, which: int, base: int) -> int:
    which &= UINT32
    cpu = vcpu.cpu
    if which == SEGBASE_GS_USER_SEL:
        _load_user_gs(vcpu, base & 0xFFFF)
        return 0
    if not is_canonical(base):
        raise XenError(EINVAL)
    if which == SEGBASE_FS:
        cpu.registers.fs_base = base
    elif which == SEGBASE_GS_USER:
        cpu.inactive_gs_base = base
    elif which == SEGBASE_GS_KERNEL:
        cpu.registers.gs_base = base
    else:
        raise XenError(EINVAL)
    return 0


def _load_user_gs(vcpu: Vcpu, selector: int) -> None:
    """Load GS of user mode with a selector: its base becomes that of the descriptor.

    One that cannot be loaded becomes the null selector, and the call succeeds, as under Xen.
    """
    if selector > RPL:
        selector |= RPL
    try:
        descriptor = check_data(vcpu, selector)
    except SegmentFault:
        selector = descriptor = 0
    cpu = vcpu.cpu
    cpu.registers.words[GS] = selector
    cpu.inactive_gs_base = segment_base(descriptor)
