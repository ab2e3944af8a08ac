# SPDX-License-Identifier: GPL-2.0-or-later
"""How fast is a guest's disk, beside QEMU's emulator with virtio-blk on the same machine?

The same kernel and the same static program run under pyxen (blkfront) and under
`qemu-system-x86_64 -accel tcg` on q35 (virtio-blk), with one CPU, 256 MiB and a raw image of 512
MiB each, which is in the host's page cache. The program reads and writes past the guest's own page
cache: 4 KiB at random places, one or sixteen requests at a time, and 1 MiB after the other. A
write run ends with a flush. Figures are MiB per second as the guest sees them; the measured runs
are interleaved.

The modules that the guests need are taken from the kernel's package, which is fetched with apt, or
from a folder.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

from modules import guest_parser, write_guests

from guests import (
    BenchError,
    Contender,
    Figures,
    check_tools,
    circumstances,
    comparison,
    measure,
    medians_of,
    pyxen,
    qemu,
    run_guest,
    run_script,
)

MEASURES = (
    "random-read",
    "random-write",
    "random-read-16",
    "random-write-16",
    "sequential-read",
    "sequential-write",
)
PEER = "qemu q35"
TARGET = 0.8
"""The least ratio of pyxen's throughput to QEMU's that was promised."""
SOURCE = Path(__file__).parent / "guest" / "block.c"
IMAGE_SIZE = 512 << 20
CMDLINE = "quiet panic=-1"
MODULES = {"pyxen": ("xen-blkfront",), PEER: ("virtio-pci", "virtio-blk")}


def main() -> int:
    options = guest_parser("Measure a disk under pyxen and under QEMU.")
    return run_script(options.parse_args(), measure_all, table)


def measure_all(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    contenders = prepare(arguments, folder)
    return summary(measure(contenders, MEASURES, arguments.runs, read_figures), arguments)


def prepare(arguments: argparse.Namespace, folder: Path) -> list[Contender]:
    """Build what the guests run, and return how each is started. Raises BenchError."""
    check_tools()
    image, vmlinux = write_guests(arguments, folder, SOURCE, MODULES)
    for name in MODULES:
        with (folder / f"{name}.img").open("wb") as stream:
            for _ in range(IMAGE_SIZE >> 20):
                stream.write(os.urandom(1 << 20))
    ours = pyxen(image.kernel, folder / "pyxen", CMDLINE)
    ours.command.extend(["--disk", f"{folder}/pyxen.img,raw,xvda,rw"])
    theirs = qemu("q35", vmlinux, folder / PEER, CMDLINE)
    theirs.command.extend(["-drive", f"file={folder}/{PEER}.img,if=none,id=disk,format=raw"])
    theirs.command.extend(["-device", "virtio-blk-pci,drive=disk"])
    return [ours, theirs]


def read_figures(contender: Contender) -> dict[str, float]:
    """Run a guest; the MiB per second that it prints. Raises BenchError if a figure is missing."""
    _, output = run_guest(contender, ("BLOCK start", "BLOCK done"))
    kib = dict(re.findall(r"BLOCK ([a-z0-9-]+) ([0-9]+)", output))
    for name in MEASURES:
        if int(kib.get(name, 0)) <= 0:
            raise BenchError(f"{contender.name}: no figure for {name}; it wrote:\n{output}")
    return {name: int(value) / 1024 for name, value in kib.items()}


def summary(figures: Figures, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures as data for JSON: MiB per second, and ratios of medians."""
    medians = medians_of(figures)
    ratios = {m: medians["pyxen"][m] / medians[PEER][m] for m in MEASURES}
    return {
        **circumstances(arguments),
        "mib_per_second": figures,
        "medians": medians,
        "ratios": ratios,
        "target": {"at_least": TARGET, "missed": [m for m in MEASURES if ratios[m] < TARGET]},
    }


def table(result: dict[str, Any]) -> str:
    """The figures for people, from what `summary` returns."""
    lines = comparison(result, result["mib_per_second"], PEER, "MiB/s", 1)
    missed = ", ".join(result["target"]["missed"]) or "nothing"
    return "\n".join([*lines, "", f"target: at least {TARGET}; missed by {missed}"])


if __name__ == "__main__":
    sys.exit(main())
