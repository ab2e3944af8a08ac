# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks that pyxen makes for one run: a copy of an image's disk, and the seed of cloud-init.

A run must not change the image for others. Its copy shares its blocks with the image where the file
system can do so (`FICLONE`: btrfs, xfs); elsewhere what is not a hole is copied. A file for one run
has no name: it is open, and known as `/proc/self/fd/NUMBER`, so that nothing stays behind however
the process ends.
"""

from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from string import ascii_lowercase
from typing import BinaryIO, Final

from msgspec.structs import replace

from pyxen.errors import PyxenError
from pyxen.toolstack.devices.disk import DiskConfig, parse_disk
from pyxen.toolstack.images.seed import Seed, write_seed
from pyxen.toolstack.images.store import ROOT_VDEV, Image, cache_folder, find_image

_FICLONE: Final = 0x4004_9409  # linux/fs.h
_CHUNK: Final = 1 << 30


@contextmanager
def root_disk(image: Image, others: Sequence[DiskConfig]) -> Iterator[list[DiskConfig]]:
    """Give a copy of the image's disk; none if there is none, or another has taken its place.

    Raises:
        PyxenError: the image cannot be read, or its copy does not fit.
    """
    root = _disk(ROOT_VDEV)
    if image.disk is None or root.number in [disk.number for disk in others]:
        yield []
        return
    with _nameless_file() as stream:
        _copy(image.disk, stream)
        yield [replace(root, target=_path(stream))]


@contextmanager
def seed_disk(seed: Seed, others: Sequence[DiskConfig]) -> Iterator[DiskConfig]:
    """Give a disk with the seed, read-only, under the first free name from xvdb on.

    Raises:
        PyxenError: it does not fit, or there is no free name.
    """
    taken = {disk.number for disk in others}
    free = [
        disk
        for letter in ascii_lowercase[1:]
        if (disk := _disk(f"xvd{letter}")).number not in taken
    ]
    if not free:
        raise PyxenError("no name is free for the disk of cloud-init, from xvdb to xvdz")
    with _nameless_file() as stream:
        with _errors_told(cache_folder()):
            write_seed(stream, seed)
            stream.flush()
        yield replace(free[0], target=_path(stream), readonly=True)


def copy_disk(name: str, output: Path) -> None:
    """Write a copy of an image's disk to a new file.

    Raises:
        PyxenError: the image has no disk, the file exists or does not fit.
    """
    image = find_image(name)
    if image.disk is None:
        raise PyxenError(f"image {name} has no disk: its guest lives in memory")
    with _new_file(output) as stream:
        _copy(image.disk, stream)


def write_seed_file(output: Path, seed: Seed) -> None:
    """Write a disk with the seed to a new file.

    Raises:
        PyxenError: the file exists or does not fit.
    """
    with _new_file(output) as stream:
        write_seed(stream, seed)


def _disk(vdev: str) -> DiskConfig:
    return parse_disk(f"/,raw,{vdev},rw")


def _path(stream: BinaryIO) -> str:
    return f"/proc/self/fd/{stream.fileno()}"


@contextmanager
def _nameless_file() -> Iterator[BinaryIO]:
    folder = cache_folder()
    with ExitStack() as stack:
        with _errors_told(folder):
            folder.mkdir(parents=True, exist_ok=True)
            stream = stack.enter_context(tempfile.TemporaryFile(dir=folder))
        yield stream


@contextmanager
def _new_file(path: Path) -> Iterator[BinaryIO]:
    with _errors_told(path), path.open("xb") as stream:
        path.chmod(0o600)  # a seed may hold a password
        try:
            yield stream
            stream.flush()
        except BaseException:
            path.unlink()
            raise


@contextmanager
def _errors_told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PyxenError(f"{path}: {error.strerror}") from error


def _copy(source: Path, target: BinaryIO) -> None:
    with _errors_told(source), source.open("rb", buffering=0) as image:
        try:
            fcntl.ioctl(target, _FICLONE, image.fileno())
        except OSError:
            # Another file system, or one that cannot: none of its errors hinders a copy.
            _copy_data(image.fileno(), target.fileno())


def _copy_data(source: int, target: int) -> None:
    """Copy all but the holes."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    end = 0
    while end < size:
        try:
            start = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole up to the end
            raise
        end = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(target, start, os.SEEK_SET)
        while start < end:
            # sendfile, because copy_file_range is refused between some pairs of file systems
            copied = os.sendfile(target, source, start, min(end - start, _CHUNK))
            if copied == 0:
                raise OSError(errno.EIO, "the image has become shorter")
            start += copied
