# SPDX-License-Identifier: GPL-2.0-or-later
"""hvm_op: operations on domains with a virtual platform (``public/hvm/hvm_op.h``).

A PV domain can ask for the time, and write to a trace that nobody takes; it has no parameters and
no memory types. The order of the checks is that of Xen's ``do_hvm_op``.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.errno import EINVAL, ENOSYS, EOPNOTSUPP, ESRCH
from pyxen.abi.xen import HYPERVISOR_hvm_op
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu

HVMOP_set_param: Final = 0
HVMOP_get_param: Final = 1
HVMOP_flush_tlbs: Final = 5
HVMOP_pagetable_dying: Final = 9
HVMOP_get_time: Final = 10
HVMOP_xentrace: Final = 11
HVMOP_get_mem_type: Final = 15
HVMOP_set_evtchn_upcall_vector: Final = 23
HVMOP_guest_request_vm_event: Final = 24
HVMOP_altp2m: Final = 25
HVM_NR_PARAMS: Final = 39

_ARGUMENT_SIZE: Final = 16
_TRACE_SIZE: Final = 32
_TRACE_EXTRA: Final = 28
_TRACE_EVENTS: Final = 1 << 12
_DOMAIN_0: Final = 0


@hypercall(HYPERVISOR_hvm_op)
def hvm_op(vcpu: Vcpu, operation: int, argument: int) -> int:
    if operation in (HVMOP_set_param, HVMOP_get_param):
        data = guest_access.copy_from(vcpu, argument, _ARGUMENT_SIZE)
        if int.from_bytes(data[4:8], "little") >= HVM_NR_PARAMS:
            raise XenError(EINVAL)
        _refuse_domain(vcpu, data)
    if operation in (HVMOP_get_mem_type, HVMOP_pagetable_dying):
        data = guest_access.copy_from(vcpu, argument, _ARGUMENT_SIZE)
        if operation == HVMOP_pagetable_dying and data[:2] == bytes(2):
            raise XenError(EOPNOTSUPP)  # of another domain
        _refuse_domain(vcpu, data)
    if operation in (HVMOP_flush_tlbs, HVMOP_set_evtchn_upcall_vector):
        raise XenError(EINVAL)
    if operation == HVMOP_get_time:
        guest_access.write_word(vcpu, argument, vcpu.domain.clock.now())
        return 0
    if operation == HVMOP_xentrace:
        data = guest_access.copy_from(vcpu, argument, _TRACE_SIZE)
        if int.from_bytes(data[:2], "little") >= _TRACE_EVENTS:
            raise XenError(EINVAL)
        if int.from_bytes(data[2:4], "little") > _TRACE_EXTRA:
            raise XenError(EINVAL)
        return 0
    if operation == HVMOP_guest_request_vm_event:
        if argument:
            raise XenError(EINVAL)
        return 0  # nobody listens
    raise XenError(EOPNOTSUPP if operation == HVMOP_altp2m else ENOSYS)


def _refuse_domain(vcpu: Vcpu, data: bytes) -> None:
    """No domain that exists has a virtual platform."""
    domid = int.from_bytes(data[:2], "little")
    raise XenError(EINVAL if domid == _DOMAIN_0 or vcpu.domain.is_self(domid) else ESRCH)
