# SPDX-License-Identifier: GPL-2.0-or-later
"""The images that this user has: each a folder with a kernel, a ramdisk, a description, and perhaps
the disk of a whole system.

They lie in `$XDG_DATA_HOME/pyxen/images/NAME/` as `kernel`, `ramdisk`, `meta.json` and `disk`. A
folder whose name begins with a dot is being made or removed; it is never an image. Who changes
anything here holds the lock of the store, so what is found under such a name without the
lock being held was left by a process that died.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from msgspec import Struct

from pyxen.errors import PyxenError

ROOT_VDEV = "xvda"
"""The name of an image's disk in its guest."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")


class Image(Struct, frozen=True):
    """A guest that can be started.

    Attributes:
        name: name of the image.
        kernel: kernel file, as the distribution ships it.
        ramdisk: initramfs that goes with it.
        description: what it is, in a few words.
        packages: version of each package that it was made from, by name.
        recipe: which initramfs of pyxen's it holds, see `initramfs.recipe`.
        pulled: when it was made, ISO 8601 with the offset from UTC.
        disk: raw image of the root file system, for the guest's disk `xvda`; None if the ramdisk
            is all that there is. Guests get copies of it, see `private_disk`.
    """

    name: str
    kernel: Path
    ramdisk: Path
    description: str
    packages: dict[str, str]
    recipe: str
    pulled: str
    disk: Path | None = None

    @property
    def size(self) -> int:
        """Bytes on the disk, without the holes."""
        size = self.kernel.stat().st_size + self.ramdisk.stat().st_size
        return size + (self.disk.stat().st_blocks * 512 if self.disk is not None else 0)

    @property
    def command_line(self) -> str:
        """What the kernel is told if the user says nothing else."""
        return "console=hvc0" if self.disk is None else f"console=hvc0 root=/dev/{ROOT_VDEV} ro"


def data_folder() -> Path:
    """Return the folder for data that the user would miss."""
    return _user_folder("XDG_DATA_HOME", ".local/share") / "pyxen"


def cache_folder() -> Path:
    """Return the folder for data that can be made again."""
    return _user_folder("XDG_CACHE_HOME", ".cache") / "pyxen"


def find_image(name: str) -> Image:
    """Return the image of this name.

    Raises:
        PyxenError: there is none, or its description is damaged.
    """
    folder = _image_folder(name)
    if not folder.is_dir():
        raise PyxenError(f"no image {name} here: fetch it with `pyxen image pull {name}`")
    return _read(folder)


def list_images() -> list[Image]:
    """Return all images, sorted by name.

    Raises:
        PyxenError: the description of one is damaged.
    """
    store = _store()
    if not store.is_dir():
        return []
    folders = sorted(path for path in store.iterdir() if _NAME.fullmatch(path.name))
    return [_read(folder) for folder in folders if folder.is_dir()]


def remove_image(name: str) -> None:
    """Remove an image; a damaged one too.

    Raises:
        PyxenError: there is none of this name.
    """
    folder = _image_folder(name)
    with locked_store():
        if not folder.is_dir():
            raise PyxenError(f"no image {name} here")
        _discard(folder)


@contextmanager
def locked_store() -> Iterator[None]:
    """Hold the store for changing it, and clear away what dead processes left."""
    store = _store()
    store.mkdir(parents=True, exist_ok=True)
    with (store / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for left in store.glob(".tmp-*"):
            shutil.rmtree(left)
        yield


@contextmanager
def new_image(name: str) -> Iterator[Path]:
    """Give a folder to make an image in; it takes its place when the context ends without error.

    The caller holds the lock and ends with `describe`.
    """
    folder = _image_folder(name)
    work = Path(tempfile.mkdtemp(prefix=".tmp-", dir=_store()))
    try:
        yield work
        work.chmod(0o755)
        if folder.exists():
            _discard(folder)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def describe(
    folder: Path, *, description: str, packages: dict[str, str], recipe: str, pulled: str
) -> None:
    """Write an image's description into its folder, when all else is there."""
    meta = {
        "description": description,
        "packages": packages,
        "recipe": recipe,
        "pulled": pulled,
        "disk": (folder / "disk").exists(),
    }
    (folder / "meta.json").write_text(json.dumps(meta, indent=2) + "\n")


def _read(folder: Path) -> Image:
    path = folder / "meta.json"
    try:
        meta: dict[str, Any] = json.loads(path.read_text())
        image = Image(
            name=folder.name,
            kernel=folder / "kernel",
            ramdisk=folder / "ramdisk",
            description=str(meta["description"]),
            packages={str(k): str(v) for k, v in meta["packages"].items()},
            recipe=str(meta["recipe"]),
            pulled=str(meta["pulled"]),
            disk=folder / "disk" if meta.get("disk") else None,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PyxenError(
            f"{path}: damaged image: remove it with `pyxen image remove {folder.name}`"
        ) from error
    for file in (image.kernel, image.ramdisk, image.disk):
        if file is not None and not file.is_file():
            raise PyxenError(
                f"{file}: missing: remove the image with `pyxen image remove {folder.name}`"
            )
    return image


def _discard(folder: Path) -> None:
    # Renamed first: an image is there as a whole or not at all.
    grave = Path(tempfile.mkdtemp(prefix=".tmp-", dir=_store()))
    folder.rename(grave / folder.name)
    shutil.rmtree(grave)


def _store() -> Path:
    return data_folder() / "images"


def _image_folder(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise PyxenError(
            f"{name!r} is not an image name (expected small letters, digits, dots and dashes)"
        )
    return _store() / name


def _user_folder(variable: str, default: str) -> Path:
    # A relative path is invalid by the XDG base directory specification, and to be ignored.
    value = Path(os.environ.get(variable, ""))
    return value if value.is_absolute() else Path.home() / default
