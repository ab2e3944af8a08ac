# SPDX-License-Identifier: GPL-2.0-or-later
"""sched_op: give up the processor for a while, until an event, or for good."""

from __future__ import annotations

from typing import Final

from pyxen.abi.errno import EINVAL, ENOSYS, EPERM, ESRCH
from pyxen.abi.sched import (
    SCHED_POLL,
    SCHED_REMOTE_SHUTDOWN,
    SCHED_SHUTDOWN,
    SCHED_WATCHDOG,
    SCHEDOP_NAMES,
    SCHEDOP_block,
    SCHEDOP_pin_override,
    SCHEDOP_poll,
    SCHEDOP_remote_shutdown,
    SCHEDOP_shutdown,
    SCHEDOP_shutdown_code,
    SCHEDOP_watchdog,
    SCHEDOP_yield,
)
from pyxen.abi.xen import HYPERVISOR_sched_op, HYPERVISOR_sched_op_compat
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import ANY_PORT, MASK, PENDING, Vcpu

_NAMES: Final = {number: f"sched_op.{name}" for number, name in SCHEDOP_NAMES.items()}
_MAX_POLLED: Final = 128
_SIGN: Final = 1 << 63


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
        domain.shutdown(_read_reason(vcpu, argument))
    elif command == SCHEDOP_shutdown_code:
        # The first one counts, and comes before the reason of the shutdown itself.
        reason = _read_reason(vcpu, argument)
        if domain.shutdown_code is None:
            domain.shutdown_code = reason
    elif command == SCHEDOP_watchdog:
        number, seconds = SCHED_WATCHDOG.unpack(
            guest_access.copy_from(vcpu, argument, SCHED_WATCHDOG.size)
        )
        return domain.timers.set_watchdog(number, seconds, domain.clock.now())
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
        vcpu.domain.shutdown(argument & 0xFF)
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

    The ports are looked at in turn, and those behind one that is pending not at all. A vCPU that
    waits for one port is woken by that one; for none or several, by any port of the domain.
    """
    ports, count, timeout = SCHED_POLL.unpack(
        guest_access.copy_from(vcpu, argument, SCHED_POLL.size)
    )
    if count > _MAX_POLLED:
        raise XenError(EINVAL)
    guest_access.check_handle(ports)
    view = vcpu.domain.memory.bytes
    if view[vcpu.info + PENDING] and not view[vcpu.info + MASK]:
        return
    port = 0
    for number in range(count):
        port = int.from_bytes(guest_access.copy_from(vcpu, ports + 4 * number, 4), "little")
        if vcpu.domain.events.poll(port):
            return
    if timeout >= _SIGN:  # negative to Xen, so it is over
        return
    vcpu.poll(port if count == 1 else ANY_PORT, timeout)


def _read_reason(vcpu: Vcpu, argument: int) -> int:
    """Eight bits count."""
    (reason,) = SCHED_SHUTDOWN.unpack(guest_access.copy_from(vcpu, argument, SCHED_SHUTDOWN.size))
    return int(reason) & 0xFF


def _refuse_remote_shutdown(vcpu: Vcpu, argument: int) -> None:
    """For the tools of domain 0. DOMID_SELF is no domain here."""
    domid, _ = SCHED_REMOTE_SHUTDOWN.unpack(
        guest_access.copy_from(vcpu, argument, SCHED_REMOTE_SHUTDOWN.size)
    )
    raise XenError(EPERM if domid in (0, vcpu.domain.domid) else ESRCH)
