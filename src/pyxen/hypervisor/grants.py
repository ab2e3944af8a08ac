# SPDX-License-Identifier: GPL-2.0-or-later
"""The grant table: pages of a domain that it lets others map or copy.

The table is an array in frames that Xen shares with the guest; the guest writes an entry (whom,
which frame, read-only or not) and passes its index, the *grant reference*, to the other domain.
Here are the frames and the version of the layout. Reference: ``public/grant_table.h``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyxen.abi.errno import EINVAL
from pyxen.errors import XenError

if TYPE_CHECKING:
    from pyxen.hypervisor.memory import Memory

MAX_FRAMES: Final = 64


class GrantTable:
    """The frames of a domain's table. There is one frame from the start, as under Xen."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self.max_frames = MAX_FRAMES
        self.version = 1
        self.mfns = [memory.allocate_shared()]

    def grow(self, frames: int) -> None:
        """Have at least this many frames. Raises EINVAL above the maximum."""
        if frames > self.max_frames:
            raise XenError(EINVAL)
        while len(self.mfns) < frames:
            self.mfns.append(self._memory.allocate_shared())
