# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end of block devices: disks.

A front end's requests come through rings in its memory (``ring``), are parsed and checked
(``request``), and done (``queue``) on what is behind the disk (``images``, ``storage_daemon``);
``backend`` is its part in the xenstore.
"""

from __future__ import annotations

from pyxen.backends.allowance import Allowance
from pyxen.backends.block.backend import BlockBackend
from pyxen.backends.block.images import Image, RawImage
from pyxen.backends.block.limits import Limits
from pyxen.backends.block.storage_daemon import StorageDaemonImage

__all__ = ["Allowance", "BlockBackend", "Image", "Limits", "RawImage", "StorageDaemonImage"]
