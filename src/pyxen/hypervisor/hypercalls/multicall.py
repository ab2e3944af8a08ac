# SPDX-License-Identifier: GPL-2.0-or-later
"""multicall: a list of hypercalls in one, each with a result of its own."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from pyxen.abi.xen import MULTICALL_ENTRY, HYPERVISOR_multicall
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.addresses import UINT32
from pyxen.hypervisor.continuation import Continuation
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu

_RESULT: Final = MULTICALL_ENTRY.offsets["result"]
_ARGUMENTS: Final = MULTICALL_ENTRY.offsets["args"]
_SIZE: Final = MULTICALL_ENTRY.size


@hypercall(HYPERVISOR_multicall)
def multicall(vcpu: Vcpu, calls: int, count: int) -> int | None:
    """All entries are executed, in order, whatever the results of those before.

    Only ``iret`` ends the batch: it has left for where its frame says, with rax from there.
    """
    guest_access.check_handle(calls)
    domain = vcpu.domain
    dispatcher = domain.dispatcher
    count &= UINT32
    for number in range(count):
        entry = calls + number * _SIZE
        if number and domain.preempt_check(vcpu):
            raise Continuation(entry, count - number)
        operation, _, *arguments = guest_access.read_words(vcpu, entry, 8)
        result = dispatcher.entry(vcpu, operation, arguments)
        if result is None:
            rest = dispatcher.take_continuation()
            if rest:
                for position, argument in enumerate(rest):
                    guest_access.write_word(vcpu, entry + _ARGUMENTS + 8 * position, argument)
                raise Continuation(entry, count - number)
            _store_last(vcpu, entry + _RESULT, vcpu.cpu.registers.rax)
            return None
        guest_access.write_word(vcpu, entry + _RESULT, result)
    return 0


def _store_last(vcpu: Vcpu, address: int, result: int) -> None:
    """As far as it can be stored: there is nobody left to be told of an error."""
    with suppress(XenError):
        guest_access.write_word(vcpu, address, result)
