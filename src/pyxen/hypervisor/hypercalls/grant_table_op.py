# SPDX-License-Identifier: GPL-2.0-or-later
"""grant_table_op: set up the guest's own grant table (``grants``).

The operations on other domains' grants, which a driver domain uses, have no domain to act on yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyxen.abi import grant_table as abi
from pyxen.abi.errno import EINVAL, ENOSYS, EPERM, ESRCH
from pyxen.abi.xen import HYPERVISOR_grant_table_op
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

_NAMES: Final = {number: f"grant_table_op.{name}" for number, name in abi.GNTTABOP_NAMES.items()}


_INT_MAX: Final = 0x7FFFFFFF
_COMMAND_MASK: Final = 0xFFF


@hypercall(HYPERVISOR_grant_table_op)
def grant_table_op(vcpu: Vcpu, command: int, argument: int, count: int) -> int:
    """Most errors are told in the ``status`` of the structure, not in the result."""
    domain = vcpu.domain
    command &= UINT32
    domain.counters.add_operation(_NAMES.get(command, "grant_table_op.unknown"))
    count &= UINT32
    if count > _INT_MAX or command > _COMMAND_MASK:
        raise XenError(EINVAL)
    if command == abi.GNTTABOP_setup_table:
        if count != 1:
            raise XenError(EINVAL)
        _setup_table(vcpu, argument)
    elif command == abi.GNTTABOP_query_size:
        if count != 1:
            raise XenError(EINVAL)
        _query_size(vcpu, argument)
    elif command == abi.GNTTABOP_get_version:
        _get_version(vcpu, argument)
    elif command == abi.GNTTABOP_set_version:
        return _set_version(vcpu, argument)
    else:
        name = _NAMES.get(command, f"grant_table_op {command}")
        domain.report_once(f"{name} is not implemented: -ENOSYS")
        raise XenError(ENOSYS)
    return 0


def _setup_table(vcpu: Vcpu, argument: int) -> None:
    layout = abi.GNTTAB_SETUP_TABLE
    domid, frames, _, frame_list = layout.unpack(
        guest_access.copy_from(vcpu, argument, layout.size)
    )
    grants = vcpu.domain.grants
    status = _check_domain(vcpu, domid)
    if status == abi.GNTST_okay:
        try:
            grants.grow(frames)
        except XenError:
            status = abi.GNTST_general_error
        else:
            status = _store_frames(vcpu, frame_list, grants.mfns[:frames])
    _store_status(vcpu, argument + layout.offsets["status"], status)


def _check_domain(vcpu: Vcpu, domid: int) -> int:
    """A status: of the other domains only domain 0 exists."""
    if vcpu.domain.is_self(domid):
        return abi.GNTST_okay
    return abi.GNTST_permission_denied if domid == 0 else abi.GNTST_bad_domain


def _store_frames(vcpu: Vcpu, frame_list: int, mfns: list[int]) -> int:
    """A status."""
    try:
        for number, mfn in enumerate(mfns):
            guest_access.write_word(vcpu, frame_list + 8 * number, mfn)
    except XenError:
        return abi.GNTST_bad_virt_addr
    return abi.GNTST_okay


def _query_size(vcpu: Vcpu, argument: int) -> None:
    layout = abi.GNTTAB_QUERY_SIZE
    domid, *_ = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    grants = vcpu.domain.grants
    status = _check_domain(vcpu, domid)
    if status != abi.GNTST_okay:
        _store_status(vcpu, argument + layout.offsets["status"], status)
        return
    data = layout.pack(domid, len(grants.mfns), grants.max_frames, abi.GNTST_okay)
    guest_access.copy_to(vcpu, argument, data)


def _store_status(vcpu: Vcpu, address: int, status: int) -> None:
    guest_access.copy_to(vcpu, address, status.to_bytes(2, "little", signed=True))


def _get_version(vcpu: Vcpu, argument: int) -> None:
    layout = abi.GNTTAB_GET_VERSION
    domid, pad, _ = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    if not vcpu.domain.is_self(domid):
        raise XenError(EPERM if domid == 0 else ESRCH)
    guest_access.copy_to(vcpu, argument, layout.pack(domid, pad, vcpu.domain.grants.version))


def _set_version(vcpu: Vcpu, argument: int) -> int:
    """Only the first layout is there: a guest that asks for the second gets ENOSYS.

    In each case it is told which version it has.
    """
    layout = abi.GNTTAB_SET_VERSION
    (version,) = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    guest_access.copy_to(vcpu, argument, layout.pack(vcpu.domain.grants.version))
    if version not in (1, 2):
        raise XenError(EINVAL)
    if version == 2:
        raise XenError(ENOSYS)
    return 0
