# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel images: from a file on disk to an ELF file with Xen notes in memory.

A kernel comes as an ELF file (`vmlinux`), as a compressed ELF file (`vmlinux.gz`), or as a Linux
boot image (`vmlinuz`). Decompression takes up to a second, more than all else that happens before
the guest runs, so its result is kept in the user's cache folder, one file a kernel, named by the
SHA-256 of the kernel file. A cache entry is mapped into memory, not read. It begins with a page
that says how long the rest is and its CRC-32, so that a damaged entry is noticed and made anew.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from pyxen.builder import bzimage, payload
from pyxen.builder.elf import ElfFile, is_elf, parse_elf
from pyxen.builder.files import OpenFile, open_for_reading
from pyxen.builder.notes import PvKernel, XenNotes, check_pv, read_notes
from pyxen.errors import PyxenError

_CACHE_HEADER: Final = struct.Struct("<16sQI")
_CACHE_MAGIC: Final = b"pyxen kernel 1"
_CACHE_HEADER_SIZE: Final = 4096


class KernelImage(Struct, frozen=True, eq=False):
    """A kernel that can run on Xen. `path` is the file that the user named."""

    path: Path
    elf: ElfFile
    notes: XenNotes

    def check_pv(self, offered_features: int) -> PvKernel:
        """As `notes.check_pv`, with the file's name in the error."""
        try:
            return check_pv(self.elf, self.notes, offered_features)
        except PyxenError as error:
            raise PyxenError(f"{self.path}: {error}") from None


def load_kernel(
    path: Path, cache: Path | None = None, open_file: OpenFile = open_for_reading
) -> KernelImage:
    """Read a kernel file; decompress it if no earlier start has.

    `cache` is the folder of decompressed kernels, by default `default_cache()`. That it cannot be
    read or written is no error. `open_file` opens the kernel.

    Raises PyxenError, with the name of the file, if it cannot be read or is no kernel for Xen.
    """
    try:
        data = memoryview(_read(path, open_file))
        if not is_elf(data):
            data = _decompressed(data, default_cache() if cache is None else cache)
        elf = parse_elf(data)
        return KernelImage(path, elf, read_notes(elf))
    except PyxenError as error:
        raise PyxenError(f"{path}: {error}") from None


def default_cache() -> Path:
    """`$XDG_CACHE_HOME/pyxen/kernels`, or the same under `~/.cache`."""
    # The XDG base directory specification: a relative path there is to be ignored.
    folder = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(folder) if folder.startswith("/") else Path(os.path.expanduser("~/.cache"))
    return base / "pyxen" / "kernels"


def _read(path: Path, open_file: OpenFile) -> bytes:
    """The whole file. It is not mapped: the user may overwrite it while the domain runs."""
    try:
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            if size > payload.MAX_IMAGE_SIZE:
                raise PyxenError(
                    f"has {size >> 20} MiB, expected a kernel "
                    f"of at most {payload.MAX_IMAGE_SIZE >> 20} MiB"
                )
            data = file.read(payload.MAX_IMAGE_SIZE)
    except OSError as error:
        raise PyxenError(f"cannot read the kernel: {error.strerror}") from None
    if not data:
        raise PyxenError("file is empty, expected a kernel")
    return data


def _decompressed(data: memoryview, cache: Path) -> memoryview:
    entry = cache / hashlib.sha256(data).hexdigest()
    kept = _read_cache(entry)
    if kept is not None:
        return kept
    kernel = _decompress(data)
    _write_cache(entry, kernel)
    return memoryview(kernel)


def _decompress(data: memoryview) -> bytes:
    if bzimage.is_bzimage(data):
        kernel = bzimage.extract_kernel(data)
    elif payload.compression_of(data):
        kernel = payload.decompress(data)
    else:
        raise PyxenError("not a kernel, expected an ELF file or a Linux boot image (bzImage)")
    if not is_elf(memoryview(kernel)):
        raise PyxenError(
            f"compressed file begins with {kernel[:4].hex(' ') or 'nothing'}, "
            "expected an ELF kernel inside"
        )
    return kernel


def _read_cache(entry: Path) -> memoryview | None:
    """The content of a cache entry, None if there is none or it is damaged."""
    try:
        with entry.open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
        return None
    content = memoryview(mapping)
    if len(content) <= _CACHE_HEADER_SIZE:
        return None
    magic, size, crc32 = _CACHE_HEADER.unpack_from(content)
    kernel = content[_CACHE_HEADER_SIZE:]
    if magic.rstrip(b"\0") != _CACHE_MAGIC or size != len(kernel) or crc32 != zlib.crc32(kernel):
        return None
    return kernel


def _write_cache(entry: Path, kernel: bytes) -> None:
    """Keep a kernel for the next start. The entry appears whole or not at all."""
    header = _CACHE_HEADER.pack(_CACHE_MAGIC, len(kernel), zlib.crc32(kernel))
    with suppress(OSError):  # the cache only saves time
        entry.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=entry.parent, prefix=".new-")
        try:
            with open(descriptor, "wb") as file:
                file.write(header.ljust(_CACHE_HEADER_SIZE, b"\0"))
                file.write(kernel)
            os.replace(name, entry)
        except BaseException:
            os.unlink(name)
            raise
