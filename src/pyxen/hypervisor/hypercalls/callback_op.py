# SPDX-License-Identifier: GPL-2.0-or-later
"""callback_op: where Xen enters the guest kernel for events, failures, system calls and NMIs."""

from __future__ import annotations

from pyxen.abi.arch_x86_64 import FLAT_KERNEL_CS, TI_IF_MASK
from pyxen.abi.callback import (
    CALLBACK_REGISTER,
    CALLBACK_UNREGISTER,
    CALLBACKF_mask_events,
    CALLBACKOP_register,
    CALLBACKOP_unregister,
    CALLBACKTYPE_event,
    CALLBACKTYPE_failsafe,
    CALLBACKTYPE_nmi,
    CALLBACKTYPE_syscall,
    CALLBACKTYPE_syscall32,
    CALLBACKTYPE_sysenter,
)
from pyxen.abi.errno import EINVAL, ENOSYS
from pyxen.abi.xen import HYPERVISOR_callback_op
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.msr import is_canonical
from pyxen.hypervisor.vcpu import NMI, Vcpu


@hypercall(HYPERVISOR_callback_op)
def callback_op(vcpu: Vcpu, command: int, argument: int) -> int:
    command &= UINT32
    if command == CALLBACKOP_register:
        kind, flags, address = CALLBACK_REGISTER.unpack(
            guest_access.copy_from(vcpu, argument, CALLBACK_REGISTER.size)
        )
        register(vcpu, kind, flags, address)
    elif command == CALLBACKOP_unregister:
        (kind,) = CALLBACK_UNREGISTER.unpack(
            guest_access.copy_from(vcpu, argument, CALLBACK_UNREGISTER.size)
        )
        _unregister(vcpu, kind)
    else:
        raise XenError(ENOSYS)
    return 0


def register(vcpu: Vcpu, kind: int, flags: int, address: int) -> None:
    """Raises EINVAL for an address that is not canonical, ENOSYS for an unknown type."""
    if not is_canonical(address):
        raise XenError(EINVAL)
    masks = bool(flags & CALLBACKF_mask_events)
    if kind == CALLBACKTYPE_event:
        vcpu.event_callback = address
    elif kind == CALLBACKTYPE_failsafe:
        vcpu.failsafe_callback = address
        vcpu.failsafe_masks_events = masks
    elif kind == CALLBACKTYPE_syscall:
        vcpu.syscall_callback = address
        vcpu.syscall_masks_events = masks
    elif kind == CALLBACKTYPE_syscall32:
        # It masks events if the one for 64-bit programs does.
        vcpu.syscall32_callback = address
    elif kind == CALLBACKTYPE_sysenter:
        vcpu.sysenter_callback = address
        vcpu.sysenter_masks_events = masks
    elif kind == CALLBACKTYPE_nmi:
        set_nmi_callback(vcpu, address)
    else:
        raise XenError(ENOSYS)


def set_nmi_callback(vcpu: Vcpu, address: int) -> None:
    """The NMI callback is the handler of vector 2, and always masks events."""
    vcpu.trap_address[NMI] = address
    vcpu.trap_flags[NMI] = TI_IF_MASK
    vcpu.trap_cs[NMI] = FLAT_KERNEL_CS


def clear_nmi_callback(vcpu: Vcpu) -> None:
    vcpu.trap_address[NMI] = vcpu.trap_flags[NMI] = vcpu.trap_cs[NMI] = 0


def _unregister(vcpu: Vcpu, kind: int) -> None:
    """Only the NMI callback can be taken back; Xen's unregister_guest_callback."""
    if kind == CALLBACKTYPE_nmi:
        clear_nmi_callback(vcpu)
    elif kind in (
        CALLBACKTYPE_event,
        CALLBACKTYPE_failsafe,
        CALLBACKTYPE_syscall,
        CALLBACKTYPE_syscall32,
        CALLBACKTYPE_sysenter,
    ):
        raise XenError(EINVAL)
    else:
        raise XenError(ENOSYS)
