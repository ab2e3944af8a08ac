# SPDX-License-Identifier: GPL-2.0-or-later
"""Handles: what a domain has mapped of other domains' grants.

A successful map operation returns a handle, by which the mapping is undone. Xen keeps for each what
was mapped and how (``GNTMAP_*``), in frames of 256 that are added as needed, up to a limit. A freed
handle goes to the end of the queue, so that one that is used too late is likely to be a bad one.
One handle always stays in the queue, as in Xen.
"""

from __future__ import annotations

from array import array
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PER_FRAME: Final = 256
NO_HANDLE: Final = -1


class Maptrack:
    """``flags[handle]`` is 0 for a free one; ``refs[handle]`` is the grant reference."""

    def __init__(self, max_frames: int) -> None:
        self.max_frames = max_frames
        self.flags = array("H")
        self.refs = array("I")
        self._free: deque[int] = deque()

    def reserve(self) -> int:
        """A free handle, or NO_HANDLE at the limit. It counts as used when its flags are set."""
        if len(self._free) > 1:
            return self._free.popleft()
        first = len(self.flags)
        if first == PER_FRAME * self.max_frames:
            return NO_HANDLE
        self.flags.frombytes(bytes(2 * PER_FRAME))
        self.refs.frombytes(bytes(4 * PER_FRAME))
        self._free.extendleft(range(first + PER_FRAME - 1, first, -1))
        return first

    def free(self, handle: int) -> None:
        self.flags[handle] = 0
        self._free.append(handle)

    def is_used(self, handle: int) -> bool:
        """Any number is allowed."""
        return 0 <= handle < len(self.flags) and self.flags[handle] != 0

    def handles(self) -> Iterator[int]:
        """Those that are used."""
        return (handle for handle, flags in enumerate(self.flags) if flags)
