# SPDX-License-Identifier: GPL-2.0-or-later
"""set_timer_op: the single-shot timer, as older kernels set it."""

from __future__ import annotations

from typing import Final

from pyxen.abi.xen import HYPERVISOR_set_timer_op
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.timers import NO_DEADLINE
from pyxen.hypervisor.vcpu import Vcpu

_OVERFLOW: Final = 1 << 50
_LATER: Final = 100_000_000


@hypercall(HYPERVISOR_set_timer_op)
def set_timer_op(vcpu: Vcpu, deadline: int) -> int:
    """``deadline`` is system time in ns; 0 stops the timer, one that is over fires at once.

    Linux computed a deadline from a jiffies value that had overflowed: so far in the future (or in
    the past, by sign), Xen looks again in 100 ms.
    """
    domain = vcpu.domain
    if not deadline:
        domain.set_timer(vcpu, NO_DEADLINE)
    elif deadline >> 63 or deadline >= domain.clock.now() + _OVERFLOW:
        domain.set_timer(vcpu, domain.clock.now() + _LATER)
    else:
        domain.set_timer(vcpu, deadline)
    return 0
