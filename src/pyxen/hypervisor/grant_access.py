# SPDX-License-Identifier: GPL-2.0-or-later
"""A back end's door to a guest's grants: map and copy pages, as a process in dom0 does.

A front end puts grant references into its ring; the back end maps the pages, or copies to or from
them. It can keep a mapping for as long as it likes: *persistent grants*, of which a front end
promises that it will use the same pages again, cost nothing after the first time.

All of it is done in the thread of the vCPUs (see ``grants``); a back end that wants it elsewhere
uses ``Domain.post``. The bytes of a mapped page may be read and written in any thread, and are the
guest's too: whatever is read twice may differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pyxen.abi.grant_table import (
    GNTMAP_host_map,
    GNTMAP_readonly,
    GNTST_bad_copy_arg,
    GNTST_bad_handle,
    GNTST_general_error,
    GNTST_no_space,
)
from pyxen.hypervisor.grants import HOST_READ, HOST_WRITE, GrantError, GrantTable
from pyxen.hypervisor.maptrack import NO_HANDLE, Maptrack
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.page_types import NONE, WRITABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from typing_extensions import Buffer

_READ_ONLY: Final = GNTMAP_host_map | GNTMAP_readonly
_WRITABLE: Final = GNTMAP_host_map


class Mapping:
    """A mapped grant. ``page`` views its 4096 bytes, read-only if the mapping is."""

    __slots__ = ("handle", "page", "readonly", "ref")

    def __init__(self, handle: int, ref: int, readonly: bool, page: memoryview) -> None:
        self.handle = handle
        self.ref = ref
        self.readonly = readonly
        self.page = page


class MappedSegments:
    """Pieces of granted pages that are mapped together.

    ``buffers`` are views of them, in their order; pieces that are neighbours in memory are one.
    """

    __slots__ = ("buffers", "readonly", "refs")

    def __init__(self, readonly: bool) -> None:
        self.readonly = readonly
        self.refs: list[int] = []
        self.buffers: list[memoryview] = []


class GrantAccess:
    """What the domain ``domid`` does with the grants of one guest.

    All methods raise GrantError where Xen refuses. ``forget_code(mfn)`` is told when a frame was
    written from which code has been translated.
    """

    def __init__(
        self,
        table: GrantTable,
        forget_code: Callable[[int], None],
        *,
        domid: int = 0,
        max_maptrack_frames: int = 1024,
    ) -> None:
        self.domid = domid
        self._table = table
        self._bytes = table.memory.bytes
        self._code_frames = table.memory.code_frames
        self._forget_code = forget_code
        self._maptrack = Maptrack(max_maptrack_frames)
        self._segments: set[MappedSegments] = set()
        table.accesses.append(self)

    # Mapping

    def map(self, ref: int, *, readonly: bool = False) -> Mapping:
        """Map the page of a grant until ``unmap``."""
        handle = self._maptrack.reserve()
        if handle == NO_HANDLE:
            raise GrantError(GNTST_no_space)
        try:
            mfn = self._take(ref, readonly)
        except GrantError:
            self._maptrack.free(handle)
            raise
        self._maptrack.refs[handle] = ref
        self._maptrack.flags[handle] = _READ_ONLY if readonly else _WRITABLE
        page = self._bytes[mfn * PAGE_SIZE : (mfn + 1) * PAGE_SIZE]
        return Mapping(handle, ref, readonly, page.toreadonly() if readonly else page)

    def _take(self, ref: int, readonly: bool) -> int:
        table = self._table
        increment = HOST_READ if readonly else HOST_WRITE
        mfn = table.acquire(ref, self.domid, increment)
        try:
            table.take(mfn, not readonly)
        except GrantError:
            table.release(ref, increment)
            raise
        return mfn

    def map_all(self, refs: Iterable[int], *, readonly: bool = False) -> list[Mapping]:
        """Map the pages of all these grants, or none."""
        mappings: list[Mapping] = []
        try:
            for ref in refs:
                mappings.append(self.map(ref, readonly=readonly))
        except GrantError:
            self.unmap_all(mappings)
            raise
        return mappings

    def unmap(self, mapping: Mapping) -> None:
        """Give a mapping up. Its ``page`` can no longer be used.

        Raises BufferError, and changes nothing, while somebody still uses a buffer of the page.
        """
        handle = mapping.handle
        if not self._maptrack.is_used(handle):
            raise GrantError(GNTST_bad_handle)
        mapping.page.release()
        mapping.handle = NO_HANDLE
        self._give_back(handle)

    def unmap_all(self, mappings: Iterable[Mapping]) -> None:
        for mapping in mappings:
            self.unmap(mapping)

    def _give_back(self, handle: int) -> None:
        ref = self._maptrack.refs[handle]
        readonly = self._maptrack.flags[handle] == _READ_ONLY
        self._maptrack.free(handle)
        self._release(ref, readonly)

    def _release(self, ref: int, readonly: bool) -> None:
        table = self._table
        mfn = table.frames[ref]
        if not readonly and self._code_frames[mfn]:
            self._forget_code(mfn)
        table.give_back(mfn, not readonly)
        table.release(ref, HOST_READ if readonly else HOST_WRITE)

    def close(self) -> None:
        """Give up all mappings: the guest or the back end is gone.

        Views of the pages that are still in use stay valid: the memory is there while there are.
        """
        for handle in list(self._maptrack.handles()):
            self._give_back(handle)
        while self._segments:
            mapped = self._segments.pop()
            self._release_all(mapped.refs, mapped.readonly)

    # Mapping many at a time

    def map_segments(
        self, segments: Sequence[tuple[int, int, int]], readonly: bool
    ) -> MappedSegments:
        """Map the pages of segments, each (reference, first byte, end), or none.

        For a transfer: it costs a tenth of as many mappings, and there are no handles. Until
        ``unmap_segments``.
        """
        mapped = MappedSegments(readonly)
        refs, buffers = mapped.refs, mapped.buffers
        first = last = 0  # machine addresses of the piece that grows
        try:
            for ref, start, end in segments:
                if not 0 <= start < end <= PAGE_SIZE:
                    raise GrantError(GNTST_bad_copy_arg)
                address = self._take(ref, readonly) * PAGE_SIZE
                refs.append(ref)
                if address + start != last:
                    if last:
                        buffers.append(self._view(first, last, readonly))
                    first = address + start
                last = address + end
        except GrantError:
            self._release_all(refs, readonly)
            raise
        if last:
            buffers.append(self._view(first, last, readonly))
        self._segments.add(mapped)
        return mapped

    def _view(self, first: int, last: int, readonly: bool) -> memoryview:
        view = self._bytes[first:last]
        return view.toreadonly() if readonly else view

    def unmap_segments(self, mapped: MappedSegments) -> None:
        """Give them up. A second time does nothing.

        Raises BufferError while somebody still uses a buffer of them.
        """
        for buffer in mapped.buffers:
            buffer.release()
        if mapped in self._segments:
            self._segments.remove(mapped)
            self._release_all(mapped.refs, mapped.readonly)

    def _release_all(self, refs: list[int], readonly: bool) -> None:
        for ref in refs:
            self._release(ref, readonly)

    # Copying

    def copy_from(self, ref: int, offset: int, size: int) -> bytes:
        """``size`` bytes of a granted page."""
        start = self._place(ref, offset, size, writing=False)
        return bytes(self._bytes[start : start + size])

    def copy_to(self, ref: int, offset: int, data: Buffer) -> None:
        """Write bytes to a granted page."""
        view = memoryview(data).cast("B")
        self._store(self._place(ref, offset, len(view), writing=True), view, len(view))

    def gather(self, segments: Sequence[tuple[int, int, int]], target: memoryview) -> None:
        """Read segments, each (reference, offset, size), one after the other into a buffer.

        Raises ValueError if the buffer is shorter than they are.
        """
        done = 0
        for ref, offset, size in segments:
            start = self._place(ref, offset, size, writing=False)
            target[done : done + size] = self._bytes[start : start + size]
            done += size

    def read(self, segments: Sequence[tuple[int, int, int]]) -> bytes:
        """The bytes of segments, each (reference, offset, size), one after the other."""
        parts = []
        for ref, offset, size in segments:
            start = self._place(ref, offset, size, writing=False)
            parts.append(self._bytes[start : start + size])
        return b"".join(parts)

    def scatter(self, segments: Sequence[tuple[int, int, int]], data: memoryview) -> None:
        """Write consecutive bytes to segments, each (reference, offset, size).

        Raises ValueError if there are fewer bytes than the segments want.
        """
        done = 0
        for ref, offset, size in segments:
            start = self._place(ref, offset, size, writing=True)
            self._store(start, data[done : done + size], size)
            done += size

    def _place(self, ref: int, offset: int, size: int, *, writing: bool) -> int:
        """Machine address of a piece of a granted page, which may be used for this copy."""
        table = self._table
        mfn, first, end = table.check_copy(ref, self.domid, writing)
        if writing:
            table.check_writable(mfn)
        if not 0 <= size <= PAGE_SIZE - offset:
            raise GrantError(GNTST_bad_copy_arg)
        if offset < first or offset + size > end:
            raise GrantError(GNTST_general_error)
        return mfn * PAGE_SIZE + offset

    def _store(self, start: int, data: memoryview, size: int) -> None:
        self._bytes[start : start + size] = data
        mfn = start // PAGE_SIZE
        if size and self._code_frames[mfn]:
            self._forget_code(mfn)

    def held_frames(self) -> Iterator[tuple[int, int]]:
        """The frames of the mappings, each with its type, for the audit."""
        for handle in self._maptrack.handles():
            readonly = self._maptrack.flags[handle] == _READ_ONLY
            mfn = self._table.frames[self._maptrack.refs[handle]]
            yield mfn, NONE if readonly else WRITABLE
        for mapped in self._segments:
            for ref in mapped.refs:
                yield self._table.frames[ref], NONE if mapped.readonly else WRITABLE
