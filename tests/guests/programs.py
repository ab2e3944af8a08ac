# SPDX-License-Identifier: GPL-2.0-or-later
"""Programs for guests: built by gcc when a test wants them, and packed as a ramdisk."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from pyxen.toolstack.images import cpio

GUESTS = Path(__file__).parents[2] / "guests"

_ALL = ("-O2", "-static", "-std=gnu11", "-Wall", "-Wextra", "-Werror")
_64_BIT = ("-pthread",)
# There may be no 32-bit library: these programs bring everything themselves.
_32_BIT = (
    *("-m32", "-nostdlib", "-ffreestanding", "-fno-pic", "-no-pie"),
    *("-fno-stack-protector", "-fno-asynchronous-unwind-tables"),
)


def build(sources: Sequence[Path], output: Path, *, bits: int = 64) -> Path:
    """Build a static program. Skips the test where there is no compiler for it."""
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no gcc, which builds the programs of guests")
    options = (*_ALL, *(_64_BIT if bits == 64 else _32_BIT))
    subprocess.run([compiler, *options, "-o", output, *sources], check=True)
    return output


def build_all(name: str, output: Path) -> dict[str, Path]:
    """Build the program in guests/NAME, and what it starts: path in the guest -> file."""
    sources = sorted((GUESTS / "common").glob("*.c")) + sorted((GUESTS / name).glob("*.c"))
    other = sorted((GUESTS / "program32").glob("*.c"))
    return {
        f"/{name}": build(sources, output / name),
        "/program32": build(other, output / "program32", bits=32),
    }


def write_ramdisk(path: Path, programs: Mapping[str, Path]) -> Path:
    """A ramdisk with these programs and nothing else; one of them is for ``rdinit=``."""
    entries = {name: cpio.file(file.read_bytes(), 0o755) for name, file in programs.items()}
    entries["/dev/console"] = cpio.character_device(5, 1)
    with path.open("wb") as stream:
        cpio.write_archive(stream, entries)
    return path
