# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel modules and the order in which they can be loaded.

A Linux module is an ELF object. Its section `.modinfo` holds `key=value` strings that each end with
a NUL; `depends=` names the modules that must be loaded before it, separated by commas. The build
of a kernel's package leaves `modules.dep`, which lists the same, to depmod on the machine where the
package is installed, so it is not there when a package is only unpacked. Module names treat
`-` and `_` as the same character. Files may be compressed: the kernel's configuration decides.
"""

from __future__ import annotations

import gzip
import lzma
import struct
from collections.abc import Iterable
from pathlib import Path

from msgspec import Struct

from pyxen.errors import PyxenError

_ELF64_MAGIC = b"\x7fELF\x02\x01"
_ELF64_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_SUFFIXES = (".ko", ".ko.xz", ".ko.gz", ".ko.zst")


class Module(Struct, frozen=True):
    """A kernel module, uncompressed. `path` is relative to the folder of its kernel release."""

    name: str
    path: str
    data: bytes


def release_folder(root: Path) -> Path:
    """Return the folder of one kernel release at or below `root`.

    `root` is that folder itself (it holds `kernel/`), or a root file system or unpacked package
    with exactly one release in `lib/modules` or `usr/lib/modules`.

    Raises:
        PyxenError: there is none, or more than one.
    """
    if (root / "kernel").is_dir():
        return root
    for modules in (root / "lib/modules", root / "usr/lib/modules"):
        releases = sorted(path for path in modules.glob("*") if (path / "kernel").is_dir())
        if len(releases) == 1:
            return releases[0]
        if releases:
            names = ", ".join(path.name for path in releases)
            raise PyxenError(f"{modules}: holds modules of several kernels ({names}): name one")
    raise PyxenError(f"{root}: no kernel modules there (expected lib/modules/RELEASE/kernel)")


def load_order(release: Path, wanted: Iterable[str]) -> list[Module]:
    """Return the wanted modules and all that they depend on, each after what it needs.

    A wanted module that is built into the kernel (`modules.builtin`) is left out.

    Raises:
        PyxenError: a module is missing or damaged, or modules depend on each other.
    """
    available = {
        module_name(path): path
        for path in sorted(release.rglob("*.ko*"))
        if path.name.endswith(_SUFFIXES)
    }
    built_in = _built_in(release)
    order: dict[str, Module] = {}

    def add(name: str, needed_by: tuple[str, ...]) -> None:
        if name in order or name in built_in:
            return
        if name in needed_by:
            raise PyxenError(f"{release}: modules need each other: {' -> '.join(needed_by)}")
        if name not in available:
            reason = f", which {needed_by[-1]} needs" if needed_by else ""
            raise PyxenError(f"{release}: no kernel module {name}{reason}")
        path = available[name]
        data = read_module(path)
        for dependency in dependencies(data, path):
            add(dependency, (*needed_by, name))
        order[name] = Module(name, _uncompressed_name(path.relative_to(release)), data)

    for name in wanted:
        add(name.replace("-", "_"), ())
    return list(order.values())


def module_name(path: Path) -> str:
    """Return the name under which the kernel knows the module of this file."""
    return path.name.partition(".ko")[0].replace("-", "_")


def read_module(path: Path) -> bytes:
    """Return the module's ELF file, decompressed.

    Raises:
        PyxenError: the compressed data is damaged.
    """
    data = path.read_bytes()
    try:
        if path.name.endswith(".xz"):
            return lzma.decompress(data)
        if path.name.endswith(".gz"):
            return gzip.decompress(data)
        if path.name.endswith(".zst"):
            return _zstd_decompress(data)
    except (lzma.LZMAError, EOFError, OSError, ValueError) as error:
        raise PyxenError(f"{path}: damaged kernel module: {error}") from error
    return data


def dependencies(data: bytes, path: Path) -> list[str]:
    """Return the names that the module's `depends=` lists; `path` is for the error alone.

    Raises:
        PyxenError: not an ELF64 file with a `.modinfo` section.
    """
    for item in _section(data, b".modinfo", path).split(b"\0"):
        key, _, value = item.partition(b"=")
        if key == b"depends" and value:
            return [name.replace("-", "_") for name in value.decode().split(",")]
    return []


def _section(data: bytes, name: bytes, path: Path) -> bytes:
    if not data.startswith(_ELF64_MAGIC):
        raise PyxenError(f"{path}: not a kernel module: no ELF64 header")
    try:
        header = _ELF64_HEADER.unpack_from(data)
        table, count, names_index = header[6], header[12], header[13]
        sections = [
            _SECTION_HEADER.unpack_from(data, table + i * _SECTION_HEADER.size)
            for i in range(count)
        ]
        names_offset = sections[names_index][4]
    except (struct.error, IndexError) as error:
        raise PyxenError(f"{path}: damaged kernel module: no section table") from error
    for section in sections:
        start = names_offset + section[0]
        if data[start : start + len(name) + 1] == name + b"\0":
            return data[section[4] : section[4] + section[5]]
    raise PyxenError(f"{path}: not a kernel module: no section {name.decode()}")


def _built_in(release: Path) -> set[str]:
    listing = release / "modules.builtin"
    if not listing.exists():
        return set()
    return {module_name(Path(line)) for line in listing.read_text().splitlines()}


def _uncompressed_name(path: Path) -> str:
    return str(path.with_name(path.name.partition(".ko")[0] + ".ko"))


def _zstd_decompress(data: bytes) -> bytes:
    import sys

    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    try:
        return zstd.decompress(data)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error
