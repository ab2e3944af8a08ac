# SPDX-License-Identifier: GPL-2.0-or-later
"""The dispatcher: from the number of a hypercall to its handler (see ``hypercalls``).

Every hypercall and every entry of a multicall passes here; each is counted, timed, shown to the
instruments, and kept in the history for crash reports.
"""

from __future__ import annotations

import importlib
import pkgutil
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final

from pyxen.abi.errno import ENOSYS
from pyxen.abi.xen import HYPERCALL_NAMES
from pyxen.engine.registers import R8, R10, RAX, RDI, RDX, RIP, RSI
from pyxen.errors import XenError
from pyxen.hypervisor import hypercalls
from pyxen.hypervisor.continuation import Continuation
from pyxen.hypervisor.hypercalls.table import ARITIES, HANDLERS
from pyxen.hypervisor.instruments import HISTORY_FIELDS, HISTORY_LENGTH, NR_HYPERCALLS

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu

_MASK: Final = 0xFFFFFFFFFFFFFFFF
_SYSCALL_LENGTH: Final = 2
_ARGUMENTS: Final = (RDI, RSI, RDX, R10, R8)


class Dispatcher:
    """Number -> handler, counted, timed, and shown to the instruments."""

    def __init__(self, domain: Domain) -> None:
        self._domain = domain
        self._instruments = domain.instruments
        self._counters = domain.counters
        self._counts = domain.counters.hypercall_count
        self._ns = domain.counters.hypercall_ns
        self._history = domain.counters.history
        self._position = 0
        self._arities = ARITIES
        self._inner_ns = 0
        self._continued: tuple[int, ...] | None = None
        domain.dispatcher = self

    def hypercall(self, vcpu: Vcpu) -> None:
        """Serve the hypercall in the vCPU's registers."""
        words = vcpu.cpu.registers.words
        number = words[RAX]
        first = words[RDI]
        second = words[RSI]
        position = self._position
        self._position = (position + 1) % HISTORY_LENGTH
        self._counters.history_position = self._position
        entry = position * HISTORY_FIELDS
        self._history[entry] = vcpu.index + 1
        self._history[entry + 1] = number
        self._history[entry + 2] = first
        self._history[entry + 3] = second
        self._history[entry + 4] = 0
        result = self.call(vcpu, number, first, second, words[RDX], words[R10], words[R8])
        if result is not None:
            # The registers may be other ones by now: not those of ``words``.
            vcpu.cpu.registers.words[RAX] = self._history[entry + 4] = result & _MASK
        elif self._continued is not None:
            self._repeat(words, self.take_continuation())

    def _repeat(self, words: memoryview, arguments: tuple[int, ...]) -> None:
        """Go back to the instruction, with the arguments of a continuation; rax has the number."""
        words[RIP] = words[RIP] - _SYSCALL_LENGTH & _MASK
        for register, argument in zip(_ARGUMENTS, arguments, strict=False):
            words[register] = argument

    def take_continuation(self) -> tuple[int, ...]:
        """The arguments with which the last call is to be made again; empty: it is done."""
        arguments = self._continued
        self._continued = None
        return arguments or ()

    def call(
        self, vcpu: Vcpu, number: int, a1: int, a2: int, a3: int, a4: int, a5: int
    ) -> int | None:
        """One hypercall or entry of a multicall. Returns the result, negative for an error.

        None: an ``iret`` has set all registers, or the call is to be continued.
        """
        start = perf_counter_ns()
        outer_ns = self._inner_ns
        self._inner_ns = 0
        index = number if number < NR_HYPERCALLS else NR_HYPERCALLS - 1
        handler = HANDLERS[number] if number < NR_HYPERCALLS else None
        result: int | None
        try:
            if self._instruments:
                for instrument in self._instruments:
                    instrument.before_hypercall(vcpu, number, (a1, a2, a3, a4, a5))
            if handler is None:
                self._domain.report_once(f"hypercall {name_of(number)} is not implemented: -ENOSYS")
                result = -ENOSYS
            else:
                arity = self._arities[index]
                if arity == 4:
                    result = handler(vcpu, a1, a2, a3, a4)
                elif arity == 3:
                    result = handler(vcpu, a1, a2, a3)
                elif arity == 2:
                    result = handler(vcpu, a1, a2)
                elif arity == 1:
                    result = handler(vcpu, a1)
                elif arity == 0:
                    result = handler(vcpu)
                else:
                    result = handler(vcpu, a1, a2, a3, a4, a5)
        except XenError as error:
            result = -error.errno
        except Continuation as continuation:
            self._continued = continuation.arguments
            self._counters.add_operation("continuation")
            result = None
        passed = perf_counter_ns() - start
        if self._continued is None:
            self._counts[index] += 1
            if self._instruments:
                for instrument in self._instruments:
                    instrument.after_hypercall(vcpu, number, result or 0)
        self._ns[index] += passed - self._inner_ns
        self._inner_ns = outer_ns + passed
        return result


def name_of(number: int) -> str:
    """For logs."""
    return HYPERCALL_NAMES.get(number, str(number))


# Each module puts its handlers into the table.
for _module in pkgutil.iter_modules(hypercalls.__path__):
    importlib.import_module(f"{hypercalls.__name__}.{_module.name}")
