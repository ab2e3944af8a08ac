# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypercalls that a domU has no use for: each is refused as Xen refuses it.

They configure the machine or other domains (platform_op, sysctl, domctl, kexec_op, hypfs_op, mca),
serve device models (dm_op), count what the CPU does (xenoprof_op, xenpmu_op), or are not in the
usual build of Xen (xsm_op without a policy, argo_op, tmem_op). What matters is the order of the
checks: some operations read their argument and compare its interface version before they ask who
calls, and a guest can tell. Xen asks its security module; this is its built-in policy.
"""

from __future__ import annotations

from typing import Final, Never

from pyxen.abi import xen
from pyxen.abi.errno import (
    E2BIG,
    EACCES,
    EINVAL,
    ENODEV,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
)
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu

XENPF_INTERFACE_VERSION: Final = 0x03000001
XEN_SYSCTL_INTERFACE_VERSION: Final = 0x15
XEN_DOMCTL_INTERFACE_VERSION: Final = 0x15
_DOMCTL_createdomain: Final = 1
_DOMCTL_getdomaininfo: Final = 5
_DOMCTL_shadow_op: Final = 10
_DOMCTL_assign_device: Final = 37
_DOMCTL_test_assign_device: Final = 45
_DOMCTL_deassign_device: Final = 47
_DOMCTL_vm_event_op: Final = 56
_OPERATION_SIZE: Final = 136
_DOMCTL_SIZE: Final = 144
_DOMAIN_0: Final = 0
_DOMID_IO: Final = 0x7FF1
_DOMID_INVALID: Final = 0x7FF4

_XENOPROF_LAST: Final = 16
_XENOPROF_FOR_ALL: Final = (0, 8, 12, 13)  # init, enable_virq, disable_virq, get_buffer
_DM_OP_BUFFERS: Final = 2
_DM_OP_BUFFER_SIZE: Final = 16


def _word(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 4], "little")


@hypercall(xen.HYPERVISOR_platform_op)
def platform_op(vcpu: Vcpu, argument: int) -> Never:
    operation = guest_access.copy_from(vcpu, argument, _OPERATION_SIZE)
    raise XenError(EPERM if _word(operation, 4) == XENPF_INTERFACE_VERSION else EACCES)


@hypercall(xen.HYPERVISOR_sysctl)
def sysctl(vcpu: Vcpu, argument: int) -> Never:
    operation = guest_access.copy_from(vcpu, argument, _OPERATION_SIZE)
    raise XenError(EPERM if _word(operation, 4) == XEN_SYSCTL_INTERFACE_VERSION else EACCES)


@hypercall(xen.HYPERVISOR_domctl)
def domctl(vcpu: Vcpu, argument: int) -> Never:
    """Whether the domain exists is told before the caller is refused."""
    operation = guest_access.copy_from(vcpu, argument, _DOMCTL_SIZE)
    command, version, domid = _word(operation, 0), _word(operation, 4), _word(operation, 8) & 0xFFFF
    if version != XEN_DOMCTL_INTERFACE_VERSION:
        raise XenError(EACCES)
    device = command in (_DOMCTL_assign_device, _DOMCTL_deassign_device)
    if command in (_DOMCTL_createdomain, _DOMCTL_getdomaininfo) or (device and domid == _DOMID_IO):
        raise XenError(EPERM)
    without_domain = command in (_DOMCTL_test_assign_device, _DOMCTL_vm_event_op)
    if without_domain and domid == _DOMID_INVALID:
        raise XenError(EPERM)
    raise XenError(EPERM if _exists(vcpu, domid) else ESRCH)


@hypercall(xen.HYPERVISOR_arch_1)
def paging_domctl_cont(vcpu: Vcpu, argument: int) -> Never:
    """The continuation of a domctl, which is Xen's own."""
    operation = guest_access.copy_from(vcpu, argument, _DOMCTL_SIZE)
    version, command = _word(operation, 4), _word(operation, 0)
    if version != XEN_DOMCTL_INTERFACE_VERSION or command != _DOMCTL_shadow_op:
        raise XenError(EOPNOTSUPP)
    raise XenError(EPERM if _exists(vcpu, _word(operation, 8) & 0xFFFF) else ESRCH)


def _exists(vcpu: Vcpu, domid: int) -> bool:
    """By its number, not as DOMID_SELF."""
    return domid in (_DOMAIN_0, vcpu.domain.domid)


@hypercall(xen.HYPERVISOR_dm_op)
def dm_op(vcpu: Vcpu, domid: int, count: int, buffers: int) -> Never:
    """A device model's domain may not be its own, and has to be one without PV kernel."""
    if count & UINT32 > _DM_OP_BUFFERS:
        raise XenError(E2BIG)
    guest_access.copy_from(vcpu, buffers, (count & UINT32) * _DM_OP_BUFFER_SIZE)
    domid &= 0xFFFF
    if vcpu.domain.is_self(domid):
        raise XenError(EPERM)
    raise XenError(EINVAL if domid == _DOMAIN_0 else ESRCH)


@hypercall(xen.HYPERVISOR_xenoprof_op)
def xenoprof_op(vcpu: Vcpu, operation: int) -> Never:
    """A domU may join a profile that another domain takes; there is none of a CPU without counters
    that Xen knows."""
    operation &= UINT32
    if operation > _XENOPROF_LAST:
        raise XenError(EINVAL)
    raise XenError(ENODEV if operation in _XENOPROF_FOR_ALL else EPERM)


@hypercall(xen.HYPERVISOR_kexec_op)
def kexec_op(vcpu: Vcpu) -> Never:
    raise XenError(EPERM)


@hypercall(xen.HYPERVISOR_hypfs_op)
def hypfs_op(vcpu: Vcpu) -> Never:
    raise XenError(EPERM)


@hypercall(xen.HYPERVISOR_arch_0)
def mca(vcpu: Vcpu) -> Never:
    raise XenError(EPERM)


@hypercall(xen.HYPERVISOR_xenpmu_op)
def xenpmu_op(vcpu: Vcpu) -> Never:
    """Xen has performance counters for guests only if it was booted with ``vpmu=on``."""
    raise XenError(EOPNOTSUPP)


@hypercall(xen.HYPERVISOR_xsm_op)
def xsm_op(vcpu: Vcpu) -> Never:
    raise XenError(ENOSYS)


@hypercall(xen.HYPERVISOR_tmem_op)
def tmem_op(vcpu: Vcpu) -> Never:
    """Gone since Xen 4.13."""
    raise XenError(ENOSYS)


@hypercall(xen.HYPERVISOR_argo_op)
def argo_op(vcpu: Vcpu) -> Never:
    raise XenError(ENOSYS)
