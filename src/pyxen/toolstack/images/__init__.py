# SPDX-License-Identifier: GPL-2.0-or-later
"""Images: guests that are ready to be started under a name.

`pull` makes one from the packages of the distribution; `find`, `list` and `remove` deal with those
that are there. `root_disk` and `seed_disk` are what a run of one needs besides.
"""

from __future__ import annotations

from pyxen.toolstack.images.disks import copy_disk, root_disk, seed_disk, write_seed_file
from pyxen.toolstack.images.initramfs import FRONT_ENDS, READY_MARKER
from pyxen.toolstack.images.pull import RECIPES, build_initramfs
from pyxen.toolstack.images.pull import pull_image as pull
from pyxen.toolstack.images.seed import Seed, read_seed
from pyxen.toolstack.images.store import Image
from pyxen.toolstack.images.store import find_image as find
from pyxen.toolstack.images.store import list_images as list
from pyxen.toolstack.images.store import remove_image as remove

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
    "pull",
    "read_seed",
    "remove",
    "root_disk",
    "seed_disk",
    "write_seed_file",
]
