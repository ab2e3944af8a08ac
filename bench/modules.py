# SPDX-License-Identifier: GPL-2.0-or-later
"""Ramdisks for guests that need modules: a static program and what it loads."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from guests import build_program, parser
from pyxen.builder.image import load_kernel
from pyxen.toolstack import images
from pyxen.toolstack.images import cpio
from pyxen.toolstack.images.modules import load_order, release_folder
from pyxen.toolstack.images.packages import Apt, unpack


def guest_parser(description: str) -> argparse.ArgumentParser:
    """The options of a script whose guests need modules."""
    options = parser(description)
    options.add_argument(
        "--modules", metavar="FOLDER", type=Path, help="the kernel's modules, or its package's root"
    )
    return options


def write_guests(
    arguments: argparse.Namespace, folder: Path, source: Path, modules: dict[str, tuple[str, ...]]
) -> tuple[images.Image, Path]:
    """Write a ramdisk for each contender, by its name, with the program and with its modules.

    Returns the image whose kernel they run, and that kernel decompressed. Raises BenchError.
    """
    image = images.find(arguments.image)
    release = release_folder(arguments.modules or fetch_modules(image, folder))
    program = build_program(source, folder / "program")
    for name, needed in modules.items():
        write_ramdisk(folder / name, program, release, needed)
    vmlinux = folder / "vmlinux"
    vmlinux.write_bytes(load_kernel(image.kernel).elf.data)
    return image, vmlinux


def fetch_modules(image: images.Image, folder: Path) -> Path:
    """The package of an image's kernel, fetched with apt and unpacked."""
    name = next(name for name in image.packages if name.startswith("linux-image-"))
    print(f"fetching {name}", file=sys.stderr)
    packages, root = folder / "packages", folder / "root"
    packages.mkdir()
    apt = Apt()
    unpack(apt.download(apt.show(name), packages, lambda *_: None), root)
    return root


def write_ramdisk(path: Path, program: bytes, release: Path, modules: tuple[str, ...]) -> None:
    """The program as /init, and the modules as /modules/00, 01, … in the order to load them."""
    entries = {
        "/dev": cpio.folder(),
        "/dev/console": cpio.character_device(5, 1),
        "/init": cpio.file(program, 0o755),
        "/modules": cpio.folder(),
    }
    for number, module in enumerate(load_order(release, modules)):
        entries[f"/modules/{number:02}"] = cpio.file(module.data, 0o644)
    with path.open("wb") as stream:
        cpio.write_archive(stream, entries)
