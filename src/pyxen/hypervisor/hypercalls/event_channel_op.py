# SPDX-License-Identifier: GPL-2.0-or-later
"""event_channel_op: bind, send and close event channels (``events``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pyxen.abi import event_channel as abi
from pyxen.abi.errno import ENOSYS
from pyxen.abi.xen import HYPERVISOR_event_channel_op, HYPERVISOR_event_channel_op_compat
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.continuation import Continuation
from pyxen.hypervisor.hypercalls.table import hypercall

if TYPE_CHECKING:
    from pyxen.abi.layout import Layout
    from pyxen.hypervisor.vcpu import Vcpu

_RESET_CONT: Final = 14
"""Xen's own way to go on with a long reset; not in the public headers, but guests can call it."""

_NAMES: Final = {number: f"event_channel_op.{name}" for number, name in abi.EVTCHNOP_NAMES.items()}


@hypercall(HYPERVISOR_event_channel_op)
def event_channel_op(vcpu: Vcpu, command: int, argument: int) -> int:
    command &= UINT32
    vcpu.domain.counters.add_operation(_NAMES.get(command, "event_channel_op.unknown"))
    operation = _OPERATIONS.get(command)
    if operation is None:
        raise XenError(ENOSYS)
    operation(vcpu, argument)
    return 0


@hypercall(HYPERVISOR_event_channel_op_compat)
def event_channel_op_compat(vcpu: Vcpu, argument: int) -> int:
    """The form of Xen 3.0.2: the command stands before the structure. Later operations lack it."""
    command, *_ = _read(vcpu, abi.EVTCHN_OP, argument)
    if command > abi.EVTCHNOP_unmask:
        raise XenError(ENOSYS)
    return int(event_channel_op(vcpu, command, argument + abi.EVTCHN_OP.offsets["u"]) or 0)


def _read(vcpu: Vcpu, layout: Layout, argument: int) -> tuple[int, ...]:
    return layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))


def _store(vcpu: Vcpu, layout: Layout, argument: int, port: int) -> None:
    """Store a new port; if the guest's structure has gone meanwhile, the port goes too."""
    name = "local_port" if layout is abi.EVTCHN_BIND_INTERDOMAIN else "port"
    try:
        guest_access.write_u32(vcpu, argument + layout.offsets[name], port)
    except XenError:
        vcpu.domain.events.close(port)
        raise


def _alloc_unbound(vcpu: Vcpu, argument: int) -> None:
    domid, remote, _ = _read(vcpu, abi.EVTCHN_ALLOC_UNBOUND, argument)
    vcpu.domain.check_is_self(domid)
    _store(vcpu, abi.EVTCHN_ALLOC_UNBOUND, argument, vcpu.domain.events.alloc_unbound(remote))


def _bind_interdomain(vcpu: Vcpu, argument: int) -> None:
    remote, remote_port, _ = _read(vcpu, abi.EVTCHN_BIND_INTERDOMAIN, argument)
    port = vcpu.domain.events.bind_interdomain(remote, remote_port)
    _store(vcpu, abi.EVTCHN_BIND_INTERDOMAIN, argument, port)


def _bind_virq(vcpu: Vcpu, argument: int) -> None:
    virq, target, _ = _read(vcpu, abi.EVTCHN_BIND_VIRQ, argument)
    _store(vcpu, abi.EVTCHN_BIND_VIRQ, argument, vcpu.domain.events.bind_virq(virq, target))


def _bind_ipi(vcpu: Vcpu, argument: int) -> None:
    target, _ = _read(vcpu, abi.EVTCHN_BIND_IPI, argument)
    _store(vcpu, abi.EVTCHN_BIND_IPI, argument, vcpu.domain.events.bind_ipi(target))


def _bind_pirq(vcpu: Vcpu, argument: int) -> None:
    pirq, _, _ = _read(vcpu, abi.EVTCHN_BIND_PIRQ, argument)
    vcpu.domain.events.bind_pirq(pirq)


def _close(vcpu: Vcpu, argument: int) -> None:
    (port,) = _read(vcpu, abi.EVTCHN_CLOSE, argument)
    vcpu.domain.events.close(port)


def _send(vcpu: Vcpu, argument: int) -> None:
    (port,) = _read(vcpu, abi.EVTCHN_SEND, argument)
    vcpu.domain.events.send(port)


def _status(vcpu: Vcpu, argument: int) -> None:
    domid, number, *_ = _read(vcpu, abi.EVTCHN_STATUS, argument)
    port = vcpu.domain.events.status(domid, number)
    head = (domid, number, port.state, port.vcpu)
    if port.state == abi.EVTCHNSTAT_interdomain:
        data = abi.EVTCHN_STATUS_INTERDOMAIN.pack(*head, port.remote_domain, port.remote_port)
    elif port.state == abi.EVTCHNSTAT_virq:
        data = abi.EVTCHN_STATUS_VIRQ.pack(*head, port.virq)
    elif port.state == abi.EVTCHNSTAT_unbound:
        data = abi.EVTCHN_STATUS_UNBOUND.pack(*head, port.remote_domain)
    else:
        data = abi.EVTCHN_STATUS.pack(*head, b"")
    guest_access.copy_to(vcpu, argument, data)


def _bind_vcpu(vcpu: Vcpu, argument: int) -> None:
    port, target = _read(vcpu, abi.EVTCHN_BIND_VCPU, argument)
    vcpu.domain.events.bind_vcpu(port, target)


def _unmask(vcpu: Vcpu, argument: int) -> None:
    (port,) = _read(vcpu, abi.EVTCHN_UNMASK, argument)
    vcpu.domain.events.unmask(port)


def _reset(vcpu: Vcpu, argument: int, *, continued: bool = False) -> None:
    (domid,) = _read(vcpu, abi.EVTCHN_RESET, argument)
    vcpu.domain.check_is_self(domid)
    if not vcpu.domain.events.reset(vcpu, continued=continued):
        raise Continuation(_RESET_CONT, argument)


def _reset_cont(vcpu: Vcpu, argument: int) -> None:
    """Xen's own number for the rest of a reset that has given way."""
    _reset(vcpu, argument, continued=True)


def _init_control(vcpu: Vcpu, argument: int) -> None:
    """If the answer cannot be stored, the control block stays in use, as under Xen."""
    mfn, offset, target, _ = _read(vcpu, abi.EVTCHN_INIT_CONTROL, argument)
    vcpu.domain.events.init_control(target, mfn, offset)
    data = abi.EVTCHN_INIT_CONTROL.pack(mfn, offset, target, abi.EVTCHN_FIFO_LINK_BITS)
    guest_access.copy_to(vcpu, argument, data)


def _expand_array(vcpu: Vcpu, argument: int) -> None:
    (mfn,) = _read(vcpu, abi.EVTCHN_EXPAND_ARRAY, argument)
    vcpu.domain.events.expand_array(mfn)


def _set_priority(vcpu: Vcpu, argument: int) -> None:
    port, priority = _read(vcpu, abi.EVTCHN_SET_PRIORITY, argument)
    vcpu.domain.events.set_priority(port, priority)


_OPERATIONS: Final[dict[int, Callable[[Vcpu, int], None]]] = {
    abi.EVTCHNOP_alloc_unbound: _alloc_unbound,
    abi.EVTCHNOP_bind_interdomain: _bind_interdomain,
    abi.EVTCHNOP_bind_virq: _bind_virq,
    abi.EVTCHNOP_bind_ipi: _bind_ipi,
    abi.EVTCHNOP_bind_pirq: _bind_pirq,
    abi.EVTCHNOP_close: _close,
    abi.EVTCHNOP_send: _send,
    abi.EVTCHNOP_status: _status,
    abi.EVTCHNOP_bind_vcpu: _bind_vcpu,
    abi.EVTCHNOP_unmask: _unmask,
    abi.EVTCHNOP_reset: _reset,
    _RESET_CONT: _reset_cont,
    abi.EVTCHNOP_init_control: _init_control,
    abi.EVTCHNOP_expand_array: _expand_array,
    abi.EVTCHNOP_set_priority: _set_priority,
}
