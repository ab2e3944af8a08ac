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
import re
import statistics
import sys
from pathlib import Path
from typing import Any

from guests import (
    BenchError,
    Contender,
    Figures,
    build_program,
    check_tools,
    circumstances,
    comparison,
    measure,
    medians_of,
    parser,
    pyxen,
    qemu,
    run_guest,
    run_script,
    spread,
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


def main() -> int:
    options = parser("Measure what traps cost under pyxen and under QEMU.")
    return run_script(options.parse_args(), measure_all, table)


def measure_all(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    contenders = prepare(arguments.image, folder)
    figures = measure(contenders, MEASURES, arguments.runs, read_figures)
    return summary(figures, measure_hypercalls(arguments.runs), arguments)


def prepare(image_name: str, folder: Path) -> list[Contender]:
    """Build what the guests run, and return how each is started. Raises BenchError."""
    check_tools()
    image = images.find(image_name)
    vmlinux, ramdisk = folder / "vmlinux", folder / "ramdisk"
    vmlinux.write_bytes(load_kernel(image.kernel).elf.data)
    program = build_program(SOURCES / "latency.c", folder / "latency")
    with ramdisk.open("wb") as stream:
        cpio.write_archive(
            stream,
            {
                "/dev": cpio.folder(),
                "/dev/console": cpio.character_device(5, 1),
                "/latency": cpio.file(program, 0o755),
            },
        )
    return [
        pyxen(image.kernel, ramdisk, CMDLINE),
        qemu("q35", vmlinux, ramdisk, CMDLINE),
    ]


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
    medians = medians_of(figures)
    null = {name: statistics.median(values) for name, values in hypercalls.items()}
    return {
        **circumstances(arguments),
        "nanoseconds": {**figures, "hypercalls": hypercalls},
        "medians": {**medians, "hypercalls": null},
        "ratios": {m: medians["pyxen"][m] / medians[PEER][m] for m in MEASURES},
        "hypercall_ratios": {name: ns / medians[PEER]["system-call"] for name, ns in null.items()},
    }


def table(result: dict[str, Any]) -> str:
    """The figures for people, from what `summary` returns."""
    figures = result["nanoseconds"]
    lines = [*comparison(result, figures, PEER, "ns", 0), ""]
    for name, ratio in result["hypercall_ratios"].items():
        told = spread(figures["hypercalls"][name], 0)
        lines.append(f"{name:<20}{told:>32}{'(its system call)':>32}{ratio:>8.2f}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
