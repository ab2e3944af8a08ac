# SPDX-License-Identifier: GPL-2.0-or-later
"""xen_version: which Xen this is and what it can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyxen.abi import version as abi
from pyxen.abi.arch_x86_64 import HYPERVISOR_VIRT_START
from pyxen.abi.errno import EINVAL, ENOSYS, EPERM
from pyxen.abi.features import XENFEAT_NR_SUBMAPS, XENFEAT_pae_pgdir_above_4gb
from pyxen.abi.xen import HYPERVISOR_xen_version, VMASST_TYPE_pae_extended_cr3
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.features import FEATURES
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.version import (
    CAPABILITIES,
    CHANGESET,
    COMPILE_INFO,
    EXTRA_VERSION,
    XEN_MAJOR,
    XEN_MINOR,
)

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_xen_version)
def xen_version(vcpu: Vcpu, command: int, argument: int) -> int:
    """The version number needs no argument: kernels call it to have pending events delivered."""
    command &= UINT32
    if command == abi.XENVER_version:
        return XEN_MAJOR << 16 | XEN_MINOR
    if command == abi.XENVER_pagesize:
        if argument:
            raise XenError(EINVAL)
        return PAGE_SIZE
    operation = _OPERATIONS.get(command)
    if operation is None:
        raise XenError(ENOSYS)
    return operation(vcpu, argument)


def _string(text: str, size: int) -> Callable[[Vcpu, int], int]:
    """A sub-operation that stores a string, padded with zeros to its array's size."""

    def store(vcpu: Vcpu, argument: int) -> int:
        guest_access.copy_to(vcpu, argument, text.encode().ljust(size, b"\0"))
        return 0

    return store


def _compile_info(vcpu: Vcpu, argument: int) -> int:
    guest_access.copy_to(vcpu, argument, COMPILE_INFO)
    return 0


def _platform_parameters(vcpu: Vcpu, argument: int) -> int:
    guest_access.write_word(vcpu, argument, HYPERVISOR_VIRT_START)
    return 0


def _get_features(vcpu: Vcpu, argument: int) -> int:
    index, _ = abi.XEN_FEATURE_INFO.unpack(
        guest_access.copy_from(vcpu, argument, abi.XEN_FEATURE_INFO.size)
    )
    if index >= XENFEAT_NR_SUBMAPS:
        raise XenError(EINVAL)
    submap = FEATURES
    if not vcpu.domain.vm_assist >> VMASST_TYPE_pae_extended_cr3 & 1:
        submap &= ~(1 << XENFEAT_pae_pgdir_above_4gb)
    guest_access.copy_to(vcpu, argument, abi.XEN_FEATURE_INFO.pack(index, submap))
    return 0


def _guest_handle(vcpu: Vcpu, argument: int) -> int:
    guest_access.copy_to(vcpu, argument, vcpu.domain.uuid.bytes)
    return 0


def _build_id(vcpu: Vcpu, argument: int) -> int:
    """For domain 0."""
    raise XenError(EPERM)


_OPERATIONS: Final[dict[int, Callable[[Vcpu, int], int]]] = {
    abi.XENVER_extraversion: _string(EXTRA_VERSION, abi.XEN_EXTRAVERSION_LEN),
    abi.XENVER_compile_info: _compile_info,
    abi.XENVER_capabilities: _string(CAPABILITIES, abi.XEN_CAPABILITIES_INFO_LEN),
    abi.XENVER_changeset: _string(CHANGESET, abi.XEN_CHANGESET_INFO_LEN),
    abi.XENVER_platform_parameters: _platform_parameters,
    abi.XENVER_get_features: _get_features,
    abi.XENVER_guest_handle: _guest_handle,
    abi.XENVER_commandline: _string("<denied>", len("<denied>") + 1),
    abi.XENVER_build_id: _build_id,
}
