# SPDX-License-Identifier: GPL-2.0-or-later
"""multicall: a list of hypercalls in one, each with a result of its own."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from pyxen.abi.xen import MULTICALL_ENTRY, HYPERVISOR_multicall
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu

_RESULT: Final = MULTICALL_ENTRY.offsets["result"]


@hypercall(HYPERVISOR_multicall)
def multicall(vcpu: Vcpu, calls: int, count: int) -> int | None:
    """All entries are executed, in order, whatever the results of those before.

    Only ``iret`` ends the batch: it has left for where its frame says, with rax from there.
    """
    domain = vcpu.domain
    dispatcher = domain.dispatcher
    for number in range(count):
        entry = calls + number * MULTICALL_ENTRY.size
        operation, _, *arguments = guest_access.read_words(vcpu, entry, 8)
        result = dispatcher.entry(vcpu, operation, arguments)
        if result is None:
            _store_last(vcpu, entry + _RESULT, vcpu.cpu.registers.rax)
            return None
        guest_access.write_word(vcpu, entry + _RESULT, result)
        if domain.must_leave():
            break
    return 0


def _store_last(vcpu: Vcpu, address: int, result: int) -> None:
    """As far as it can be stored: there is nobody left to be told of an error."""
    with suppress(XenError):
        guest_access.write_word(vcpu, address, result)
