# SPDX-License-Identifier: GPL-2.0-or-later
"""memory_op: more memory, less memory (``memory_reservation``), and questions about it.

A paravirtual domain keeps its own map of pseudo-physical frames, so what changes that map for
other kinds of guests (``add_to_physmap`` …) is refused, as is what only domain 0 may do. Reference:
``public/memory.h``; which error comes first is that of Xen's ``do_memory_op``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyxen.abi import memory as abi
from pyxen.abi.arch_x86_64 import ARCH_SHARED_INFO, MACH2PHYS_VIRT_START
from pyxen.abi.errno import (
    EACCES,
    EDOM,
    EINVAL,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    ESRCH,
)
from pyxen.abi.xen import SHARED_INFO, HYPERVISOR_memory_op
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.hypercalls.memory_reservation import RESERVATIONS, change, exchange
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_flags import PAGE_SIZE

if TYPE_CHECKING:
    from pyxen.abi.layout import Layout
    from pyxen.hypervisor.vcpu import Vcpu

_NAMES: Final = {number: f"memory_op.{name}" for number, name in abi.XENMEM_NAMES.items()}
_COMMAND: Final = 0x3F
_START_EXTENT_SHIFT: Final = 6
_LARGE_PAGE: Final = 0x200000
_MAX_PFN: Final = SHARED_INFO.offsets["arch"] + ARCH_SHARED_INFO.offsets["max_pfn"]
_MAX_EXTENT: Final = 0xFFFF
_MAX_REGIONS: Final = 1024


@hypercall(HYPERVISOR_memory_op)
def memory_op(vcpu: Vcpu, command: int, argument: int) -> int:
    """The bits above the sub-operation say at which extent a continued call goes on."""
    start = command >> _START_EXTENT_SHIFT
    command &= _COMMAND
    vcpu.domain.counters.add_operation(_NAMES.get(command, "memory_op.unknown"))
    if command in RESERVATIONS:
        return change(vcpu, command, argument, start)
    if command in _WITH_EXTENTS:
        return _WITH_EXTENTS[command](vcpu, argument, start)
    operation = _OPERATIONS.get(command)
    if operation is not None:
        if start:
            raise XenError(EINVAL)
        return operation(vcpu, argument)
    operation = _ARCH_OPERATIONS.get(command)
    if operation is None or start:
        raise XenError(ENOSYS)
    return operation(vcpu, argument)


def _read(vcpu: Vcpu, layout: Layout, argument: int) -> tuple[int, ...]:
    return layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))


# Questions


def _check_domid(vcpu: Vcpu, argument: int) -> None:
    (domid,) = _read(vcpu, abi.XEN_MEMORY_DOMAIN, argument)
    vcpu.domain.check_is_self(domid)


def _current_reservation(vcpu: Vcpu, argument: int) -> int:
    _check_domid(vcpu, argument)
    return vcpu.domain.memory.nr_pages


def _maximum_reservation(vcpu: Vcpu, argument: int) -> int:
    _check_domid(vcpu, argument)
    return vcpu.domain.memory.max_pages


def _maximum_gpfn(vcpu: Vcpu, argument: int) -> int:
    """Of a PV guest only the guest knows: it has told in its shared info."""
    _check_domid(vcpu, argument)
    memory = vcpu.domain.memory
    max_pfn = memory.words[(memory.shared_info_mfn * PAGE_SIZE + _MAX_PFN) >> 3]
    return max(max_pfn, 1) - 1


def _maximum_ram_page(vcpu: Vcpu, argument: int) -> int:
    return vcpu.domain.memory.frames


def _machphys_mapping(vcpu: Vcpu, argument: int) -> int:
    memory = vcpu.domain.memory
    size = -(-memory.frames * 8 // _LARGE_PAGE) * _LARGE_PAGE
    mapping = abi.XEN_MACHPHYS_MAPPING.pack(
        MACH2PHYS_VIRT_START, MACH2PHYS_VIRT_START + size, size // 8 - 1
    )
    guest_access.copy_to(vcpu, argument, mapping)
    return 0


def _machphys_mfn_list(vcpu: Vcpu, argument: int) -> int:
    """The frames of the table, one of each 2 MiB. Only Xen may map them."""
    maximum, extents, _ = _read(vcpu, abi.XEN_MACHPHYS_MFN_LIST, argument)
    mfns = vcpu.domain.memory.m2p_mfns()[:maximum]
    for number, mfn in enumerate(mfns):
        guest_access.write_word(vcpu, extents + 8 * number, mfn)
    offset = abi.XEN_MACHPHYS_MFN_LIST.offsets["nr_extents"]
    guest_access.write_u32(vcpu, argument + offset, len(mfns))
    return 0


def _no_compat_table(vcpu: Vcpu, argument: int) -> int:
    """The table of 32-bit guests: there is none, as in a Xen without them."""
    raise XenError(EOPNOTSUPP)


def _no_pages(vcpu: Vcpu, argument: int) -> int:
    """Sharing of pages between domains: none are."""
    return 0


def _reserved_device_memory_map(vcpu: Vcpu, argument: int) -> int:
    """There are no devices: an empty list."""
    flags, _, buffer, *_ = _read(vcpu, abi.XEN_RESERVED_DEVICE_MEMORY_MAP, argument)
    guest_access.check_handle(buffer)
    if flags & ~abi.XENMEM_RDM_ALL:
        raise XenError(EINVAL)
    offset = abi.XEN_RESERVED_DEVICE_MEMORY_MAP.offsets["nr_entries"]
    guest_access.write_u32(vcpu, argument + offset, 0)
    return 0


def _get_vnumainfo(vcpu: Vcpu, argument: int) -> int:
    """The domain has no virtual NUMA topology."""
    domid, padding, *_ = _read(vcpu, abi.XEN_VNUMA_TOPOLOGY_INFO, argument)
    if padding:
        raise XenError(EINVAL)
    vcpu.domain.check_is_self(domid)
    raise XenError(EOPNOTSUPP)


# The memory map: what the BIOS call E820h would tell. The domain may replace its own.


def _memory_map(vcpu: Vcpu, argument: int) -> int:
    entries, buffer = _read(vcpu, abi.XEN_MEMORY_MAP, argument)
    size = abi.E820_ENTRY.size
    table = vcpu.domain.memory_map
    if not table:
        raise XenError(ENOSYS)
    entries = min(entries, len(table) // size)
    guest_access.copy_to(vcpu, buffer, table[: entries * size])
    guest_access.write_u32(vcpu, argument, entries)
    return 0


def _set_memory_map(vcpu: Vcpu, argument: int) -> int:
    layout = abi.XEN_FOREIGN_MEMORY_MAP
    domid, inner = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    entries, buffer = abi.XEN_MEMORY_MAP.unpack(inner)
    if entries > _MAX_REGIONS:
        raise XenError(EINVAL)
    vcpu.domain.check_is_self(domid)
    size = entries * abi.E820_ENTRY.size
    vcpu.domain.memory_map = guest_access.copy_from(vcpu, buffer, size)
    return 0


def _machine_memory_map(vcpu: Vcpu, argument: int) -> int:
    raise XenError(EPERM)


# What a paravirtual domain without privileges has no use for


def _add_to_physmap(vcpu: Vcpu, argument: int, start: int) -> int:
    if start > _MAX_EXTENT:
        raise XenError(EDOM)
    domid, _, space, *_ = _read(vcpu, abi.XEN_ADD_TO_PHYSMAP, argument)
    if space == abi.XENMAPSPACE_gmfn_foreign:
        raise XenError(ENOSYS)
    _check_exists(vcpu, domid)
    raise XenError(EACCES)


def _add_to_physmap_batch(vcpu: Vcpu, argument: int, start: int) -> int:
    if start > _MAX_EXTENT:
        raise XenError(EDOM)
    domid, space, *_ = _read(vcpu, abi.XEN_ADD_TO_PHYSMAP_BATCH, argument)
    if space == abi.XENMAPSPACE_gmfn_range:
        raise XenError(EOPNOTSUPP)
    _check_exists(vcpu, domid)
    raise XenError(EACCES)


def _remove_from_physmap(vcpu: Vcpu, argument: int) -> int:
    domid, _ = _read(vcpu, abi.XEN_REMOVE_FROM_PHYSMAP, argument)
    _check_exists(vcpu, domid)
    raise XenError(EACCES)


def _pod_target(vcpu: Vcpu, argument: int) -> int:
    """Populate on demand is for guests with a physmap of Xen's."""
    *_, domid = _read(vcpu, abi.XEN_POD_TARGET, argument)
    _check_exists(vcpu, domid)
    raise XenError(EINVAL)


def _access_op(vcpu: Vcpu, argument: int, start: int) -> int:
    """For the domain that watches another one, which is never itself and never paravirtual."""
    _, _, domid, *_ = _read(vcpu, abi.XEN_MEM_ACCESS_OP, argument)
    _check_remote(vcpu, domid)
    raise XenError(EINVAL)


def _claim_pages(vcpu: Vcpu, argument: int) -> int:
    extents, _, order, flags, domid = _read(vcpu, abi.XEN_MEMORY_RESERVATION, argument)
    if extents or order or flags or domid not in (0, vcpu.domain.domid):
        raise XenError(EINVAL)
    raise XenError(EPERM)


def _acquire_resource(vcpu: Vcpu, argument: int, start: int) -> int:
    """Frames that Xen keeps for another domain: for device models."""
    domid, _, _, frames, padding, frame, _ = _read(vcpu, abi.XEN_MEM_ACQUIRE_RESOURCE, argument)
    if padding or frame >> 32 or (frame + frames) >> 32:
        raise XenError(EINVAL)
    _check_remote(vcpu, domid)
    raise XenError(EPERM)


def _check_exists(vcpu: Vcpu, domid: int) -> None:
    """Raises ESRCH."""
    if domid and not vcpu.domain.is_self(domid):
        raise XenError(ESRCH)


def _check_remote(vcpu: Vcpu, domid: int) -> None:
    """Another domain, which DOMID_SELF does not name. Raises ESRCH, EPERM for the caller's own."""
    if domid == vcpu.domain.domid:
        raise XenError(EPERM)
    if domid:
        raise XenError(ESRCH)


_WITH_EXTENTS: Final[dict[int, Callable[[Vcpu, int, int], int]]] = {
    abi.XENMEM_add_to_physmap: _add_to_physmap,
    abi.XENMEM_add_to_physmap_batch: _add_to_physmap_batch,
    abi.XENMEM_access_op: _access_op,
    abi.XENMEM_acquire_resource: _acquire_resource,
}
_OPERATIONS: Final[dict[int, Callable[[Vcpu, int], int]]] = {
    abi.XENMEM_exchange: exchange,
    abi.XENMEM_current_reservation: _current_reservation,
    abi.XENMEM_maximum_reservation: _maximum_reservation,
    abi.XENMEM_maximum_gpfn: _maximum_gpfn,
    abi.XENMEM_maximum_ram_page: _maximum_ram_page,
    abi.XENMEM_remove_from_physmap: _remove_from_physmap,
    abi.XENMEM_claim_pages: _claim_pages,
    abi.XENMEM_get_vnumainfo: _get_vnumainfo,
    abi.XENMEM_reserved_device_memory_map: _reserved_device_memory_map,
}
_ARCH_OPERATIONS: Final[dict[int, Callable[[Vcpu, int], int]]] = {
    abi.XENMEM_machphys_mapping: _machphys_mapping,
    abi.XENMEM_machphys_mfn_list: _machphys_mfn_list,
    abi.XENMEM_machphys_compat_mfn_list: _no_compat_table,
    abi.XENMEM_memory_map: _memory_map,
    abi.XENMEM_set_memory_map: _set_memory_map,
    abi.XENMEM_machine_memory_map: _machine_memory_map,
    abi.XENMEM_set_pod_target: _pod_target,
    abi.XENMEM_get_pod_target: _pod_target,
    abi.XENMEM_get_sharing_freed_pages: _no_pages,
    abi.XENMEM_get_sharing_shared_pages: _no_pages,
}
