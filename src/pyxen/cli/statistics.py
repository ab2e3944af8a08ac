# SPDX-License-Identifier: GPL-2.0-or-later
"""The figures of a run as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyxen.hypervisor.instruments import Statistics

_MILLISECOND = 1_000_000  # nanoseconds


def table(statistics: Statistics) -> str:
    """Hypercalls and traps by the time they took, where the time of the run went, and devices."""
    sections = (
        *_counted("hypercall", statistics.hypercalls),
        "",
        *_counted("trap", statistics.traps),
        "",
        *_times(statistics),
        *_devices(statistics),
    )
    return "\n".join(sections)


def _counted(title: str, counts: Mapping[str, tuple[int, int]]) -> list[str]:
    """One line for each name: how often, how long in all, how long each; the longest first."""
    lines = [_line(title, "count", "total ms", "mean us")]
    for name, (count, nanoseconds) in sorted(
        counts.items(), key=lambda item: (-item[1][1], item[0])
    ):
        mean = nanoseconds / count / 1000 if count else 0.0
        lines.append(_line(name, str(count), f"{nanoseconds / _MILLISECOND:.1f}", f"{mean:.1f}"))
    return lines


def _times(statistics: Statistics) -> list[str]:
    wall, guest, idle = statistics.wall_ns, statistics.guest_ns, statistics.idle_ns
    parts = (
        ("in guest code", guest),
        ("in the hypervisor", wall - guest - idle),
        ("idle", idle),
        ("in all", wall),
    )
    return [_line("time", "", "ms", "%")] + [
        _line(name, "", f"{spent / _MILLISECOND:.1f}", f"{100 * spent / wall if wall else 0:.1f}")
        for name, spent in parts
    ]


def _devices(statistics: Statistics) -> list[str]:
    """The counters of each device's back end."""
    lines = []
    for device, counters in statistics.devices.items():
        lines += ["", _line(device, "count", "", "")]
        lines += [_line(name, str(value), "", "") for name, value in counters.items()]
    return lines


def _line(name: str, count: str, total: str, mean: str) -> str:
    return f"{name:32}{count:>10}{total:>12}{mean:>10}"
