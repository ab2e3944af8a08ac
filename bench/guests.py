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
import signal
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
