# SPDX-License-Identifier: GPL-2.0-or-later
"""grant_table_op: the guest's own grant table, and what it may do with grants of others.

A domain sets up its table (``grants``), and maps, copies and takes over pages that others grant to
it. The domains that a guest can name are itself, whose grants to itself it may use, and domain 0,
which exists and grants nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from pyxen.abi import grant_table as abi
from pyxen.abi.errno import EFAULT, EILSEQ, EINVAL, ENOSYS, EOPNOTSUPP, EPERM, ESRCH
from pyxen.abi.xen import DOMID_SELF, HYPERVISOR_grant_table_op
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32, is_guest_address
from pyxen.hypervisor.continuation import Continuation
from pyxen.hypervisor.grants import GrantError, dom0_status, pin_increment
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.own_grants import map_own, reserve_handle, unmap_own
from pyxen.hypervisor.page_flags import PAGE_SHIFT, PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyxen.abi.layout import Layout
    from pyxen.hypervisor.grants import GrantTable
    from pyxen.hypervisor.vcpu import Vcpu

_NAMES: Final = {number: f"grant_table_op.{name}" for number, name in abi.GNTTABOP_NAMES.items()}
_INT_MAX: Final = 0x7FFFFFFF
_COMMAND_MASK: Final = 0xFFF
_LONGEST: Final = (1 << 64) - 1


@hypercall(HYPERVISOR_grant_table_op)
def grant_table_op(vcpu: Vcpu, command: int, argument: int, count: int) -> int:
    """Most errors are told in the ``status`` of the structures, not in the result."""
    domain = vcpu.domain
    command &= UINT32
    domain.counters.add_operation(_NAMES.get(command, "grant_table_op.unknown"))
    count &= UINT32
    if count > _INT_MAX:
        raise XenError(EINVAL)
    # What lies above the command is where a cache_flush that was interrupted goes on.
    if command & _COMMAND_MASK == abi.GNTTABOP_cache_flush:
        return _cache_flush(vcpu, argument, count, command & ~_COMMAND_MASK)
    if command > _COMMAND_MASK:
        raise XenError(EINVAL)
    if command == abi.GNTTABOP_set_version:
        return _set_version(vcpu, argument)
    if command == abi.GNTTABOP_get_version:
        return _get_version(vcpu, argument)
    if command in _ONE_STRUCTURE:
        if count != 1:
            raise XenError(EINVAL)
        _ONE_STRUCTURE[command](vcpu, argument)
        return 0
    if command not in _ARRAY:
        raise XenError(ENOSYS)
    _ARRAY[command](vcpu, argument, count)
    return 0


def _elements(
    vcpu: Vcpu, command: int, address: int, count: int, layout: Layout
) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """The structures of an array, each with its address; gives way between two of them.

    Raises EFAULT.
    """
    if not is_guest_address(address) or count >= _LONGEST // layout.size:
        raise XenError(EFAULT)
    for number in range(count):
        if number and vcpu.domain.preempt_check(vcpu):
            raise Continuation(command, address, count - number)
        yield address, layout.unpack(guest_access.copy_from(vcpu, address, layout.size))
        address += layout.size


def _store_status(vcpu: Vcpu, address: int, status: int) -> None:
    guest_access.copy_to(vcpu, address, status.to_bytes(2, "little", signed=True))


# The table


def _check_domain(vcpu: Vcpu, domid: int) -> int:
    """A status: a guest asks about its own table only."""
    if vcpu.domain.is_self(domid):
        return abi.GNTST_okay
    return abi.GNTST_permission_denied if domid == 0 else abi.GNTST_bad_domain


def _setup_table(vcpu: Vcpu, argument: int) -> None:
    def frames_of(grants: GrantTable, count: int) -> list[int]:
        grants.grow(count)
        return list(grants.mfns[:count])

    layout = abi.GNTTAB_SETUP_TABLE
    domid, count, _, frame_list = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    status = _tell_frames(vcpu, domid, count, frame_list, frames_of)
    _store_status(vcpu, argument + layout.offsets["status"], status)


def _get_status_frames(vcpu: Vcpu, argument: int) -> None:
    def frames_of(grants: GrantTable, count: int) -> list[int]:
        if count > grants.nr_status_frames:
            raise XenError(EINVAL)
        return list(grants.status_mfns[:count])

    layout = abi.GNTTAB_GET_STATUS_FRAMES
    count, domid, _, frame_list = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    status = _tell_frames(vcpu, domid, count, frame_list, frames_of)
    _store_status(vcpu, argument + layout.offsets["status"], status)


def _tell_frames(
    vcpu: Vcpu,
    domid: int,
    count: int,
    frame_list: int,
    frames_of: Callable[[GrantTable, int], list[int]],
) -> int:
    """Store the first frames of a kind in the guest's list. A status; raises EFAULT."""
    guest_access.check_handle(frame_list)
    status = _check_domain(vcpu, domid)
    if status != abi.GNTST_okay:
        return status
    try:
        mfns = frames_of(vcpu.domain.grants, count)
    except XenError:
        return abi.GNTST_general_error
    return _store_frames(vcpu, frame_list, mfns)


def _store_frames(vcpu: Vcpu, frame_list: int, mfns: list[int]) -> int:
    """A status. A place that cannot be written does not keep the others from being."""
    status = abi.GNTST_okay
    for number, mfn in enumerate(mfns):
        try:
            guest_access.write_word(vcpu, frame_list + 8 * number, mfn)
        except XenError:
            status = abi.GNTST_bad_virt_addr
    return status


def _query_size(vcpu: Vcpu, argument: int) -> None:
    layout = abi.GNTTAB_QUERY_SIZE
    domid, *_ = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    grants = vcpu.domain.grants
    status = _check_domain(vcpu, domid)
    if status != abi.GNTST_okay:
        _store_status(vcpu, argument + layout.offsets["status"], status)
        return
    data = layout.pack(domid, grants.nr_frames, grants.limits.max_frames, abi.GNTST_okay)
    guest_access.copy_to(vcpu, argument, data)


def _get_version(vcpu: Vcpu, argument: int) -> int:
    layout = abi.GNTTAB_GET_VERSION
    domid, pad, _ = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    if not vcpu.domain.is_self(domid):
        raise XenError(EPERM if domid == 0 else ESRCH)
    guest_access.copy_to(vcpu, argument, layout.pack(domid, pad, vcpu.domain.grants.version))
    return 0


def _set_version(vcpu: Vcpu, argument: int) -> int:
    """The guest is told which version it has then, in any case."""
    layout = abi.GNTTAB_SET_VERSION
    grants = vcpu.domain.grants
    (version,) = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    try:
        if version not in (1, 2):
            raise XenError(EINVAL)
        if version > grants.limits.max_version:
            raise XenError(ENOSYS)
        grants.set_version(version)
    finally:
        guest_access.copy_to(vcpu, argument, layout.pack(grants.version))
    return 0


# Mapping


def _map(vcpu: Vcpu, array: int, count: int) -> None:
    layout = abi.GNTTAB_MAP_GRANT_REF
    for address, values in _elements(vcpu, abi.GNTTABOP_map_grant_ref, array, count, layout):
        host_address, flags, ref, domid, _, handle, bus_address = values
        try:
            handle, mfn = _map_one(vcpu, host_address, flags, ref, domid)
            bus_address = mfn << PAGE_SHIFT
            status = abi.GNTST_okay
        except GrantError as error:
            status = error.status
        data = layout.pack(host_address, flags, ref, domid, status, handle, bus_address)
        guest_access.copy_to(vcpu, address, data)


def _map_one(vcpu: Vcpu, host_address: int, flags: int, ref: int, domid: int) -> tuple[int, int]:
    """Handle and frame. Raises GrantError."""
    if not pin_increment(flags):
        raise GrantError(abi.GNTST_bad_gntref)
    if domid not in (vcpu.domain.domid, 0):
        raise GrantError(abi.GNTST_bad_domain)
    handle = reserve_handle(vcpu)
    try:
        if domid == 0:
            raise GrantError(dom0_status(ref))
        return handle, map_own(vcpu, handle, host_address, flags, ref)
    except GrantError:
        vcpu.domain.grants.maptrack.free(handle)
        raise


def _unmap(vcpu: Vcpu, array: int, count: int) -> None:
    layout = abi.GNTTAB_UNMAP_GRANT_REF
    try:
        for address, values in _elements(vcpu, abi.GNTTABOP_unmap_grant_ref, array, count, layout):
            host_address, bus_address, handle, _ = values
            status = abi.GNTST_okay
            try:
                unmap_own(vcpu, handle, host_address, bus_address)
            except GrantError as error:
                status = error.status
            _store_status(vcpu, address + layout.offsets["status"], status)
    finally:
        vcpu.domain.engine.flush_tlb()


def _unmap_and_replace(vcpu: Vcpu, array: int, count: int) -> None:
    layout = abi.GNTTAB_UNMAP_AND_REPLACE
    try:
        for address, values in _elements(
            vcpu, abi.GNTTABOP_unmap_and_replace, array, count, layout
        ):
            host_address, new_address, handle, _ = values
            status = abi.GNTST_okay
            try:
                unmap_own(vcpu, handle, host_address, 0, new_address)
            except GrantError as error:
                status = error.status
            _store_status(vcpu, address + layout.offsets["status"], status)
    finally:
        vcpu.domain.engine.flush_tlb()


# Copying


def _copy(vcpu: Vcpu, array: int, count: int) -> None:
    layout = abi.GNTTAB_COPY
    for address, values in _elements(vcpu, abi.GNTTABOP_copy, array, count, layout):
        status = abi.GNTST_okay
        try:
            _copy_one(vcpu, *values)
        except GrantError as error:
            status = error.status
        _store_status(vcpu, address + layout.offsets["status"], status)


def _copy_one(
    vcpu: Vcpu,
    source: int,
    source_domid: int,
    source_offset: int,
    dest: int,
    dest_domid: int,
    dest_offset: int,
    size: int,
    flags: int,
    _status: int,
) -> None:
    """Raises GrantError."""
    domain = vcpu.domain
    source_ref, dest_ref = flags & abi.GNTCOPY_source_gref, flags & abi.GNTCOPY_dest_gref
    _check_copy_domain(vcpu, source_domid, source_ref)
    _check_copy_domain(vcpu, dest_domid, dest_ref)
    source_mfn, source_start, source_end = _claim(vcpu, source, source_domid, source_ref, False)
    dest_mfn, dest_start, dest_end = _claim(vcpu, dest, dest_domid, dest_ref, True)
    domain.grants.check_writable(dest_mfn)
    if source_offset + size > PAGE_SIZE or dest_offset + size > PAGE_SIZE:
        raise GrantError(abi.GNTST_bad_copy_arg)
    if (
        not source_start <= source_offset <= source_end - size
        or not dest_start <= dest_offset <= dest_end - size
    ):
        raise GrantError(abi.GNTST_general_error)
    view = domain.memory.bytes
    source_offset += source_mfn << PAGE_SHIFT
    dest_offset += dest_mfn << PAGE_SHIFT
    view[dest_offset : dest_offset + size] = view[source_offset : source_offset + size]
    if domain.memory.code_frames[dest_mfn]:
        domain.forget_code(dest_mfn)


def _check_copy_domain(vcpu: Vcpu, domid: int, is_ref: int) -> None:
    if domid != DOMID_SELF and not is_ref:
        raise GrantError(abi.GNTST_permission_denied)
    if domid != 0 and not vcpu.domain.is_self(domid):
        raise GrantError(abi.GNTST_bad_domain)


def _claim(vcpu: Vcpu, number: int, domid: int, is_ref: int, writing: bool) -> tuple[int, int, int]:
    """One side of a copy: its frame, and from where to where in it."""
    domain = vcpu.domain
    if not is_ref:
        if not domain.memory.is_owned(number):
            raise GrantError(abi.GNTST_bad_page)
        return number, 0, PAGE_SIZE
    ref = number & UINT32
    if domid == 0:
        raise GrantError(dom0_status(ref))
    return domain.grants.check_copy(ref, domain.domid, writing)


# What is rarely used


def _transfer(vcpu: Vcpu, array: int, count: int) -> None:
    layout = abi.GNTTAB_TRANSFER
    for address, values in _elements(vcpu, abi.GNTTABOP_transfer, array, count, layout):
        mfn, domid, ref, _ = values
        status = _transfer_one(vcpu, mfn, domid, ref)
        _store_status(vcpu, address + layout.offsets["status"], status)


def _transfer_one(vcpu: Vcpu, mfn: int, domid: int, ref: int) -> int:
    """A status. A frame that nobody accepts is lost to the guest."""
    domain = vcpu.domain
    memory = domain.memory
    if not memory.is_domains(mfn) or not memory.allocated[mfn] or memory.refs[mfn] != 1:
        return abi.GNTST_bad_page
    domain.engine.flush_tlb()
    if domid == domain.domid and domain.grants.accept_transfer(ref, mfn):
        return abi.GNTST_okay
    memory.release(mfn)
    return abi.GNTST_general_error if domid in (domain.domid, 0) else abi.GNTST_bad_domain


def _swap(vcpu: Vcpu, array: int, count: int) -> None:
    layout = abi.GNTTAB_SWAP_GRANT_REF
    for address, values in _elements(vcpu, abi.GNTTABOP_swap_grant_ref, array, count, layout):
        first, second, _ = values
        status = abi.GNTST_okay
        try:
            vcpu.domain.grants.swap(first, second)
        except GrantError as error:
            status = error.status
        _store_status(vcpu, address + layout.offsets["status"], status)


def _cache_flush(vcpu: Vcpu, array: int, count: int, position: int) -> int:
    """For devices that do not see the CPU's caches. There are none: only the checks are left.

    ``position`` is not 0 for one that goes on; that is of use with another domain's pages only.
    """
    command = abi.GNTTABOP_cache_flush | position
    layout = abi.GNTTAB_CACHE_FLUSH
    for _address, values in _elements(vcpu, command, array, count, layout):
        bus_address, offset, length, operation = values
        if (
            offset >= PAGE_SIZE
            or offset + length > PAGE_SIZE
            or operation & ~(abi.GNTTAB_CACHE_INVAL | abi.GNTTAB_CACHE_CLEAN)
        ):
            raise XenError(EINVAL)
        if length == 0 or operation == 0:
            if position:
                raise XenError(EILSEQ)
            continue
        mfn = bus_address >> PAGE_SHIFT
        memory = vcpu.domain.memory
        if mfn >= memory.frames:
            raise XenError(EINVAL)
        if not memory.is_owned(mfn):
            raise XenError(EPERM)
        if operation == abi.GNTTAB_CACHE_INVAL:
            raise XenError(EOPNOTSUPP)
        position = 0
    return 0


_ONE_STRUCTURE: Final = {
    abi.GNTTABOP_setup_table: _setup_table,
    abi.GNTTABOP_query_size: _query_size,
    abi.GNTTABOP_get_status_frames: _get_status_frames,
}
_ARRAY: Final = {
    abi.GNTTABOP_map_grant_ref: _map,
    abi.GNTTABOP_unmap_grant_ref: _unmap,
    abi.GNTTABOP_unmap_and_replace: _unmap_and_replace,
    abi.GNTTABOP_transfer: _transfer,
    abi.GNTTABOP_copy: _copy,
    abi.GNTTABOP_swap_grant_ref: _swap,
}
