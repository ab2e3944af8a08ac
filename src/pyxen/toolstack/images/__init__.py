# SPDX-License-Identifier: GPL-2.0-or-later
"""Images: guests that are ready to be started under a name.

`pull_image` makes one from the packages of the distribution; `find`, `list` and `remove` deal with
those that are there. `root_disk` and `seed_disk` are what a run of one needs besides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyxen.later import loader
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

# What makes images is loaded when it is used: to start one needs none of it.
__getattr__ = loader(
    __name__,
    {
        "FRONT_ENDS": "pyxen.toolstack.images.initramfs",
        "READY_MARKER": "pyxen.toolstack.images.initramfs",
        "RECIPES": "pyxen.toolstack.images.pull",
        "Seed": "pyxen.toolstack.images.seed",
        "build_initramfs": "pyxen.toolstack.images.pull",
        "copy_disk": "pyxen.toolstack.images.disks",
        "pull_image": "pyxen.toolstack.images.pull",
        "read_seed": "pyxen.toolstack.images.seed",
        "root_disk": "pyxen.toolstack.images.disks",
        "seed_disk": "pyxen.toolstack.images.disks",
        "write_seed_file": "pyxen.toolstack.images.disks",
    },
)
