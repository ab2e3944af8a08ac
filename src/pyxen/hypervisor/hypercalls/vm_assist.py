# SPDX-License-Identifier: GPL-2.0-or-later
"""vm_assist: switch on what Xen does for the guest beyond the plain interface."""

from __future__ import annotations

from typing import Final

from pyxen.abi.errno import EINVAL, ENOSYS
from pyxen.abi.xen import (
    HYPERVISOR_vm_assist,
    VMASST_CMD_disable,
    VMASST_CMD_enable,
    VMASST_TYPE_4gb_segments,
    VMASST_TYPE_4gb_segments_notify,
    VMASST_TYPE_architectural_iopl,
    VMASST_TYPE_m2p_strict,
    VMASST_TYPE_pae_extended_cr3,
    VMASST_TYPE_runstate_update_flag,
    VMASST_TYPE_writable_pagetables,
)
from pyxen.errors import XenError
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu

_VALID: Final = (
    VMASST_TYPE_4gb_segments,
    VMASST_TYPE_4gb_segments_notify,
    VMASST_TYPE_writable_pagetables,
    VMASST_TYPE_pae_extended_cr3,
    VMASST_TYPE_architectural_iopl,
    VMASST_TYPE_runstate_update_flag,
    VMASST_TYPE_m2p_strict,
)


@hypercall(HYPERVISOR_vm_assist)
def vm_assist(vcpu: Vcpu, command: int, kind: int) -> int:
    command &= UINT32
    kind &= UINT32
    if kind not in _VALID:
        raise XenError(EINVAL)
    if command == VMASST_CMD_enable:
        vcpu.domain.vm_assist |= 1 << kind
    elif command == VMASST_CMD_disable:
        vcpu.domain.vm_assist &= ~(1 << kind)
    else:
        raise XenError(ENOSYS)
    if kind == VMASST_TYPE_architectural_iopl:
        for each in vcpu.domain.vcpus:
            each.update_ports()
    return 0
