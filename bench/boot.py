# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast does a guest boot and work, beside QEMU's emulator on the same machine?

The same kernel and the same ramdisk run under pyxen and under `qemu-system-x86_64 -accel tcg`. QEMU
gets the kernel in two forms: the distribution's bzImage on `pc`, and the ELF kernel inside it,
which needs no decompression in the guest, on `q35` and `microvm`. Every guest has one CPU, 256 MiB
and the same first process, which writes a marker to its console between its steps; the times are
those at which this script sees the markers:

- user space: from the start of the host process to the first marker,
- loop: counting to 200 000 in busybox's shell,
- fork+exec: 200 times `/bin/busybox true`, a new process each.

Cold starts are not measured: each guest is booted once before, so that its files are in the page
cache and pyxen has the decompressed kernel in its own. The measured runs are interleaved, so that a
change of the machine's load meets all alike.

It installs nothing; it tells what is missing, with exit status 1. A missed target is told in the
table and changes no exit status.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from guests import (
    QEMU,
    BenchError,
    Contender,
    circumstances,
    machine_line,
    medians_of,
    parser,
    pyxen,
    qemu,
    run_guest,
    run_script,
)
from pyxen.builder.image import load_kernel
from pyxen.errors import PyxenError
from pyxen.toolstack import images
from pyxen.toolstack.images import cpio

MEASURES = ("user space", "loop", "fork+exec")
MARKERS = ("BENCH user-space", "BENCH loop-done", "BENCH forks-done")
"""What ends each of the measures."""

TARGETS = {"user space": 1.0, "loop": 1.3, "fork+exec": 2.0}
"""The largest ratio of pyxen to `TARGET_PEER` that was promised."""
TARGET_PEER = "qemu pc"

INIT = f"""\
#!/bin/sh
echo '{MARKERS[0]}'
i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done
echo '{MARKERS[1]}'
i=0; while [ $i -lt 200 ]; do /bin/busybox true; i=$((i+1)); done
echo '{MARKERS[2]}'
exec /bin/busybox poweroff -f
"""
# `quiet`: QEMU's serial port takes an exit for each byte, and it is not the subject. A guest that
# panics ends at once instead of waiting for the time-out.
CMDLINE = "quiet panic=-1 rdinit=/bench"


def main() -> int:
    options = parser("Measure boot, a shell loop and fork+exec under pyxen and under QEMU.")
    options.add_argument(
        "--kernel", metavar="FILE", type=Path, help="a kernel instead of the image's"
    )
    return run_script(options.parse_args(), measure_all, table)


def measure_all(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    contenders = prepare(arguments.image, arguments.kernel, folder)
    return summary(measure(contenders, arguments.runs), arguments)


def prepare(image_name: str, own_kernel: Path | None, folder: Path) -> list[Contender]:
    """Write the files that the guests share into a folder, and return how each is started.

    Raises BenchError with everything that is missing.
    """
    missing = []
    if shutil.which(QEMU) is None:
        missing.append(f"no {QEMU} here: install your distribution's package of QEMU for x86")
    vmlinux, ramdisk = folder / "vmlinux", folder / "ramdisk"
    try:
        image = images.find(image_name)
        kernel = own_kernel or image.kernel
        # The kernel unpacks a second archive over the first one.
        with ramdisk.open("wb") as stream:
            stream.write(image.ramdisk.read_bytes())
            cpio.write_archive(stream, {"/bench": cpio.file(INIT.encode(), 0o755)})
        vmlinux.write_bytes(load_kernel(kernel).elf.data)
    except (PyxenError, OSError) as error:
        missing.append(str(error))
    if missing:
        raise BenchError("\nboot: ".join(missing))
    return [
        pyxen(kernel, ramdisk, CMDLINE),
        qemu("pc", kernel, ramdisk, CMDLINE),
        qemu("q35", vmlinux, ramdisk, CMDLINE),
        qemu("microvm", vmlinux, ramdisk, CMDLINE),
    ]


Times = dict[str, dict[str, list[float]]]
"""Seconds of each run, by contender and measure."""


def measure(contenders: list[Contender], runs: int) -> Times:
    """Run every contender, one after the other, `runs` times; once before to warm the caches."""
    times: Times = {c.name: {m: [] for m in MEASURES} for c in contenders}
    for number in range(runs + 1):
        for contender in contenders:
            label = f"run {number}/{runs}" if number else "warming up"
            seconds, _ = run_guest(contender, MARKERS if number else MARKERS[:1])
            told = ", ".join(f"{s:.2f} s" for s in seconds)
            print(f"{label}: {contender.name}: {told}", file=sys.stderr)
            if number:
                for name, value in zip(MEASURES, seconds, strict=True):
                    times[contender.name][name].append(value)
    return times


def summary(times: Times, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures as data for JSON: seconds, and ratios of medians."""
    medians = medians_of(times)
    ratios = {
        name: {m: medians["pyxen"][m] / seconds for m, seconds in of.items()}
        for name, of in medians.items()
        if name != "pyxen"
    }
    targets = {
        m: {
            "peer": TARGET_PEER,
            "at_most": limit,
            "ratio": ratios[TARGET_PEER][m],
            "reached": ratios[TARGET_PEER][m] <= limit,
        }
        for m, limit in TARGETS.items()
    }
    return {
        **circumstances(arguments),
        "kernel": str(arguments.kernel) if arguments.kernel else None,
        "seconds": times,
        "medians": medians,
        "ratios": ratios,
        "targets": targets,
    }


def table(result: dict[str, Any]) -> str:
    """The figures for people, from what `summary` returns."""
    kernel = result["kernel"] or f"image {result['image']}"
    lines = [
        "",
        machine_line(result),
        f"{kernel}, 1 CPU, {result['memory_mib']} MiB; warm caches; "
        f"median (lowest-highest) of {result['runs']}, in seconds",
        "",
        _row("", MEASURES),
    ]
    for name, of in result["seconds"].items():
        cells = [
            f"{result['medians'][name][m]:.2f} ({min(values):.2f}-{max(values):.2f})"
            for m, values in of.items()
        ]
        lines.append(_row(name, cells))
    lines.append("")
    for name, of in result["ratios"].items():
        lines.append(_row(f"pyxen / {name}", [f"{ratio:.2f}" for ratio in of.values()]))
    lines.append("")
    for m, target in result["targets"].items():
        lines.append(
            f"{m}: {target['ratio']:.2f} times {target['peer']}, "
            f"target at most {target['at_most']}: {'reached' if target['reached'] else 'MISSED'}"
        )
    return "\n".join(lines)


def _row(name: str, cells: list[str] | tuple[str, ...]) -> str:
    return f"{name:<22}" + "".join(f"{cell:>22}" for cell in cells)


if __name__ == "__main__":
    sys.exit(main())
