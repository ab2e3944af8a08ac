# SPDX-License-Identifier: GPL-2.0-or-later
"""grant_table_op: set up the guest's own grant table (``grants``).

The operations on other domains' grants, which a driver domain uses, have no domain to act on yet.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyxen.abi import grant_table as abi
from pyxen.abi.errno import EINVAL, ENOSYS
from pyxen.abi.xen import HYPERVISOR_grant_table_op
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.hypercalls.table import hypercall

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

_NAMES: Final = {
    number: f"grant_table_op.{name}" for number, name in abi.GNTTABOP_NAMES.items()
}


@hypercall(HYPERVISOR_grant_table_op)
def grant_table_op(vcpu: Vcpu, command: int, argument: int, count: int) -> int:
    """Most errors are told in the ``status`` of the structure, not in the result."""
    domain = vcpu.domain
    domain.counters.add_operation(_NAMES.get(command, "grant_table_op.unknown"))
    count &= 0xFFFFFFFF
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
    if not vcpu.domain.is_self(domid):
        status = abi.GNTST_permission_denied
    elif frames > grants.max_frames:
        status = abi.GNTST_general_error
    else:
        grants.grow(frames)
        for number, mfn in enumerate(grants.mfns[:frames]):
            guest_access.write_word(vcpu, frame_list + 8 * number, mfn)
        status = abi.GNTST_okay
    _store_status(vcpu, argument + layout.offsets["status"], status)


def _query_size(vcpu: Vcpu, argument: int) -> None:
    layout = abi.GNTTAB_QUERY_SIZE
    domid, *_ = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    grants = vcpu.domain.grants
    if not vcpu.domain.is_self(domid):
        _store_status(vcpu, argument + layout.offsets["status"], abi.GNTST_permission_denied)
        return
    data = layout.pack(domid, len(grants.mfns), grants.max_frames, abi.GNTST_okay)
    guest_access.copy_to(vcpu, argument, data)


def _store_status(vcpu: Vcpu, address: int, status: int) -> None:
    guest_access.copy_to(vcpu, address, status.to_bytes(2, "little", signed=True))


def _get_version(vcpu: Vcpu, argument: int) -> None:
    layout = abi.GNTTAB_GET_VERSION
    domid, pad, _ = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    if not vcpu.domain.is_self(domid):
        raise XenError(EINVAL)
    guest_access.copy_to(vcpu, argument, layout.pack(domid, pad, vcpu.domain.grants.version))


def _set_version(vcpu: Vcpu, argument: int) -> int:
    """Only the first layout is there: a guest that asks for the second gets ENOSYS."""
    layout = abi.GNTTAB_SET_VERSION
    (version,) = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    if version not in (1, 2):
        raise XenError(EINVAL)
    if version == 2:
        raise XenError(ENOSYS)
    guest_access.copy_to(vcpu, argument, layout.pack(vcpu.domain.grants.version))
    return 0
