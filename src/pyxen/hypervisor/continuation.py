# SPDX-License-Identifier: GPL-2.0-or-later
"""Continuations: how a long hypercall gives way and goes on.

Xen is not preemptive. A hypercall that works through a list asks now and then whether something
waits (``Domain.preempt_check``): an event for the vCPU, another vCPU, an order to stop. If so it
ends early with a *continuation*: the registers are set so that the same ``syscall`` instruction
makes the hypercall again, with arguments that stand for the work that is left, and rip is taken
back to it. The guest takes its event, or another vCPU runs, and when the guest goes on it makes
the hypercall again without knowing. In a multicall the arguments of the entry are changed in the
guest's memory, and the multicall itself is continued at that entry.

Nothing is remembered anywhere but in the guest's own registers and memory, so that a domain can be
saved in the midst of a hypercall. Source: ``hypercall_create_continuation`` of Xen.
"""

from __future__ import annotations

from typing import Final

PREEMPTED: Final = 1 << 31
"""In the count of ``mmu_update`` and ``mmuext_op``: the call goes on."""


class Continuation(Exception):
    """Raised by a handler: make the hypercall again with these first arguments."""

    def __init__(self, *arguments: int) -> None:
        super().__init__(*arguments)
        self.arguments = arguments
