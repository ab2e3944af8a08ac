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
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from guests import (
    MEMORY_MIB,
    QEMU,
    BenchError,
    Contender,
    host_cpu,
    pyxen,
    qemu,
    qemu_version,
    run_guest,
)

try:
    from pyxen.builder.image import load_kernel
    from pyxen.errors import PyxenError
    from pyxen.toolstack import images
    from pyxen.toolstack.images import cpio
    from pyxen.toolstack.images.modules import load_order, release_folder
    from pyxen.toolstack.images.packages import Apt, unpack
except ModuleNotFoundError as error:
    sys.exit(f"block: {error.name} is not installed for this Python: run `make bench`")

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
SOURCES = Path(__file__).parent / "guest"
IMAGE_SIZE = 512 << 20
CMDLINE = "quiet panic=-1 rdinit=/block"
MODULES = {"pyxen": ("xen-blkfront",), PEER: ("virtio-pci", "virtio-blk")}

Figures = dict[str, dict[str, list[float]]]
"""MiB per second of each run, by contender and measure."""


def main() -> int:
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory(prefix="pyxen-bench-") as folder:
            contenders = prepare(arguments, Path(folder))
            figures = measure(contenders, arguments.runs)
        result = summary(figures, arguments)
        print(table(result))
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    except (BenchError, PyxenError, OSError, subprocess.SubprocessError) as error:
        print(f"block: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Measure a disk under pyxen and under QEMU.")
    parser.add_argument("--runs", type=int, default=3, help="of each (default: %(default)s)")
    parser.add_argument("--image", default="debian", help="the guest (default: %(default)s)")
    parser.add_argument(
        "--modules", metavar="FOLDER", type=Path, help="the kernel's modules, or its package's root"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures to a file")
    return parser


def prepare(arguments: argparse.Namespace, folder: Path) -> list[Contender]:
    """Build what the guests run, and return how each is started. Raises BenchError."""
    missing = [
        f"no {tool} here: install your distribution's package of {what}"
        for tool, what in ((QEMU, "QEMU for x86"), ("gcc", "gcc"))
        if shutil.which(tool) is None
    ]
    if missing:
        raise BenchError("\nblock: ".join(missing))
    image = images.find(arguments.image)
    release = release_folder(arguments.modules or _fetch_modules(image, folder))
    program = folder / "block"
    command = ["gcc", "-O2", "-static", "-pthread", "-o", program, SOURCES / "block.c"]
    subprocess.run(command, check=True)
    for name, modules in MODULES.items():
        _write_ramdisk(folder / name, program, release, modules)
        with (folder / f"{name}.img").open("wb") as stream:
            for _ in range(IMAGE_SIZE >> 20):
                stream.write(os.urandom(1 << 20))
    vmlinux = folder / "vmlinux"
    vmlinux.write_bytes(load_kernel(image.kernel).elf.data)
    ours = pyxen(image.kernel, folder / "pyxen", CMDLINE)
    ours.command.extend(["--disk", f"{folder}/pyxen.img,raw,xvda,rw"])
    theirs = qemu("q35", vmlinux, folder / PEER, CMDLINE)
    theirs.command.extend(["-drive", f"file={folder}/{PEER}.img,if=none,id=disk,format=raw"])
    theirs.command.extend(["-device", "virtio-blk-pci,drive=disk"])
    return [ours, theirs]


def _fetch_modules(image: images.Image, folder: Path) -> Path:
    """The kernel's package, unpacked."""
    name = next(name for name in image.packages if name.startswith("linux-image-"))
    print(f"fetching {name}", file=sys.stderr)
    packages, root = folder / "packages", folder / "root"
    packages.mkdir()
    apt = Apt()
    unpack(apt.download(apt.show(name), packages, lambda *_: None), root)
    return root


def _write_ramdisk(path: Path, program: Path, release: Path, modules: tuple[str, ...]) -> None:
    entries = {
        "/dev": cpio.folder(),
        "/dev/console": cpio.character_device(5, 1),
        "/block": cpio.file(program.read_bytes(), 0o755),
        "/modules": cpio.folder(),
    }
    for number, module in enumerate(load_order(release, modules)):
        entries[f"/modules/{number:02}"] = cpio.file(module.data, 0o644)
    with path.open("wb") as stream:
        cpio.write_archive(stream, entries)


def measure(contenders: list[Contender], runs: int) -> Figures:
    """Run every contender, one after the other, `runs` times."""
    figures: Figures = {c.name: {m: [] for m in MEASURES} for c in contenders}
    for number in range(runs):
        for contender in contenders:
            _, output = run_guest(contender, ("BLOCK start", "BLOCK done"))
            found = dict(re.findall(r"BLOCK ([a-z0-9-]+) ([0-9]+)", output))
            told = ", ".join(f"{name} {int(kib) / 1024:.1f}" for name, kib in found.items())
            print(f"run {number + 1}/{runs}: {contender.name}: {told} MiB/s", file=sys.stderr)
            for name in MEASURES:
                if int(found.get(name, 0)) <= 0:
                    raise BenchError(f"{contender.name}: no figure for {name}; it wrote:\n{output}")
                figures[contender.name][name].append(int(found[name]) / 1024)
    return figures


def summary(figures: Figures, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures as data for JSON: MiB per second, and ratios of medians."""
    medians = {
        name: {m: statistics.median(values) for m, values in of.items()}
        for name, of in figures.items()
    }
    ratios = {m: medians["pyxen"][m] / medians[PEER][m] for m in MEASURES}
    return {
        "image": arguments.image,
        "runs": arguments.runs,
        "memory_mib": MEMORY_MIB,
        "host_cpu": host_cpu(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "qemu": qemu_version(),
        "mib_per_second": figures,
        "medians": medians,
        "ratios": ratios,
        "target": {"at_least": TARGET, "missed": [m for m in MEASURES if ratios[m] < TARGET]},
    }


def table(result: dict[str, Any]) -> str:
    """The figures for people, from what `summary` returns."""
    lines = [
        "",
        f"{result['host_cpu']}, load {result['load_average']:.2f}, "
        f"Python {result['python']}, {result['qemu']}",
        f"image {result['image']}, 1 CPU, {result['memory_mib']} MiB; "
        f"median (lowest-highest) of {result['runs']}, in MiB/s",
        "",
        f"{'':<20}{'pyxen':>32}{PEER:>32}{'ratio':>8}",
    ]
    for name in MEASURES:
        cells = "".join(
            f"{_spread(result['mib_per_second'][who][name]):>32}" for who in ("pyxen", PEER)
        )
        missed = "  MISSED" if name in result["target"]["missed"] else ""
        lines.append(f"{name:<20}{cells}{result['ratios'][name]:>8.2f}{missed}")
    lines.append(f"\ntarget: at least {TARGET}")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.1f} ({min(values):,.1f}-{max(values):,.1f})"


if __name__ == "__main__":
    sys.exit(main())
