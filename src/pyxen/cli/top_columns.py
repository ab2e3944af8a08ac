# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of ``pyxen top``: xentop's columns, and those of the full screen.

As xentop has it, ``NETTX`` is what the back end sends and the guest receives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from pyxen.toolstack.control.messages import DomainInfo, VcpuInfo
from pyxen.toolstack.usage import Sample, Usage

_SECOND: Final = 10**9
_SECTOR: Final = 512
_NAME_LENGTH: Final = 10


class Column(Struct, frozen=True):
    """``key`` sorts; of columns with a ``drop`` the highest goes first where room is short."""

    header: str
    width: int
    text: Callable[[Usage], str]
    key: Callable[[Usage], Any]
    drop: int = 0


def printable(text: str) -> str:
    """Nothing that a terminal takes for more than letters."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


NAME: Final = Column(
    "NAME",
    _NAME_LENGTH,
    lambda usage: printable(usage.sample.info.name),
    lambda usage: usage.sample.info.name.lower(),
)


class View(Struct):
    """What is shown, as options and keys have it."""

    networks: bool = False
    vbds: bool = False
    vcpus: bool = False
    repeat_header: bool = False
    full_name: bool = False
    sort: Column = NAME


class Line(Struct, frozen=True):
    """Cells of columns, or one cell with something else."""

    cells: Sequence[str]
    header: bool = False


def table(
    view: View,
    columns: Sequence[Column],
    usages: Sequence[Usage],
    details: Callable[[View, Usage], Iterator[str]],
) -> Iterator[Line]:
    """Domains in their order, with what is told below each of them."""
    usages = sorted(usages, key=view.sort.key)
    rows = [[_cell(view, column, usage) for column in columns] for usage in usages]
    widths = [
        max(column.width, *(len(row[index]) for row in rows))
        for index, column in enumerate(columns)
    ]

    def aligned(cells: Sequence[str]) -> list[str]:
        return [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]

    for usage, row in zip(usages, rows, strict=True):
        if row is rows[0] or view.repeat_header:
            yield Line(aligned([column.header for column in columns]), header=True)
        yield Line(aligned(row))
        for detail in details(view, usage):
            yield Line([detail])


def _cell(view: View, column: Column, usage: Usage) -> str:
    text = column.text(usage)
    return text if column is not NAME or view.full_name else text[:_NAME_LENGTH]


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Those for which there is room."""
    kept = list(columns)
    while sum(column.width + 1 for column in kept) - 1 > width:
        last = max(kept, key=lambda column: column.drop)
        if not last.drop:
            break
        kept.remove(last)
    return kept


# Columns


def _number(
    header: str, width: int, value: Callable[[Usage], float], form: str = ".0f", drop: int = 0
) -> Column:
    """The largest come first."""
    return Column(
        header,
        width,
        lambda usage: format(value(usage), form),
        lambda usage: -value(usage),
        drop,
    )


def _whole(header: str, width: int, value: Callable[[Sample], int], drop: int = 0) -> Column:
    return _number(header, width, lambda usage: value(usage.sample), "d", drop)


def _total(header: str, width: int, kind: str, counter: str, unit: int = 1) -> Column:
    return _whole(header, width, lambda sample: sample.total(kind, counter) // unit)


def _rate(header: str, width: int, kind: str, counter: str, unit: int = 1, drop: int = 0) -> Column:
    return _number(
        header,
        width,
        lambda usage: usage.rate(lambda sample: sample.total(kind, counter)) / unit,
        ".0f" if unit > 1 else ".1f",
        drop,
    )


def states(info: DomainInfo) -> tuple[bool, ...]:
    """Dying, shut down, blocked, crashed, paused, running; none if that is not known."""
    crashed = info.shutdown_reason == "crash"
    is_down = bool(info.shutdown_reason) and not crashed
    return False, is_down, info.blocked, crashed, info.paused, info.running


def vcpu_time(sample: Sample, index: int, time: Callable[[VcpuInfo], int]) -> int:
    """A time of this vCPU; 0 if the domain had none then."""
    return sum(time(vcpu) for vcpu in sample.info.vcpus if vcpu.index == index)


def _stolen(usage: Usage) -> float:
    online = [vcpu.index for vcpu in usage.sample.info.vcpus if vcpu.online]
    return usage.percent(
        lambda sample: sum(
            vcpu_time(sample, index, lambda vcpu: vcpu.stolen_ns) for index in online
        )
    )


_STATE: Final = Column(
    "STATE",
    6,
    lambda usage: "".join(
        letter if is_set else "-"
        for letter, is_set in zip("dsbcpr", states(usage.sample.info), strict=True)
    ),
    lambda usage: [not is_set for is_set in states(usage.sample.info)],
)
_CPU: Final = _whole("CPU(sec)", 10, lambda sample: sample.info.cpu_ns // _SECOND)
_CPU_PERCENT: Final = _number(
    "CPU(%)", 6, lambda usage: usage.percent(lambda sample: sample.info.cpu_ns), ".1f"
)
_MEMORY: Final = _whole("MEM(k)", 10, lambda sample: sample.info.memory_kib)
_MEMORY_PERCENT: Final = _number(
    "MEM(%)",
    6,
    lambda usage: 100 * usage.sample.info.memory_kib / usage.host_memory_kib,
    ".1f",
    drop=8,
)
_MAX_MEMORY: Final = _whole("MAXMEM(k)", 10, lambda sample: sample.info.max_memory_kib, drop=7)
_VCPUS: Final = _whole("VCPUS", 5, lambda sample: len(sample.info.vcpus), drop=6)

XENTOP: Final = (
    NAME,
    _STATE,
    _CPU,
    _CPU_PERCENT,
    _MEMORY,
    _MEMORY_PERCENT,
    _MAX_MEMORY,
    _number(
        "MAXMEM(%)",
        9,
        lambda usage: 100 * usage.sample.info.max_memory_kib / usage.host_memory_kib,
        ".1f",
    ),
    _VCPUS,
    _whole("NETS", 4, lambda sample: len(sample.devices("vif"))),
    _total("NETTX(k)", 8, "vif", "rx_bytes", 1024),
    _total("NETRX(k)", 8, "vif", "tx_bytes", 1024),
    _whole("VBDS", 4, lambda sample: len(sample.devices("vbd"))),
    _whole("VBD_OO", 8, lambda sample: 0),
    _total("VBD_RD", 8, "vbd", "reads"),
    _total("VBD_WR", 8, "vbd", "writes"),
    _total("VBD_RSECT", 10, "vbd", "bytes_read", _SECTOR),
    _total("VBD_WSECT", 10, "vbd", "bytes_written", _SECTOR),
    _whole("SSID", 4, lambda sample: 0),
)
"""No request of ours waits for lack of memory (``VBD_OO``), and there are no security labels."""

SCREEN: Final = (
    NAME,
    _STATE,
    _CPU,
    _CPU_PERCENT,
    _number("STOLEN(%)", 9, _stolen, ".1f", drop=1),
    _MEMORY,
    _MEMORY_PERCENT,
    _MAX_MEMORY,
    _VCPUS,
    _rate("NETTX(k/s)", 10, "vif", "rx_bytes", 1024, drop=3),
    _rate("NETRX(k/s)", 10, "vif", "tx_bytes", 1024, drop=3),
    _rate("VBD_RD/s", 8, "vbd", "reads", drop=5),
    _rate("VBD_WR/s", 8, "vbd", "writes", drop=5),
    _rate("RD(k/s)", 7, "vbd", "bytes_read", 1024, drop=2),
    _rate("WR(k/s)", 7, "vbd", "bytes_written", 1024, drop=2),
)
