# SPDX-License-Identifier: GPL-2.0-or-later
"""Images: guests that are ready to be started under a name.

`pull_image` makes one from the packages of the distribution; `find`, `list` and `remove` deal with
those that are there. `root_disk` and `seed_disk` are what a run of one needs besides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyxen.toolstack.images.store import Image
from pyxen.toolstack.images.store import find_image as find
from pyxen.toolstack.images.store import list_images as list
from pyxen.toolstack.images.store import remove_image as remove

if TYPE_CHECKING:
    from pyxen.toolstack.images.disks import copy_disk, root_disk, seed_disk, write_seed_file
    from pyxen.toolstack.images.initramfs import FRONT_ENDS, READY_MARKER
    from pyxen.toolstack.images.pull import RECIPES, build_initramfs, pull_image
    from pyxen.toolstack.images.seed import Seed, read_seed

__all__ = [
    "FRONT_ENDS",
    "READY_MARKER",
    "RECIPES",
    "Image",
    "Seed",
    "build_initramfs",
    "copy_disk",
    "find",
    "list",
    "pull_image",
    "read_seed",
    "remove",
    "root_disk",
    "seed_disk",
    "write_seed_file",
]

_LATER = {
    "FRONT_ENDS": "initramfs",
    "READY_MARKER": "initramfs",
    "RECIPES": "pull",
    "Seed": "seed",
    "build_initramfs": "pull",
    "copy_disk": "disks",
    "pull_image": "pull",
    "read_seed": "seed",
    "root_disk": "disks",
    "seed_disk": "disks",
    "write_seed_file": "disks",
}


def __getattr__(name: str) -> Any:
    """Load what makes images when it is first used: to start one needs none of it."""
    if name not in _LATER:
        raise AttributeError(f"module 'pyxen.toolstack.images' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"pyxen.toolstack.images.{_LATER[name]}"), name)
