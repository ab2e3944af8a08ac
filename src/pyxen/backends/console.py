# SPDX-License-Identifier: GPL-2.0-or-later
"""The back end of the paravirtual console: what xenconsoled does in dom0.

A domain's console is one page of its memory, shared with the back end, and one event channel
(``struct xencons_interface`` in Xen's ``public/io/console.h``)::

    offset    0   in[1024]    input, written by the back end, read by the guest
           1024   out[2048]   output, written by the guest, read by the back end
           3072   in_cons     little-endian 32-bit indexes: the consumer and the producer
           3076   in_prod     of each ring
           3080   out_cons
           3084   out_prod

The indexes run freely and wrap at 2**32; their low bits are the place in the ring. So
``prod - cons`` (modulo 2**32) is the number of bytes in a ring, and more than the ring's size
means that somebody wrote nonsense. A producer first writes the data and then its ``prod``; a
consumer first reads the data and then writes its ``cons``. Whoever has moved an index tells the
other side through the event channel: the guest after output and after it has taken input, the
back end likewise.

The page belongs to the guest, which may write anything to it at any time. Each index is therefore
read once, checked, and used from our copy.

The order of our accesses is the order of the statements: x86 keeps stores in order, and each access
of the memoryview is one store or load of an aligned word.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from pyxen.abi.io_console import XENCONS_IN_SIZE, XENCONS_INTERFACE, XENCONS_OUT_SIZE

log = logging.getLogger(__name__)

PAGE_SIZE = 4096

_IN_OFFSET = XENCONS_INTERFACE.offsets["in"]
_OUT_OFFSET = XENCONS_INTERFACE.offsets["out"]

# Places in the page seen as 32-bit words.
_IN_CONS = XENCONS_INTERFACE.offsets["in_cons"] // 4
_IN_PROD = XENCONS_INTERFACE.offsets["in_prod"] // 4
_OUT_CONS = XENCONS_INTERFACE.offsets["out_cons"] // 4
_OUT_PROD = XENCONS_INTERFACE.offsets["out_prod"] // 4

_INDEX_MASK = 0xFFFF_FFFF


@dataclass(frozen=True)
class ConsoleStatistics:
    """What has passed through a console so far."""

    bytes_out: int
    """Bytes that the guest has written and ``output`` has received."""
    bytes_in: int
    """Bytes that were put into the input ring (what still waits is not counted)."""
    events: int
    """Notifications received from the guest."""
    overruns: int
    """How often a pair of indexes was further apart than its ring is large."""


class ConsoleBackend:
    """Serves the ring page of one console.

    Args:
        page: the shared page, a writable view of 4096 bytes.
        notify: sends the console's event to the guest. Called without a lock held, in whichever
            thread called us.
        output: receives the guest's output. May block; the guest's ring is not released before it
            has returned, so what it raises loses nothing.

    ``on_event`` and ``drain`` are meant for the thread that runs the vCPUs, ``write_input`` for any
    thread: the input side and the output side have a lock each. The input lock is held only for
    copies within one ring, the output lock while ``output`` runs (it keeps the output in order).
    """

    def __init__(
        self,
        page: memoryview,
        notify: Callable[[], None],
        output: Callable[[bytes], None],
    ) -> None:
        if page.nbytes != PAGE_SIZE or page.readonly:
            raise ValueError(f"console ring: a writable page of {PAGE_SIZE} bytes is expected")
        self._bytes = page.cast("B")
        self._words = self._bytes.cast("I")
        self._notify = notify
        self._output = output
        self._out_lock = threading.Lock()
        self._in_lock = threading.Lock()
        self._queue = bytearray()
        self._bytes_out = 0
        self._bytes_in = 0
        self._events = 0
        self._overruns = 0

    def on_event(self) -> None:
        """Serve a notification of the guest: take its output, give it the input that now fits."""
        self._events += 1
        drained = self._take_output()
        with self._in_lock:
            delivered = self._fill_input_ring()
        if drained or delivered:
            self._notify()

    def drain(self) -> None:
        """Take what is in the output ring.

        Needs no event, and may be called after the guest has ended (its last output is still in
        the page then).
        """
        if self._take_output():
            self._notify()

    def write_input(self, data: bytes) -> None:
        """Give input to the guest: at once what fits into the ring, the rest when it has room.

        Nothing is dropped: see ``pending_input`` to hold a fast source back. Safe in any thread.
        """
        with self._in_lock:
            self._queue += data
            delivered = self._fill_input_ring()
        if delivered:
            self._notify()

    def pending_input(self) -> int:
        """The number of bytes of input that wait for room in the ring."""
        return len(self._queue)

    def statistics(self) -> ConsoleStatistics:
        """A snapshot of the counters."""
        return ConsoleStatistics(
            bytes_out=self._bytes_out,
            bytes_in=self._bytes_in,
            events=self._events,
            overruns=self._overruns,
        )

    def _take_output(self) -> bool:
        """Move the output ring's content to ``output``; whether there was any."""
        with self._out_lock:
            cons = self._words[_OUT_CONS]
            prod = self._words[_OUT_PROD]
            size = (prod - cons) & _INDEX_MASK
            if size == 0:
                return False
            if size > XENCONS_OUT_SIZE:
                self._count_overrun("out", cons, prod)
                return False
            start = cons % XENCONS_OUT_SIZE
            ring = self._bytes[_OUT_OFFSET : _OUT_OFFSET + XENCONS_OUT_SIZE]
            data = bytes(ring[start : start + size])
            data += ring[: size - len(data)]
            self._output(data)
            self._bytes_out += size
            self._words[_OUT_CONS] = prod
            return True

    def _fill_input_ring(self) -> bool:
        """Move queued input into the ring (with the input lock held); whether any was moved."""
        if not self._queue:
            return False
        cons = self._words[_IN_CONS]
        prod = self._words[_IN_PROD]
        used = (prod - cons) & _INDEX_MASK
        if used > XENCONS_IN_SIZE:
            self._count_overrun("in", cons, prod)
            return False
        size = min(XENCONS_IN_SIZE - used, len(self._queue))
        if size == 0:
            return False
        start = prod % XENCONS_IN_SIZE
        first = min(size, XENCONS_IN_SIZE - start)
        ring = self._bytes[_IN_OFFSET : _IN_OFFSET + XENCONS_IN_SIZE]
        ring[start : start + first] = self._queue[:first]
        ring[: size - first] = self._queue[first:size]
        del self._queue[:size]
        self._bytes_in += size
        self._words[_IN_PROD] = (prod + size) & _INDEX_MASK
        return True

    def _count_overrun(self, ring: str, cons: int, prod: int) -> None:
        """Note indexes that make no sense; as in xenconsoled the ring is left alone meanwhile."""
        self._overruns += 1
        if self._overruns == 1:
            log.warning(
                "console: the guest broke its %s ring (cons %#x, prod %#x); "
                "it is not served while it is so",
                ring,
                cons,
                prod,
            )


class Scrollback:
    """The last output of a console, for whoever comes later: a reader, a crash report.

    Args:
        limit: how many bytes are kept.
    """

    def __init__(self, limit: int = 256 * 1024) -> None:
        if limit <= 0:
            raise ValueError("scrollback: the limit must be positive")
        self._limit = limit
        self._buffer = bytearray()

    def append(self, data: bytes) -> None:
        """Add output; the oldest bytes beyond the limit are forgotten."""
        self._buffer += data
        # Cut rarely, so that an append does not move the whole window each time.
        if len(self._buffer) > 2 * self._limit:
            del self._buffer[: -self._limit]

    def contents(self) -> bytes:
        """The last bytes, at most the limit."""
        return bytes(self._buffer[-self._limit :])

    def tail(self, lines: int) -> str:
        """The last lines as text, without carriage returns; undecodable bytes are replaced."""
        text = self.contents().decode("utf-8", "replace").replace("\r", "")
        return "\n".join(text.rstrip("\n").split("\n")[-lines:])
