# SPDX-License-Identifier: GPL-2.0-or-later
"""Images: guests that are ready to be started under a name.

`pull` makes one from the packages of the distribution; `find`, `list` and `remove` deal with those
that are there.
"""

from __future__ import annotations

from pyxen.toolstack.images.initramfs import FRONT_ENDS, READY_MARKER
from pyxen.toolstack.images.pull import RECIPES, build_initramfs
from pyxen.toolstack.images.pull import pull_image as pull
from pyxen.toolstack.images.store import Image
from pyxen.toolstack.images.store import find_image as find
from pyxen.toolstack.images.store import list_images as list
from pyxen.toolstack.images.store import remove_image as remove

__all__ = [
    "FRONT_ENDS",
    "READY_MARKER",
    "RECIPES",
    "Image",
    "build_initramfs",
    "find",
    "list",
    "pull",
    "remove",
]
