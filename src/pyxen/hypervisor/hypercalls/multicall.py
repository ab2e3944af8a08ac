# SPDX-License-Identifier: GPL-2.0-or-later
"""multicall: a list of hypercalls in one, each with a result of its own."""

from __future__ import annotations

from typing import Final

from pyxen.abi.xen import MULTICALL_ENTRY, HYPERVISOR_multicall
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu

_RESULT: Final = MULTICALL_ENTRY.offsets["result"]


@hypercall(HYPERVISOR_multicall)
def multicall(vcpu: Vcpu, calls: int, count: int) -> int:
    """All entries are executed, in order, whatever the results of those before."""
    domain = vcpu.domain
    dispatcher = domain.dispatcher
    for number in range(count & 0xFFFFFFFF):
        entry = calls + number * MULTICALL_ENTRY.size
        operation, _, *arguments = guest_access.read_words(vcpu, entry, 8)
        result = dispatcher.entry(vcpu, operation, arguments)
        guest_access.write_word(vcpu, entry + _RESULT, result)
        if domain.stopping:
            break
    return 0
