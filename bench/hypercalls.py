# SPDX-License-Identifier: GPL-2.0-or-later
"""What does a trap cost, beside QEMU's emulator on the same machine?

A static program (`guest/latency.c`, built with gcc) is the first process of the same kernel under
pyxen and under `qemu-system-x86_64 -accel tcg -M q35`. By the guest's own clock it measures a
system call, a page fault, a switch between two processes, and fork+exec. Under pyxen the hypervisor
has a part in each, in Python or its compiled parts; under QEMU none has.

A null hypercall has no peer on a machine without Xen. A tiny kernel (`guest/null_hypercall.c`)
measures `xen_version` in the same run; the figure stands beside QEMU's system call, which it would
be in a guest that is not paravirtual.

It installs nothing; it tells what is missing, with exit status 1.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from guests import (
    MEMORY_MIB,
    QEMU,
    BenchError,
    Contender,
    host_cpu,
    parser,
    pyxen,
    qemu,
    qemu_version,
    run_guest,
    run_script,
)
from pyxen.builder.image import load_kernel
from pyxen.testing.kernels import build_kernel, run_kernel
from pyxen.toolstack import images
from pyxen.toolstack.images import cpio

SOURCES = Path(__file__).parent / "guest"
MEASURES = ("system-call", "page-fault", "context-switch", "fork-exec")
CMDLINE = "quiet panic=-1 rdinit=/latency"
HYPERCALLS = ("null-hypercall", "multicall-entry")
PEER = "qemu q35"

Figures = dict[str, dict[str, list[float]]]
"""Nanoseconds of each run, by contender and measure."""


def main() -> int:
    options = parser("Measure what traps cost under pyxen and under QEMU.")
    return run_script(options.parse_args(), measure_all, table)


def measure_all(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    figures = measure(prepare(arguments.image, folder), arguments.runs)
    return summary(figures, measure_hypercalls(arguments.runs), arguments)


def prepare(image_name: str, folder: Path) -> list[Contender]:
    """Build what the guests run, and return how each is started. Raises BenchError."""
    missing = [
        f"no {tool} here: install your distribution's package of {what}"
        for tool, what in ((QEMU, "QEMU for x86"), ("gcc", "gcc"))
        if shutil.which(tool) is None
    ]
    if missing:
        raise BenchError("\nhypercalls: ".join(missing))
    image = images.find(image_name)
    vmlinux, ramdisk = folder / "vmlinux", folder / "ramdisk"
    vmlinux.write_bytes(load_kernel(image.kernel).elf.data)
    program = _compile(SOURCES / "latency.c", folder / "latency")
    with ramdisk.open("wb") as stream:
        cpio.write_archive(
            stream,
            {
                "/dev": cpio.folder(),
                "/dev/console": cpio.character_device(5, 1),
                "/latency": cpio.file(program.read_bytes(), 0o755),
            },
        )
    return [
        pyxen(image.kernel, ramdisk, CMDLINE),
        qemu("q35", vmlinux, ramdisk, CMDLINE),
    ]


def _compile(source: Path, program: Path) -> Path:
    done = subprocess.run(
        ["gcc", "-O2", "-static", "-o", str(program), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BenchError(f"gcc cannot build {source}:\n{done.stderr}")
    return program


def measure(contenders: list[Contender], runs: int) -> Figures:
    """Run every contender, one after the other, `runs` times."""
    figures: Figures = {c.name: {m: [] for m in MEASURES} for c in contenders}
    for number in range(runs):
        for contender in contenders:
            found = read_figures(contender)
            told = ", ".join(f"{name} {ns:.0f} ns" for name, ns in found.items())
            print(f"run {number + 1}/{runs}: {contender.name}: {told}", file=sys.stderr)
            for name in MEASURES:
                figures[contender.name][name].append(found[name])
    return figures


def read_figures(contender: Contender) -> dict[str, float]:
    """Run a guest; the figures that it prints. Raises BenchError if one is missing."""
    _, output = run_guest(contender, ("LATENCY start", "LATENCY done"))
    found = _parse(output)
    for name in MEASURES:
        if found.get(name, -1) <= 0:
            raise BenchError(f"{contender.name}: no figure for {name}; it wrote:\n{output}")
    return found


def measure_hypercalls(runs: int) -> dict[str, list[float]]:
    """Nanoseconds of a null hypercall alone and in a multicall, of each run."""
    kernel = build_kernel(SOURCES / "null_hypercall.c")
    figures: dict[str, list[float]] = {name: [] for name in HYPERCALLS}
    for number in range(runs):
        result = run_kernel(kernel)
        for name, ns in _parse(result.output).items():
            figures[name].append(ns)
        if any(len(values) != number + 1 for values in figures.values()):
            raise BenchError(f"the tiny kernel ended with {result.exit_reason}:\n{result.output}")
    return figures


def _parse(output: str) -> dict[str, float]:
    return {name: float(ns) for name, ns in re.findall(r"LATENCY ([a-z-]+) (-?[0-9]+)", output)}


def summary(
    figures: Figures, hypercalls: dict[str, list[float]], arguments: argparse.Namespace
) -> dict[str, Any]:
    """All figures as data for JSON: nanoseconds, and ratios of medians."""
    medians = {
        name: {m: statistics.median(values) for m, values in of.items()}
        for name, of in figures.items()
    }
    ratios = {m: medians["pyxen"][m] / medians[PEER][m] for m in MEASURES}
    null = {name: statistics.median(values) for name, values in hypercalls.items()}
    return {
        "image": arguments.image,
        "runs": arguments.runs,
        "memory_mib": MEMORY_MIB,
        "host_cpu": host_cpu(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "qemu": qemu_version(),
        "nanoseconds": {**figures, "hypercalls": hypercalls},
        "medians": {**medians, "hypercalls": null},
        "ratios": ratios,
        "hypercall_ratios": {name: ns / medians[PEER]["system-call"] for name, ns in null.items()},
    }


def table(result: dict[str, Any]) -> str:
    """The figures for people, from what `summary` returns."""
    medians = result["medians"]
    lines = [
        "",
        f"{result['host_cpu']}, load {result['load_average']:.2f}, "
        f"Python {result['python']}, {result['qemu']}",
        f"image {result['image']}, 1 CPU, {result['memory_mib']} MiB; "
        f"median (lowest-highest) of {result['runs']}, in ns",
        "",
        f"{'':<20}{'pyxen':>32}{PEER:>32}{'ratio':>8}",
    ]
    for name in MEASURES:
        cells = "".join(
            f"{_spread(result['nanoseconds'][who][name]):>32}" for who in ("pyxen", PEER)
        )
        lines.append(f"{name:<20}{cells}{result['ratios'][name]:>8.2f}")
    lines.append("")
    for name in medians["hypercalls"]:
        ratio = result["hypercall_ratios"][name]
        spread = _spread(result["nanoseconds"]["hypercalls"][name])
        lines.append(f"{name:<20}{spread:>32}{'(its system call)':>32}{ratio:>8.2f}")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


if __name__ == "__main__":
    sys.exit(main())
