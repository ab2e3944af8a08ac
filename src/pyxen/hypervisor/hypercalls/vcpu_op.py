# SPDX-License-Identifier: GPL-2.0-or-later
"""vcpu_op: bring vCPUs up and down, their timers, and the areas that they share with Xen."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Final

from pyxen.abi.arch_x86_64 import (
    VCPU_GUEST_CONTEXT,
    XEN_LEGACY_MAX_VCPUS,
)
from pyxen.abi.errno import EEXIST, EINVAL, ENOENT, ENOSYS, ENXIO, ETIME
from pyxen.abi.sched import SHUTDOWN_poweroff
from pyxen.abi.vcpu import (
    VCPU_REGISTER_RUNSTATE_MEMORY_AREA,
    VCPU_REGISTER_VCPU_INFO,
    VCPU_SET_PERIODIC_TIMER,
    VCPU_SET_SINGLESHOT_TIMER,
    VCPUOP_NAMES,
    VCPU_SSHOTTMR_future,
    VCPUOP_down,
    VCPUOP_get_physid,
    VCPUOP_get_runstate_info,
    VCPUOP_initialise,
    VCPUOP_is_up,
    VCPUOP_register_runstate_memory_area,
    VCPUOP_register_vcpu_info,
    VCPUOP_register_vcpu_time_memory_area,
    VCPUOP_send_nmi,
    VCPUOP_set_periodic_timer,
    VCPUOP_set_singleshot_timer,
    VCPUOP_stop_periodic_timer,
    VCPUOP_stop_singleshot_timer,
    VCPUOP_up,
)
from pyxen.abi.xen import VCPU_INFO, HYPERVISOR_vcpu_op
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.page_types import WRITABLE
from pyxen.hypervisor.timers import NO_DEADLINE
from pyxen.hypervisor.vcpu import MASK, PENDING, PENDING_SELECTOR
from pyxen.hypervisor.vcpu_context import set_context

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

_NAMES: Final = {number: f"vcpu_op.{name}" for number, name in VCPUOP_NAMES.items()}
_MIN_PERIOD: Final = 1_000_000
_MAX_PERIOD: Final = (1 << 62) - 1
_SIGN: Final = 1 << 63


@hypercall(HYPERVISOR_vcpu_op)
def vcpu_op(vcpu: Vcpu, command: int, vcpuid: int, argument: int) -> int:
    """``vcpuid`` is the vCPU that is meant. Raises ENOENT if the domain has no such one."""
    domain = vcpu.domain
    command &= UINT32
    vcpuid &= UINT32
    domain.counters.add_operation(_NAMES.get(command, "vcpu_op.unknown"))
    if vcpuid >= len(domain.vcpus):
        raise XenError(ENOENT)
    target = domain.vcpus[vcpuid]
    if command == VCPUOP_is_up:
        return int(target.up)
    if command == VCPUOP_initialise:
        _initialise(vcpu, target, argument)
    elif command == VCPUOP_up:
        if not target.initialised:
            raise XenError(EINVAL)
        target.up = True
    elif command == VCPUOP_down:
        _down(target)
    elif command == VCPUOP_get_runstate_info:
        guest_access.copy_to(vcpu, argument, target.runstate_now())
    elif command == VCPUOP_register_runstate_memory_area:
        _register_runstate(vcpu, target, argument)
    elif command == VCPUOP_register_vcpu_time_memory_area:
        _register_time(vcpu, target, argument)
    elif command == VCPUOP_register_vcpu_info:
        _register_vcpu_info(vcpu, target, argument)
    elif command == VCPUOP_send_nmi:
        _send_nmi(target, argument)
    elif command == VCPUOP_get_physid:
        raise XenError(EINVAL)  # for domain 0 with pinned vCPUs
    else:
        _timer(vcpu, target, command, argument)
    return 0


# Up and down


def _initialise(vcpu: Vcpu, target: Vcpu, argument: int) -> None:
    """Take the state in which a vCPU starts when it is brought up.

    Raises EEXIST the second time, EINVAL for a state that it cannot have, or for one of the vCPUs
    without a place in shared info that has not registered its vcpu_info.
    """
    if target.index >= XEN_LEGACY_MAX_VCPUS and not target.info_registered:
        raise XenError(EINVAL)
    context = guest_access.copy_from(vcpu, argument, VCPU_GUEST_CONTEXT.size)
    if target.initialised:
        raise XenError(EEXIST)
    set_context(target, context)
    target.initialised = True


def _send_nmi(target: Vcpu, argument: int) -> None:
    """It waits until the vCPU is up and can take it. Raises EINVAL for an argument."""
    if argument:
        raise XenError(EINVAL)
    target.raise_nmi()


def _down(target: Vcpu) -> None:
    """Without another vCPU that is up, the domain has shut down."""
    vcpus = target.domain.vcpus
    if any(vcpu.up for vcpu in vcpus if vcpu is not target):
        target.up = False
    else:
        target.domain.shutdown(SHUTDOWN_poweroff)


# Shared areas


def _register_runstate(vcpu: Vcpu, target: Vcpu, argument: int) -> None:
    """0 ends it. What cannot be written is not: the area may be mapped later."""
    address = _read_address(vcpu, argument)
    target.runstate_area = address
    if address:
        with contextlib.suppress(XenError):
            guest_access.copy_to(vcpu, address, target.runstate_now())


def _register_time(vcpu: Vcpu, target: Vcpu, argument: int) -> None:
    """The same for a copy of the time record, which the kernel may show to its programs."""
    target.time_area = _read_address(vcpu, argument)
    vcpu.domain.update_time(target)


def _read_address(vcpu: Vcpu, argument: int) -> int:
    layout = VCPU_REGISTER_RUNSTATE_MEMORY_AREA
    (address,) = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    guest_access.check_handle(address)
    return int(address)


def _register_vcpu_info(vcpu: Vcpu, target: Vcpu, argument: int) -> None:
    """Move the vcpu_info to a page of the guest's, once, of this vCPU or of one that is down.

    Raises ENXIO for a place that crosses a page or is not aligned, EINVAL for one that is not the
    guest's to write, the second time, and for a vCPU that runs (as Xen 4.17; later ones differ).
    """
    mfn, offset, _ = VCPU_REGISTER_VCPU_INFO.unpack(
        guest_access.copy_from(vcpu, argument, VCPU_REGISTER_VCPU_INFO.size)
    )
    domain = vcpu.domain
    if offset > PAGE_SIZE - VCPU_INFO.size or offset % 8:
        raise XenError(ENXIO)
    if target.info_registered or (target is not vcpu and target.up):
        raise XenError(EINVAL)
    domain.pagetables.get_page_and_type(mfn, WRITABLE)
    view = domain.memory.bytes
    old, new = target.info, mfn * PAGE_SIZE + offset
    if target.index < XEN_LEGACY_MAX_VCPUS:
        view[new : new + VCPU_INFO.size] = view[old : old + VCPU_INFO.size]
    else:  # it had none
        view[new : new + VCPU_INFO.size] = bytes(VCPU_INFO.size)
        view[new + MASK] = 1
    target.info = new
    target.info_registered = True
    # Events may have come to the old place meanwhile: let the guest look at all.
    domain.memory.words[(new + PENDING_SELECTOR) >> 3] = 0xFFFFFFFFFFFFFFFF
    view[new + PENDING] = 1
    if target is not vcpu and not target.initialised:
        view[new + MASK] = 1
    domain.update_time(target)


# Timers


def _timer(vcpu: Vcpu, target: Vcpu, command: int, argument: int) -> None:
    domain = vcpu.domain
    if command == VCPUOP_set_singleshot_timer:
        _check_own(vcpu, target)
        deadline, flags = VCPU_SET_SINGLESHOT_TIMER.unpack(
            guest_access.copy_from(vcpu, argument, VCPU_SET_SINGLESHOT_TIMER.size)
        )
        if flags & VCPU_SSHOTTMR_future and deadline < domain.clock.now():
            raise XenError(ETIME)
        # Xen's time is signed: what it takes for negative is over.
        domain.set_timer(target, max(1, deadline) if deadline < _SIGN else 1)
    elif command == VCPUOP_stop_singleshot_timer:
        _check_own(vcpu, target)
        domain.set_timer(target, NO_DEADLINE)
    elif command == VCPUOP_set_periodic_timer:
        (period,) = VCPU_SET_PERIODIC_TIMER.unpack(
            guest_access.copy_from(vcpu, argument, VCPU_SET_PERIODIC_TIMER.size)
        )
        if not _MIN_PERIOD <= period <= _MAX_PERIOD:
            raise XenError(EINVAL)
        domain.timers.set_period(target, period, domain.clock.now())
    elif command == VCPUOP_stop_periodic_timer:
        domain.timers.set_period(target, 0, domain.clock.now())
    elif command in VCPUOP_NAMES:
        domain.report_once(f"{_NAMES[command]} is not implemented: -ENOSYS")
        raise XenError(ENOSYS)
    else:
        raise XenError(ENOSYS)


def _check_own(vcpu: Vcpu, target: Vcpu) -> None:
    """The single-shot timer of another vCPU is out of reach."""
    if vcpu is not target:
        raise XenError(EINVAL)
