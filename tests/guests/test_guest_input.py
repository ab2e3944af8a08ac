# SPDX-License-Identifier: GPL-2.0-or-later
"""What the command line does with the files and sizes that it is given."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest
from guest import StartGuest

from pyxen.toolstack import images

pytestmark = pytest.mark.guest


def _check_refused(start_guest: StartGuest, *arguments: str | Path, says: list[str]) -> None:
    guest = start_guest(*arguments)
    assert guest.wait() == 1
    assert guest.console == ""
    assert guest.error.count("\n") == 1
    assert guest.error.startswith("pyxen: ")
    for part in says:
        assert part in guest.error


def test_empty_kernel(start_guest: StartGuest, tmp_path: Path) -> None:
    kernel = tmp_path / "empty"
    kernel.touch()
    _check_refused(start_guest, "--kernel", kernel, says=[str(kernel), "empty"])


def test_text_as_kernel(start_guest: StartGuest) -> None:
    _check_refused(start_guest, "--kernel", Path(__file__), says=[__file__, "not a kernel"])


def test_missing_kernel(start_guest: StartGuest, tmp_path: Path) -> None:
    kernel = tmp_path / "missing"
    _check_refused(start_guest, "--kernel", kernel, says=[str(kernel), "No such file"])


def test_folder_as_kernel(start_guest: StartGuest, tmp_path: Path) -> None:
    _check_refused(start_guest, "--kernel", tmp_path, says=[str(tmp_path), "s a directory"])


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.95])
def test_truncated_kernel(
    share: float, start_guest: StartGuest, debian_image: images.Image, tmp_path: Path
) -> None:
    kernel = tmp_path / "truncated"
    content = debian_image.kernel.read_bytes()
    kernel.write_bytes(content[: int(len(content) * share)])
    _check_refused(start_guest, "--kernel", kernel, says=[str(kernel)])


def test_program_of_the_host_as_kernel(start_guest: StartGuest) -> None:
    program = os.path.realpath("/proc/self/exe")
    _check_refused(start_guest, "--kernel", program, says=[program, "Xen"])


def test_compressed_text_as_kernel(start_guest: StartGuest, tmp_path: Path) -> None:
    kernel = tmp_path / "text.gz"
    kernel.write_bytes(gzip.compress(b"no kernel\n" * 1000))
    _check_refused(start_guest, "--kernel", kernel, says=[str(kernel), "ELF"])


def test_missing_ramdisk(
    start_guest: StartGuest, debian_image: images.Image, tmp_path: Path
) -> None:
    ramdisk = tmp_path / "missing"
    arguments = ("--kernel", debian_image.kernel, "--ramdisk", ramdisk)
    _check_refused(start_guest, *arguments, says=[str(ramdisk), "No such file"])


def test_ramdisk_larger_than_memory(
    start_guest: StartGuest, debian_image: images.Image, tmp_path: Path
) -> None:
    ramdisk = tmp_path / "ramdisk"
    with ramdisk.open("wb") as file:
        file.truncate(300 << 20)
    arguments = ("--kernel", debian_image.kernel, "--ramdisk", ramdisk, "--memory", "256")
    _check_refused(start_guest, *arguments, says=["MiB", "256"])


@pytest.mark.parametrize("mebibytes", [8, 40])
def test_too_little_memory(
    mebibytes: int, start_guest: StartGuest, debian_image: images.Image
) -> None:
    arguments = ("--image", debian_image.name, "--memory", str(mebibytes))
    _check_refused(start_guest, *arguments, says=[str(debian_image.kernel), "MiB", str(mebibytes)])


def test_command_line_that_is_too_long(start_guest: StartGuest, debian_image: images.Image) -> None:
    arguments = ("--image", debian_image.name, "--cmdline", "x" * 5000)
    _check_refused(start_guest, *arguments, says=["command line"])


def test_unknown_image(start_guest: StartGuest) -> None:
    _check_refused(start_guest, "--image", "nothing-like-it", says=["nothing-like-it"])


def test_second_start_uses_the_decompressed_kernel(
    start_guest: StartGuest, debian_image: images.Image, tmp_path: Path
) -> None:
    folder = tmp_path / "pyxen" / "kernels"

    def start() -> bool:
        guest = start_guest(
            "--kernel", debian_image.kernel, environment={"XDG_CACHE_HOME": str(tmp_path)}
        )
        guest.expect("about to get started")
        # A kept kernel is mapped, not read.
        return str(folder) in Path(f"/proc/{guest.process.pid}/maps").read_text()

    assert not start()
    [kept] = folder.iterdir()
    inode = kept.stat().st_ino
    assert start()
    assert [file.stat().st_ino for file in folder.iterdir()] == [inode]
