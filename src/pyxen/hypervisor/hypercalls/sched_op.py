# SPDX-License-Identifier: GPL-2.0-or-later
"""sched_op: give up the processor for a while, until an event, or for good."""

from __future__ import annotations

from typing import Final

from pyxen.abi.errno import EINVAL, ENOSYS, EPERM
from pyxen.abi.event_channel import EVTCHN_2L_NR_CHANNELS
from pyxen.abi.sched import (
    SCHED_POLL,
    SCHED_SHUTDOWN,
    SCHEDOP_block,
    SCHEDOP_NAMES,
    SCHEDOP_poll,
    SCHEDOP_remote_shutdown,
    SCHEDOP_shutdown,
    SCHEDOP_shutdown_code,
    SCHEDOP_yield,
    SHUTDOWN_MAX,
    SHUTDOWN_NAMES,
)
from pyxen.abi.xen import HYPERVISOR_sched_op, HYPERVISOR_sched_op_compat
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import MASK, PENDING, Vcpu

_NAMES: Final = {number: f"sched_op.{name}" for number, name in SCHEDOP_NAMES.items()}
_MAX_POLLED: Final = 128


@hypercall(HYPERVISOR_sched_op)
def sched_op(vcpu: Vcpu, command: int, argument: int) -> int:
    domain = vcpu.domain
    domain.counters.add_operation(_NAMES.get(command, "sched_op.unknown"))
    if command == SCHEDOP_yield:
        domain.scheduler.yield_slice()
    elif command == SCHEDOP_block:
        _block(vcpu)
    elif command == SCHEDOP_poll:
        _poll(vcpu, argument)
    elif command == SCHEDOP_shutdown:
        (reason,) = SCHED_SHUTDOWN.unpack(
            guest_access.copy_from(vcpu, argument, SCHED_SHUTDOWN.size)
        )
        _shutdown(vcpu, reason)
    elif command == SCHEDOP_shutdown_code:
        domain.shutdown_code = argument & 0xFFFFFFFF
    elif command == SCHEDOP_remote_shutdown:
        raise XenError(EPERM)
    else:
        raise XenError(ENOSYS)
    return 0


@hypercall(HYPERVISOR_sched_op_compat)
def sched_op_compat(vcpu: Vcpu, command: int, argument: int) -> int:
    """The form of Xen 3.0.2: the reason of a shutdown is the argument itself."""
    if command == SCHEDOP_yield:
        vcpu.domain.scheduler.yield_slice()
    elif command == SCHEDOP_block:
        _block(vcpu)
    elif command == SCHEDOP_shutdown:
        _shutdown(vcpu, argument & 0xFFFFFFFF)
    else:
        raise XenError(ENOSYS)
    return 0


def _block(vcpu: Vcpu) -> None:
    """Unmask events and wait for one; not at all if one is pending."""
    view = vcpu.domain.memory.bytes
    view[vcpu.info + MASK] = 0
    if not view[vcpu.info + PENDING]:
        vcpu.block()


def _poll(vcpu: Vcpu, argument: int) -> None:
    """Wait until one of some ports is pending, even if masked, or until a time."""
    ports_pointer, count, timeout = SCHED_POLL.unpack(
        guest_access.copy_from(vcpu, argument, SCHED_POLL.size)
    )
    if count > _MAX_POLLED:
        raise XenError(EINVAL)
    data = guest_access.copy_from(vcpu, ports_pointer, 4 * count)
    ports = memoryview(data).cast("I").tolist()
    events = vcpu.domain.events
    if any(port >= EVTCHN_2L_NR_CHANNELS for port in ports):
        raise XenError(EINVAL)
    if any(events.is_pending(port) for port in ports):
        return
    now = vcpu.domain.clock.now()
    if timeout and timeout <= now:
        return
    vcpu.polling = ports
    vcpu.poll_deadline = timeout
    vcpu.block()
    vcpu.domain.scheduler.set_alarm(now)


def _shutdown(vcpu: Vcpu, reason: int) -> None:
    if reason > SHUTDOWN_MAX:
        raise XenError(EINVAL)
    vcpu.domain.stop(SHUTDOWN_NAMES[reason])
