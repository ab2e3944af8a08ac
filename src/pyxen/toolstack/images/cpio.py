# SPDX-License-Identifier: GPL-2.0-or-later
"""The cpio archive that Linux unpacks into its first root file system.

The kernel reads the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst): for
each entry a header of the magic `070701` and thirteen fields of eight hexadecimal digits, then the
path with a closing NUL, then the data. Path and data are each padded to a multiple of four bytes,
counted from the start of the archive. An entry called `TRAILER!!!` ends it. A folder must come
before what lies in it. Nothing in the format is compressed.

An archive written here depends on its entries alone: time stamps are zero, everything belongs to
root, and inode numbers count up in the order of the sorted paths.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import BinaryIO

from msgspec import Struct

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
MAX_DATA = 0xFFFF_FFFF


class Entry(Struct, frozen=True):
    """One file, folder, symbolic link or device.

    `mode` holds type and permissions as in `st_mode`. `data` is the content of a file or the target
    of a symbolic link. `device` is the (major, minor) pair of a device node.
    """

    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def folder(permissions: int = 0o755) -> Entry:
    return Entry(stat.S_IFDIR | permissions)


def file(data: bytes, permissions: int = 0o644) -> Entry:
    return Entry(stat.S_IFREG | permissions, data)


def symlink(target: str) -> Entry:
    return Entry(stat.S_IFLNK | 0o777, os.fsencode(target))


def character_device(major: int, minor: int, permissions: int = 0o600) -> Entry:
    return Entry(stat.S_IFCHR | permissions, device=(major, minor))


def write_archive(stream: BinaryIO, entries: Mapping[str, Entry]) -> None:
    """Write the entries, keyed by absolute path, with the parent folders that they lack.

    Raises:
        ValueError: a path that is not absolute and normal, or data of 4 GiB and more.
    """
    position = 0
    for inode, (path, entry) in enumerate(sorted(_with_parents(entries).items()), start=1):
        record = _record(path.lstrip("/"), entry, inode)
        stream.write(record)
        position += len(record)
    trailer = _record(TRAILER, Entry(0), 0)
    # The archive fills whole blocks of 512 bytes, so that another may follow it.
    stream.write(trailer + bytes(-(position + len(trailer)) % 512))


def _with_parents(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    complete: dict[str, Entry] = {}
    for path, entry in entries.items():
        # normpath keeps a double slash at the start.
        if not re.match("/[^/]", path) or os.path.normpath(path) != path:
            raise ValueError(f"{path!r} is not an absolute, normal path")
        for parent in PurePosixPath(path).parents[:-1]:
            complete.setdefault(str(parent), entries.get(str(parent), folder()))
        complete[path] = entry
    return complete


def _record(name: str, entry: Entry, inode: int) -> bytes:
    if len(entry.data) > MAX_DATA:
        raise ValueError(f"/{name} is too large for a cpio archive")
    path = os.fsencode(name) + b"\0"
    fields = (
        inode,
        entry.mode,
        0,  # owner
        0,  # group
        2 if stat.S_ISDIR(entry.mode) else 1,  # links
        0,  # time of modification
        len(entry.data),
        0,  # device that holds the file
        0,
        *entry.device,
        len(path),
        0,  # checksum, unused in this format
    )
    header = MAGIC + b"".join(b"%08X" % field for field in fields)
    return _padded(header + path) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
