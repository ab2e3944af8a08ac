# SPDX-License-Identifier: GPL-2.0-or-later
"""nmi_op: the older way to register the NMI callback."""

from __future__ import annotations

from pyxen.abi.errno import EINVAL, ENOSYS
from pyxen.abi.nmi import XENNMI_CALLBACK, XENNMI_register_callback, XENNMI_unregister_callback
from pyxen.abi.xen import HYPERVISOR_nmi_op
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.callback_op import clear_nmi_callback, set_nmi_callback
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.msr import is_canonical
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_nmi_op)
def nmi_op(vcpu: Vcpu, command: int, argument: int) -> int:
    command &= UINT32
    if command == XENNMI_register_callback:
        address, _ = XENNMI_CALLBACK.unpack(
            guest_access.copy_from(vcpu, argument, XENNMI_CALLBACK.size)
        )
        if not is_canonical(address):
            raise XenError(EINVAL)
        set_nmi_callback(vcpu, address)
    elif command == XENNMI_unregister_callback:
        clear_nmi_callback(vcpu)
    else:
        raise XenError(ENOSYS)
    return 0
