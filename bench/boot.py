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
import json
import os
import platform
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    from pyxen.builder.image import load_kernel
    from pyxen.errors import PyxenError
    from pyxen.toolstack import images
    from pyxen.toolstack.images import cpio
except ModuleNotFoundError as error:
    sys.exit(f"boot: {error.name} is not installed for this Python: run `make bench`")

QEMU = "qemu-system-x86_64"
MEMORY_MIB = 256
WAIT = 180.0
"""Seconds that a guest may take from one marker to the next."""

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


class BenchError(Exception):
    """A guest that did not get to its end."""


@dataclass(frozen=True)
class Contender:
    name: str
    command: list[str]


def main() -> int:
    arguments = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory(prefix="pyxen-bench-") as folder:
            contenders = prepare(arguments.image, arguments.kernel, Path(folder))
            times = measure(contenders, arguments.runs)
        result = summary(times, arguments)
        print(table(result))
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    except (BenchError, PyxenError, OSError, subprocess.SubprocessError) as error:
        print(f"boot: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Measure boot, a shell loop and fork+exec under pyxen and under QEMU."
    )
    parser.add_argument("--runs", type=_positive, default=3, help="of each (default: %(default)s)")
    parser.add_argument("--image", default="debian", help="the guest (default: %(default)s)")
    parser.add_argument(
        "--kernel", metavar="FILE", type=Path, help="a kernel instead of the image's"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write the figures to a file")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


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
        _pyxen(kernel, ramdisk),
        _qemu("pc", kernel, ramdisk),
        _qemu("q35", vmlinux, ramdisk),
        _qemu("microvm", vmlinux, ramdisk),
    ]


def _pyxen(kernel: Path, ramdisk: Path) -> Contender:
    command = [sys.executable, "-m", "pyxen", "run", "--no-reboot"]
    command += ["--kernel", str(kernel), "--ramdisk", str(ramdisk)]
    command += ["--memory", str(MEMORY_MIB), "--cmdline", f"console=hvc0 {CMDLINE}"]
    return Contender("pyxen", command)


def _qemu(machine: str, kernel: Path, ramdisk: Path) -> Contender:
    # Without its default devices, which take time and which the guest does not need.
    command = [QEMU, "-nodefaults", "-no-user-config", "-accel", "tcg", "-M", machine]
    command += ["-m", str(MEMORY_MIB), "-smp", "1", "-no-reboot"]
    command += ["-display", "none", "-serial", "stdio"]
    command += ["-kernel", str(kernel), "-initrd", str(ramdisk)]
    command += ["-append", f"console=ttyS0 {CMDLINE}"]
    return Contender(f"qemu {machine}", command)


Times = dict[str, dict[str, list[float]]]
"""Seconds of each run, by contender and measure."""


def measure(contenders: list[Contender], runs: int) -> Times:
    """Run every contender, one after the other, `runs` times; once before to warm the caches."""
    times: Times = {c.name: {m: [] for m in MEASURES} for c in contenders}
    for number in range(runs + 1):
        for contender in contenders:
            label = f"run {number}/{runs}" if number else "warming up"
            seconds = run_guest(contender, MARKERS if number else MARKERS[:1])
            told = ", ".join(f"{s:.2f} s" for s in seconds)
            print(f"{label}: {contender.name}: {told}", file=sys.stderr)
            if number:
                for name, value in zip(MEASURES, seconds, strict=True):
                    times[contender.name][name].append(value)
    return times


def run_guest(contender: Contender, markers: tuple[str, ...]) -> list[float]:
    """Start a guest and return the seconds to each marker from the one before; then end it.

    Raises BenchError if it ends earlier or `WAIT` passes without a marker.
    """
    last = time.monotonic()
    process = subprocess.Popen(
        contender.command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        console = Console(process.stdout.fileno())
        seconds = []
        for marker in markers:
            try:
                now = console.wait_for(marker, deadline=last + WAIT)
            except BenchError as error:
                end = "\n".join(console.text.splitlines()[-15:]) or "(none)"
                raise BenchError(f"{contender.name}: {error}; its last output:\n{end}") from None
            seconds.append(now - last)
            last = now
        return seconds
    finally:
        # The group: whatever it may have started ends with it.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


class Console:
    """What a guest, and what runs it, have written so far."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._output = b""
        self._position = 0

    @property
    def text(self) -> str:
        return self._output.decode(errors="replace")

    def wait_for(self, marker: str, deadline: float) -> float:
        """Return the time at which a marker was read; the search goes on behind it next time."""
        while (found := self._output.find(marker.encode(), self._position)) < 0:
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._descriptor], [], [], left)[0]:
                raise BenchError(f"no {marker!r} within {WAIT:.0f} s")
            data = os.read(self._descriptor, 65536)
            if not data:
                raise BenchError(f"ended before {marker!r}")
            self._output += data
        self._position = found + len(marker)
        return time.monotonic()


def summary(times: Times, arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures as data for JSON: seconds, and ratios of medians."""
    medians = {
        name: {m: statistics.median(values) for m, values in of.items()}
        for name, of in times.items()
    }
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
        "image": arguments.image,
        "kernel": str(arguments.kernel) if arguments.kernel else None,
        "runs": arguments.runs,
        "memory_mib": MEMORY_MIB,
        "host_cpu": _host_cpu(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "qemu": _qemu_version(),
        "seconds": times,
        "medians": medians,
        "ratios": ratios,
        "targets": targets,
    }


def _host_cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _qemu_version() -> str:
    done = subprocess.run(
        [QEMU, "--version"], capture_output=True, text=True, check=True, timeout=WAIT
    )
    return done.stdout.splitlines()[0]


def table(result: dict[str, Any]) -> str:
    """The figures for people, from what `summary` returns."""
    kernel = result["kernel"] or f"image {result['image']}"
    lines = [
        "",
        f"{result['host_cpu']}, load {result['load_average']:.2f}, "
        f"Python {result['python']}, {result['qemu']}",
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
