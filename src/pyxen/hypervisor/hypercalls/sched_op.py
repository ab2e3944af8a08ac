# SPDX-License-Identifier: GPL-2.0-or-later
"""sched_op: give up the processor for a while, until an event, or for good."""

from __future__ import annotations

from typing import Final

from pyxen.abi.errno import EINVAL, ENOSYS, EPERM, ESRCH
from pyxen.abi.sched import (
    SCHED_POLL,
    SCHED_REMOTE_SHUTDOWN,
    SCHED_SHUTDOWN,
    SCHEDOP_NAMES,
    SHUTDOWN_NAMES,
    SCHEDOP_block,
    SCHEDOP_pin_override,
    SCHEDOP_poll,
    SCHEDOP_remote_shutdown,
    SCHEDOP_shutdown,
    SCHEDOP_shutdown_code,
    SCHEDOP_yield,
)
from pyxen.abi.xen import HYPERVISOR_sched_op, HYPERVISOR_sched_op_compat
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import MASK, PENDING, Vcpu

_NAMES: Final = {number: f"sched_op.{name}" for number, name in SCHEDOP_NAMES.items()}
_MAX_POLLED: Final = 128


@hypercall(HYPERVISOR_sched_op)
def sched_op(vcpu: Vcpu, command: int, argument: int) -> int:
    domain = vcpu.domain
    command &= UINT32
    domain.counters.add_operation(_NAMES.get(command, "sched_op.unknown"))
    if command == SCHEDOP_yield:
        domain.scheduler.yield_slice()
    elif command == SCHEDOP_block:
        _block(vcpu)
    elif command == SCHEDOP_poll:
        _poll(vcpu, argument)
    elif command == SCHEDOP_shutdown:
        _shutdown(vcpu, _read_reason(vcpu, argument))
    elif command == SCHEDOP_shutdown_code:
        # The first one counts, and comes before the reason of the shutdown itself.
        domain.shutdown_code = domain.shutdown_code or _read_reason(vcpu, argument)
    elif command == SCHEDOP_remote_shutdown:
        _refuse_remote_shutdown(vcpu, argument)
    elif command == SCHEDOP_pin_override:
        raise XenError(EPERM)
    else:
        raise XenError(ENOSYS)
    return 0


@hypercall(HYPERVISOR_sched_op_compat)
def sched_op_compat(vcpu: Vcpu, command: int, argument: int) -> int:
    """The form of Xen 3.0.2: the reason of a shutdown is the argument itself."""
    command &= UINT32
    if command == SCHEDOP_yield:
        vcpu.domain.scheduler.yield_slice()
    elif command == SCHEDOP_block:
        _block(vcpu)
    elif command == SCHEDOP_shutdown:
        _shutdown(vcpu, argument & 0xFF)
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
    """Wait until one of some ports is pending, even if masked, or an event comes, or until a time.

    The ports are looked at in turn, and those behind one that is pending not at all.
    """
    ports_pointer, count, timeout = SCHED_POLL.unpack(
        guest_access.copy_from(vcpu, argument, SCHED_POLL.size)
    )
    if count > _MAX_POLLED:
        raise XenError(EINVAL)
    view = vcpu.domain.memory.bytes
    if view[vcpu.info + PENDING] and not view[vcpu.info + MASK]:
        return
    events = vcpu.domain.events
    ports = []
    for number in range(count):
        data = guest_access.copy_from(vcpu, ports_pointer + 4 * number, 4)
        port = int.from_bytes(data, "little")
        if events.poll(port):
            return
        ports.append(port)
    now = vcpu.domain.clock.now()
    if timeout and timeout <= now:
        return
    vcpu.polling = ports
    vcpu.poll_deadline = timeout
    vcpu.block()
    vcpu.domain.scheduler.set_alarm(now)


def _read_reason(vcpu: Vcpu, argument: int) -> int:
    """Eight bits count."""
    (reason,) = SCHED_SHUTDOWN.unpack(guest_access.copy_from(vcpu, argument, SCHED_SHUTDOWN.size))
    return int(reason) & 0xFF


def _shutdown(vcpu: Vcpu, reason: int) -> None:
    """Xen takes any reason; to a tool stack one that has no name is a crash."""
    domain = vcpu.domain
    domain.shutdown_code = domain.shutdown_code or reason
    domain.stop(SHUTDOWN_NAMES.get(domain.shutdown_code, "crash"))


def _refuse_remote_shutdown(vcpu: Vcpu, argument: int) -> None:
    """For the tools of domain 0. DOMID_SELF is no domain here."""
    domid, _ = SCHED_REMOTE_SHUTDOWN.unpack(
        guest_access.copy_from(vcpu, argument, SCHED_REMOTE_SHUTDOWN.size)
    )
    raise XenError(EPERM if domid in (0, vcpu.domain.domid) else ESRCH)
