# SPDX-License-Identifier: GPL-2.0-or-later
"""Sets of the host's processors as xl writes them: ``0-3,5,^1``, ``nodes:0,^node:1``, ``all``.

They are handed on as masks, with a bit for each processor; ``ALL`` is no restriction at all.
Reference: ``xl.cfg(5)``, ``cpus=``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pyxen.errors import PyxenError
from pyxen.hypervisor.run_queue import ALL, CPUS, cpu_mask

_RANGE: Final = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_NODES: Final = Path("/sys/devices/system/node")


def parse_cpus(text: str) -> int:
    """A mask. Processors that the host does not have may be named. Raises PyxenError."""
    mask = 0
    for part in text.split(","):
        word = part.strip()
        removes = word.startswith("^")
        word = word.removeprefix("^")
        if word == "all" and not removes:
            mask |= host_cpus()
            continue
        kind, colon, numbers = word.rpartition(":")
        match = _RANGE.fullmatch(numbers)
        if match is None or kind not in ("", "node", "nodes") or (colon and not kind):
            raise PyxenError(f"Invalid pcpu range: {part.strip()}.")
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise PyxenError(f"Invalid pcpu range: {part.strip()}.")
        named = _of_nodes(first, last) if kind else cpu_mask(range(first, min(last + 1, CPUS)))
        mask = mask & ~named if removes else mask | named
    if not mask:
        raise PyxenError(f"{text!r} leaves no processor")
    return affinity(cpu_numbers(mask))


def affinity(cpus: Iterable[int]) -> int:
    """The mask of these processors; ``ALL`` if there are no others."""
    mask = cpu_mask(cpus)
    return ALL if mask & host_cpus() == host_cpus() else mask


def cpu_numbers(mask: int) -> list[int]:
    """The processors of a mask, in ascending order."""
    bits = mask or host_cpus()
    return [cpu for cpu in range(bits.bit_length()) if bits >> cpu & 1]


def format_cpus(mask: int) -> str:
    """As xl prints a set of the host's processors."""
    if mask == ALL:
        return "all"
    cpus = cpu_numbers(mask)
    ranges = []
    while cpus:
        first = last = cpus.pop(0)
        while cpus and cpus[0] == last + 1:
            last = cpus.pop(0)
        ranges.append(str(first) if first == last else f"{first}-{last}")
    return ",".join(ranges)


def host_cpus() -> int:
    """The mask of all that the host has."""
    return cpu_mask(range(os.cpu_count() or 1))


def _of_nodes(first: int, last: int) -> int:
    """The processors of these NUMA nodes. Raises PyxenError for a node that is not there."""
    mask = 0
    for node in range(first, last + 1):
        path = _NODES / f"node{node}" / "cpumap"
        try:
            mask |= int(path.read_text().replace(",", ""), 16)
        except FileNotFoundError:
            raise PyxenError(f"the host has no NUMA node {node}") from None
    return mask & (1 << CPUS) - 1
