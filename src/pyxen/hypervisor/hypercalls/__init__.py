# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypercalls: one module each, and the dispatcher through which all of them pass.

A handler is a function of the vCPU and the hypercall's arguments (unsigned 64-bit integers), as many as it
takes. It returns what the guest gets in rax, a number >= 0, or None if it has changed the
registers itself; it refuses by raising XenError. ``@hypercall(number)`` puts it into the table::

    @hypercall(HYPERVISOR_stack_switch)
    def stack_switch(vcpu: Vcpu, ss: int, esp: int) -> int: ...
"""

from __future__ import annotations

import importlib
import pkgutil
from time import perf_counter_ns
from typing import TYPE_CHECKING

from pyxen.abi.errno import EINVAL, ENOSYS
from pyxen.abi.xen import HYPERCALL_NAMES, HYPERVISOR_multicall
from pyxen.errors import XenError
from pyxen.hypervisor.hypercalls.table import ARITIES, HANDLERS
from pyxen.hypervisor.instruments import NR_HYPERCALLS

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.vcpu import Vcpu


def _load_handlers() -> None:
    for module in pkgutil.iter_modules(__path__):
        importlib.import_module(f"{__name__}.{module.name}")


class Dispatcher:
    """Number -> handler, counted, timed, and shown to the instruments."""

    def __init__(self, domain: Domain) -> None:
        if not any(HANDLERS):
            _load_handlers()
        self._domain = domain
        self._counters = domain.counters
        self._inner_ns = 0
        domain.dispatcher = self

    def hypercall(self, vcpu: Vcpu) -> None:
        """Serve the hypercall in the vCPU's registers."""
        registers = vcpu.cpu.registers
        number = registers.rax
        first, second = registers.rdi, registers.rsi
        result = self.call(vcpu, number, first, second, registers.rdx, registers.r10, registers.r8)
        self._counters.history.append((vcpu.index, number, first, second, result or 0))
        if result is not None:
            registers.rax = result

    def call(
        self, vcpu: Vcpu, number: int, a1: int, a2: int, a3: int, a4: int, a5: int
    ) -> int | None:
        """One hypercall or entry of a multicall. Returns the result, negative for an error."""
        start = perf_counter_ns()
        outer_ns, self._inner_ns = self._inner_ns, 0
        domain = self._domain
        handler = HANDLERS[number] if number < NR_HYPERCALLS else None
        result: int | None
        try:
            if domain.instruments:
                for instrument in domain.instruments:
                    instrument.before_hypercall(vcpu, number, (a1, a2, a3, a4, a5))
            if handler is None:
                domain.report_once(f"hypercall {name_of(number)} is not implemented: -ENOSYS")
                result = -ENOSYS
            else:
                arity = ARITIES[number]
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
        if domain.instruments:
            for instrument in domain.instruments:
                instrument.after_hypercall(vcpu, number, result or 0)
        passed = perf_counter_ns() - start
        index = number if number < NR_HYPERCALLS else NR_HYPERCALLS - 1
        counters = self._counters
        counters.hypercall_count[index] += 1
        counters.hypercall_ns[index] += passed - self._inner_ns
        self._inner_ns = outer_ns + passed
        return result

    def entry(self, vcpu: Vcpu, number: int, arguments: list[int]) -> int | None:
        """One entry of a multicall; EINVAL for a multicall in a multicall."""
        if number == HYPERVISOR_multicall:
            return -EINVAL
        return self.call(vcpu, number, *arguments[:5])


def name_of(number: int) -> str:
    """For logs."""
    return HYPERCALL_NAMES.get(number, str(number))
