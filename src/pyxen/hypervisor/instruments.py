# SPDX-License-Identifier: GPL-2.0-or-later
"""Counters of what passes the dispatcher, and hooks into it.

Every hypercall, every entry of a multicall and every trap is counted with the time that it took.
*Instruments* (the word is trio's) are told of each; they can watch, delay, count, or make one
fail.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct, field, to_builtins

from pyxen.abi.xen import HYPERCALL_NAMES

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

NR_HYPERCALLS: Final = 64
HISTORY_LENGTH: Final = 32
HISTORY_FIELDS: Final = 5
_NO_CALL: Final = 0


class Instrument:
    """Override what is of interest."""

    def before_hypercall(self, vcpu: Vcpu, number: int, arguments: tuple[int, ...]) -> None:
        """Raise XenError to refuse the call in the handler's place."""

    def after_hypercall(self, vcpu: Vcpu, number: int, result: int) -> None:
        """``result`` is what the guest gets, negative for an error."""

    def trap(self, vcpu: Vcpu, name: str) -> None:
        """An exception, a system call of a program, an emulated instruction."""


class PortStatistics(Struct, frozen=True):
    """An event channel's port, and what has passed through it since it was bound.

    ``sent`` counts the guest's sends, ``raised`` how often its pending bit was set: the guest's
    interrupts, once it has taken them.
    """

    kind: str
    virq: int | None
    vcpu: int
    sent: int
    raised: int
    pending: bool
    masked: bool


class Statistics(Struct, frozen=True):
    """What a domain has done. The values of hypercalls and traps are (count, nanoseconds).

    ``operations`` counts sub-operations, such as ``vcpu_op.is_up``. Of the ``wall_ns`` since the
    start, ``guest_ns`` went to guest code and ``idle_ns`` to waiting. ``ports`` are the bound ports
    of event channels, by number, ``devices`` what the tool stack adds: counters of back ends.
    """

    hypercalls: dict[str, tuple[int, int]]
    traps: dict[str, tuple[int, int]]
    operations: dict[str, int]
    guest_ns: int
    idle_ns: int
    wall_ns: int
    ports: dict[int, PortStatistics] = field(default_factory=dict)
    devices: dict[str, dict[str, int]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        shown: dict[str, Any] = to_builtins(self)
        return shown


class Counters:
    """Filled by the dispatcher. ``history`` is a ring of the last hypercalls, HISTORY_FIELDS words
    each, of which ``history_position`` is the next one to be overwritten."""

    def __init__(self) -> None:
        self.hypercall_count = array("Q", bytes(8 * NR_HYPERCALLS))
        self.hypercall_ns = array("Q", bytes(8 * NR_HYPERCALLS))
        self.traps: dict[str, list[int]] = {}
        self.operations: dict[str, int] = {}
        self.history = array("Q", bytes(8 * HISTORY_FIELDS * HISTORY_LENGTH))
        self.history_position = 0
        self.engine_ns = 0
        """Time in ``engine.run``: guest code and the traps served within."""
        self.idle_ns = 0

    def last_hypercalls(self) -> list[tuple[int, int, int, int, int]]:
        """The newest last: vcpu, number, first and second argument, result (negative: error)."""
        calls = []
        for age in range(HISTORY_LENGTH, 0, -1):
            first = (self.history_position - age) % HISTORY_LENGTH * HISTORY_FIELDS
            vcpu, number, a1, a2, result = self.history[first : first + HISTORY_FIELDS]
            if vcpu != _NO_CALL:
                signed = result - (1 << 64) if result >> 63 else result
                calls.append((vcpu - 1, number, a1, a2, signed))
        return calls

    def add_trap(self, name: str, nanoseconds: int) -> None:
        counter = self.traps.get(name)
        if counter is None:
            counter = self.traps[name] = [0, 0]
        counter[0] += 1
        counter[1] += nanoseconds

    def add_operation(self, name: str, count: int = 1) -> None:
        self.operations[name] = self.operations.get(name, 0) + count

    def statistics(self, wall_ns: int) -> Statistics:
        """A snapshot."""
        hypercalls = {
            HYPERCALL_NAMES.get(number, f"hypercall_{number}"): (count, self.hypercall_ns[number])
            for number, count in enumerate(self.hypercall_count)
            if count
        }
        traps = {name: (count, ns) for name, (count, ns) in self.traps.items()}
        served = sum(ns for _, ns in hypercalls.values()) + sum(ns for _, ns in traps.values())
        return Statistics(
            hypercalls=hypercalls,
            traps=traps,
            operations=dict(sorted(self.operations.items())),
            guest_ns=max(0, self.engine_ns - served),
            idle_ns=self.idle_ns,
            wall_ns=wall_ns,
        )
