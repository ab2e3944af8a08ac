# SPDX-License-Identifier: GPL-2.0-or-later
"""set_callbacks: the three callbacks at once, as old kernels register them."""

from __future__ import annotations

from pyxen.abi.callback import (
    CALLBACKTYPE_event,
    CALLBACKTYPE_failsafe,
    CALLBACKTYPE_syscall,
)
from pyxen.abi.xen import HYPERVISOR_set_callbacks
from pyxen.hypervisor.hypercalls.callback_op import register
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_set_callbacks)
def set_callbacks(vcpu: Vcpu, event: int, failsafe: int, syscall: int) -> int:
    register(vcpu, CALLBACKTYPE_event, 0, event)
    register(vcpu, CALLBACKTYPE_failsafe, 0, failsafe)
    register(vcpu, CALLBACKTYPE_syscall, 0, syscall)
    return 0
