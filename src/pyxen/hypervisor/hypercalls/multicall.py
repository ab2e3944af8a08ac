# SPDX-License-Identifier: GPL-2.0-or-later
"""multicall: a list of hypercalls in one, each with a result of its own."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from pyxen.abi.errno import EFAULT, EINVAL
from pyxen.abi.xen import MULTICALL_ENTRY, HYPERVISOR_multicall
from pyxen.errors import XenError
from pyxen.hypervisor.addresses import UINT32, is_guest_address
from pyxen.hypervisor.continuation import Continuation
from pyxen.hypervisor.guest_access import NOT_MAPPED, find_words, write_word
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.vcpu import Vcpu

_RESULT: Final = MULTICALL_ENTRY.offsets["result"]
_ARGUMENTS: Final = MULTICALL_ENTRY.offsets["args"]
_FIRST_ARGUMENT: Final = _ARGUMENTS // 8
_SIZE: Final = MULTICALL_ENTRY.size
_ADDRESS: Final = 0xFFFFFFFFFFFFFFFF


@hypercall(HYPERVISOR_multicall)
def multicall(vcpu: Vcpu, calls: int, count: int) -> int | None:
    """All entries are executed, in order, whatever the results of those before.

    Only ``iret`` ends the batch: it has left for where its frame says, with rax from there.
    """
    return _execute(vcpu, calls, count & UINT32)


def _execute(vcpu: Vcpu, calls: int, count: int) -> int | None:
    if not is_guest_address(calls):
        raise XenError(EFAULT)
    domain = vcpu.domain
    dispatcher = domain.dispatcher
    words = vcpu.words
    for number in range(count):
        entry = (calls + number * _SIZE) & _ADDRESS
        if number and domain.preempt_check(vcpu):
            raise Continuation(entry, count - number)
        place = find_words(vcpu, entry, _SIZE // 8)
        if place == NOT_MAPPED:
            raise XenError(EFAULT)
        operation = words[place]
        result: int | None
        if operation == HYPERVISOR_multicall:
            result = -EINVAL
        else:
            place += _FIRST_ARGUMENT
            result = dispatcher.call(
                vcpu,
                operation,
                words[place],
                words[place + 1],
                words[place + 2],
                words[place + 3],
                words[place + 4],
            )
        if result is None:
            rest = dispatcher.take_continuation()
            if rest:
                for position, argument in enumerate(rest):
                    write_word(vcpu, entry + _ARGUMENTS + 8 * position, argument)
                raise Continuation(entry, count - number)
            _store_last(vcpu, entry + _RESULT, vcpu.cpu.registers.rax)
            return None
        write_word(vcpu, entry + _RESULT, result)
    return 0


def _store_last(vcpu: Vcpu, address: int, result: int) -> None:
    """As far as it can be stored: there is nobody left to be told of an error."""
    with suppress(XenError):
        write_word(vcpu, address, result)
