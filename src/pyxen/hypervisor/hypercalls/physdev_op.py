# SPDX-License-Identifier: GPL-2.0-or-later
"""physdev_op: I/O privileges and physical interrupts. A domain without hardware has few uses."""

from __future__ import annotations

from pyxen.abi.errno import EINVAL, ENOSYS, EPERM
from pyxen.abi.physdev import (
    PHYSDEV_SET_IOBITMAP,
    PHYSDEV_SET_IOPL,
    PHYSDEVOP_NAMES,
    PHYSDEVOP_set_iobitmap,
    PHYSDEVOP_set_iopl,
)
from pyxen.abi.xen import HYPERVISOR_physdev_op
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu

_MAX_PORTS = 65536


@hypercall(HYPERVISOR_physdev_op)
def physdev_op(vcpu: Vcpu, command: int, argument: int) -> int:
    command &= UINT32
    if command == PHYSDEVOP_set_iopl:
        (iopl,) = PHYSDEV_SET_IOPL.unpack(
            guest_access.copy_from(vcpu, argument, PHYSDEV_SET_IOPL.size)
        )
        if iopl > 3:
            raise XenError(EINVAL)
        vcpu.iopl = iopl
        return 0
    if command == PHYSDEVOP_set_iobitmap:
        _, ports = PHYSDEV_SET_IOBITMAP.unpack(
            guest_access.copy_from(vcpu, argument, PHYSDEV_SET_IOBITMAP.size)
        )
        if ports > _MAX_PORTS:
            raise XenError(EINVAL)
        return 0  # there are no ports that a program could reach
    if command in PHYSDEVOP_NAMES:
        raise XenError(EPERM)
    raise XenError(ENOSYS)
