# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests under pyxen and under QEMU's emulator, for the scripts of this folder.

A guest writes markers to its console; `run_guest` gives the times between them. `run_script` is
what the scripts have in common: their end, and how they tell of an error.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

try:
    from pyxen.errors import PyxenError
except ModuleNotFoundError as error:
    sys.exit(f"bench: {error.name} is not installed for this Python: run `make bench`")

QEMU = "qemu-system-x86_64"
MEMORY_MIB = 256
WAIT = 180.0
"""Seconds that a guest may take from one marker to the next."""


class BenchError(Exception):
    """A guest that did not get to its end."""


@dataclass(frozen=True)
class Contender:
    name: str
    command: list[str]


def parser(description: str) -> argparse.ArgumentParser:
    """With the options that all scripts have."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--runs", type=_positive, default=3, help="of each (default: %(default)s)")
    options.add_argument("--image", default="debian", help="the guest (default: %(default)s)")
    options.add_argument("--json", metavar="FILE", type=Path, help="write the figures to a file")
    return options


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def run_script(
    arguments: argparse.Namespace,
    measure: Callable[[argparse.Namespace, Path], dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
) -> int:
    """Measure with a folder for what guests need, print, and write what `--json` asks for.

    Returns the exit status.
    """
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with tempfile.TemporaryDirectory(prefix="pyxen-bench-") as folder:
            result = measure(arguments, Path(folder))
        print(table(result))
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    except (BenchError, PyxenError, OSError, subprocess.SubprocessError) as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def check_tools() -> None:
    """Raises BenchError if QEMU or a C compiler is missing."""
    missing = [
        f"no {tool} here: install your distribution's package of {what}"
        for tool, what in ((QEMU, "QEMU for x86"), ("gcc", "gcc"))
        if shutil.which(tool) is None
    ]
    if missing:
        raise BenchError("; ".join(missing))


def build_program(source: Path, program: Path) -> bytes:
    """A static program for a guest. Raises BenchError with the compiler's message."""
    done = subprocess.run(
        ["gcc", "-O2", "-static", "-pthread", "-o", str(program), str(source)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise BenchError(f"gcc cannot build {source}:\n{done.stderr}")
    return program.read_bytes()


Figures = dict[str, dict[str, list[float]]]
"""The figure of each run, by contender and measure."""


def measure(
    contenders: list[Contender],
    measures: tuple[str, ...],
    runs: int,
    read: Callable[[Contender], dict[str, float]],
) -> Figures:
    """Run every contender, one after the other, `runs` times; `read` runs one for its figures."""
    figures: Figures = {c.name: {m: [] for m in measures} for c in contenders}
    for number in range(runs):
        for contender in contenders:
            found = read(contender)
            told = ", ".join(f"{name} {value:.1f}" for name, value in found.items())
            print(f"run {number + 1}/{runs}: {contender.name}: {told}", file=sys.stderr)
            for name in measures:
                figures[contender.name][name].append(found[name])
    return figures


def medians_of(figures: Figures) -> dict[str, dict[str, float]]:
    return {
        name: {m: statistics.median(values) for m, values in of.items()}
        for name, of in figures.items()
    }


def circumstances(arguments: argparse.Namespace) -> dict[str, Any]:
    """What figures depend on, for the result of a script."""
    return {
        "image": arguments.image,
        "runs": arguments.runs,
        "memory_mib": MEMORY_MIB,
        "host_cpu": host_cpu(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "qemu": qemu_version(),
    }


def machine_line(result: dict[str, Any]) -> str:
    return (
        f"{result['host_cpu']}, load {result['load_average']:.2f}, "
        f"Python {result['python']}, {result['qemu']}"
    )


def comparison(
    result: dict[str, Any], figures: Figures, peer: str, unit: str, decimals: int
) -> list[str]:
    """Lines of a table of pyxen beside a peer, with the result's ratios."""
    lines = [
        "",
        machine_line(result),
        f"image {result['image']}, 1 CPU, {result['memory_mib']} MiB; "
        f"median (lowest-highest) of {result['runs']}, in {unit}",
        "",
        f"{'':<20}{'pyxen':>32}{peer:>32}{'ratio':>8}",
    ]
    for name, ratio in result["ratios"].items():
        cells = "".join(f"{spread(figures[who][name], decimals):>32}" for who in ("pyxen", peer))
        lines.append(f"{name:<20}{cells}{ratio:>8.2f}")
    return lines


def spread(values: list[float], decimals: int) -> str:
    """Median, lowest and highest."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:,.{decimals}f} ({low:,.{decimals}f}-{high:,.{decimals}f})"


def pyxen(kernel: Path, ramdisk: Path, cmdline: str) -> Contender:
    command = [sys.executable, "-m", "pyxen", "run", "--no-reboot"]
    command += ["--kernel", str(kernel), "--ramdisk", str(ramdisk)]
    command += ["--memory", str(MEMORY_MIB), "--cmdline", f"console=hvc0 {cmdline}"]
    return Contender("pyxen", command)


def qemu(machine: str, kernel: Path, ramdisk: Path, cmdline: str) -> Contender:
    # Without its default devices, which take time and which the guest does not need.
    command = [QEMU, "-nodefaults", "-no-user-config", "-accel", "tcg", "-M", machine]
    command += ["-m", str(MEMORY_MIB), "-smp", "1", "-no-reboot"]
    command += ["-display", "none", "-serial", "stdio"]
    command += ["-kernel", str(kernel), "-initrd", str(ramdisk)]
    command += ["-append", f"console=ttyS0 {cmdline}"]
    return Contender(f"qemu {machine}", command)


def run_guest(contender: Contender, markers: tuple[str, ...]) -> tuple[list[float], str]:
    """Start a guest and end it at the last marker.

    Returns the seconds to each marker from the one before, and all that was written. Raises
    BenchError if it ends earlier or `WAIT` passes without a marker.
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
        return seconds, console.text
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


def host_cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def qemu_version() -> str:
    done = subprocess.run(
        [QEMU, "--version"], capture_output=True, text=True, check=True, timeout=WAIT
    )
    return done.stdout.splitlines()[0]
