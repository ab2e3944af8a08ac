# SPDX-License-Identifier: GPL-2.0-or-later
"""The physical machine as libxl tells of it: processors, memory, NUMA nodes.

The processor's features are those of the engine, which is the processor of the guests.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from msgspec import Struct

from pyxen.errors import PyxenError

_CPUS: Final = Path("/sys/devices/system/cpu")
_NODES: Final = Path("/sys/devices/system/node")
_PCI_DEVICES: Final = Path("/sys/bus/pci/devices")
_LOCAL_DISTANCE: Final = (10,)
_RAM_PAGES: Final = 1024
_FEATURE_WORDS: Final = (
    *((0x1, 0, 3), (0x1, 0, 2), (0x80000001, 0, 3), (0x80000001, 0, 2)),
    *((0xD, 1, 0), (0x7, 0, 1), (0x7, 0, 2), (0x80000007, 0, 3)),
)
"""Leaf, subleaf and register of Xen's first eight words of features."""


class Physinfo(Struct, frozen=True):
    """The machine. Memory is in MiB; ``free_memory`` is what domains can still get."""

    nr_cpus: int
    max_cpu_id: int
    nr_nodes: int
    cores_per_socket: int
    threads_per_core: int
    cpu_khz: int
    hw_caps: tuple[int, ...]
    total_memory: int
    free_memory: int


class CpuTopology(Struct, frozen=True):
    cpu: int
    core: int
    socket: int
    node: int


class NumaNode(Struct, frozen=True):
    """Memory is in MiB."""

    node: int
    size: int
    free: int
    distances: tuple[int, ...]


def physinfo() -> Physinfo:
    """What is known of the machine; nothing of it can fail to be."""
    topology = cpu_topology()
    sockets = len({each.socket for each in topology})
    cores = len({(each.socket, each.core) for each in topology})
    memory = _kib(Path("/proc/meminfo"))
    mhz = re.search(r"^cpu MHz\s*: ([0-9.]+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return Physinfo(
        nr_cpus=len(topology),
        max_cpu_id=_numbers(_CPUS / "possible", default=(os.cpu_count() or 1) - 1)[-1],
        nr_nodes=len(numa_nodes()),
        cores_per_socket=cores // sockets,
        threads_per_core=len(topology) // cores,
        cpu_khz=round(float(mhz[1]) * 1000) if mhz else 0,
        hw_caps=_hw_caps(),
        total_memory=memory["MemTotal"] >> 10,
        free_memory=memory["MemAvailable"] >> 10,
    )


def cpu_topology() -> list[CpuTopology]:
    """The processors that are online."""
    return [
        CpuTopology(
            cpu,
            _number(_CPUS / f"cpu{cpu}/topology/core_id", default=cpu),
            _number(_CPUS / f"cpu{cpu}/topology/physical_package_id"),
            next((int(each.name[4:]) for each in _CPUS.glob(f"cpu{cpu}/node[0-9]*")), 0),
        )
        for cpu in _numbers(_CPUS / "online", default=0)
    ]


def numa_nodes() -> list[NumaNode]:
    """One, if the kernel knows of no others."""
    nodes = []
    for number in _numbers(_NODES / "online", default=0):
        folder = _NODES / f"node{number}"
        alone = not folder.exists()
        memory = _kib(Path("/proc/meminfo") if alone else folder / "meminfo")
        distances: tuple[int, ...] = _LOCAL_DISTANCE
        if not alone:
            distances = tuple(map(int, (folder / "distance").read_text().split()))
        nodes.append(NumaNode(number, memory["MemTotal"] >> 10, memory["MemFree"] >> 10, distances))
    return nodes


def pci_nodes() -> list[tuple[str, int]]:
    """The addresses of the PCI devices whose node is known, and that."""
    devices = [
        (each.name, _number(each / "numa_node", default=-1)) for each in _PCI_DEVICES.glob("*")
    ]
    return sorted(device for device in devices if device[1] >= 0)


def _hw_caps() -> tuple[int, ...]:
    """All zero without a usable engine: there is no processor for guests then."""
    from pyxen import engine

    try:
        cpu = engine.create("auto", _RAM_PAGES, 1)
    except PyxenError:
        return (0,) * len(_FEATURE_WORDS)
    try:
        return tuple(cpu.native_cpuid(leaf, sub)[word] for leaf, sub, word in _FEATURE_WORDS)
    finally:
        cpu.close()


def _kib(meminfo: Path) -> dict[str, int]:
    """The figures of a file such as /proc/meminfo, by name."""
    found = re.findall(r"^(?:Node \d+ )?(\w+):\s*(\d+) kB$", meminfo.read_text(), re.MULTILINE)
    return {name: int(number) for name, number in found}


def _numbers(path: Path, *, default: int) -> list[int]:
    """A list such as ``0-3,5``."""
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return [default]
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def _number(path: Path, *, default: int = 0) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return default
