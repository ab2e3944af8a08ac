# SPDX-License-Identifier: GPL-2.0-or-later
"""set_callbacks: the three callbacks at once, as old kernels register them."""

from __future__ import annotations

from contextlib import suppress

from pyxen.abi.callback import (
    CALLBACKTYPE_event,
    CALLBACKTYPE_failsafe,
    CALLBACKTYPE_syscall,
)
from pyxen.abi.xen import HYPERVISOR_set_callbacks
from pyxen.errors import XenError
from pyxen.hypervisor.hypercalls.callback_op import register
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu


@hypercall(HYPERVISOR_set_callbacks)
def set_callbacks(vcpu: Vcpu, event: int, failsafe: int, syscall: int) -> int:
    """As under Xen, an address that is refused is passed over in silence."""
    for kind, address in (
        (CALLBACKTYPE_event, event),
        (CALLBACKTYPE_failsafe, failsafe),
        (CALLBACKTYPE_syscall, syscall),
    ):
        with suppress(XenError):
            register(vcpu, kind, 0, address)
    return 0
