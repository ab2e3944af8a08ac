# SPDX-License-Identifier: GPL-2.0-or-later
"""The ring of a paravirtual console, as xenconsoled serves it in dom0.

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
from typing import Final

from pyxen.abi.io_console import XENCONS_IN_SIZE, XENCONS_INTERFACE, XENCONS_OUT_SIZE

log = logging.getLogger("pyxen")

PAGE_SIZE = 4096

_IN_OFFSET = XENCONS_INTERFACE.offsets["in"]
_OUT_OFFSET = XENCONS_INTERFACE.offsets["out"]

# Places in the page seen as 32-bit words.
_IN_CONS = XENCONS_INTERFACE.offsets["in_cons"] // 4
_IN_PROD = XENCONS_INTERFACE.offsets["in_prod"] // 4
_OUT_CONS = XENCONS_INTERFACE.offsets["out_cons"] // 4
_OUT_PROD = XENCONS_INTERFACE.offsets["out_prod"] // 4

_INDEX_MASK = 0xFFFF_FFFF

COUNTERS: Final = ("bytes_out", "bytes_in", "events", "overruns")
"""What is counted: bytes that the guest has written and ``output`` has received, those that were
put into the input ring (what still waits is not), notifications of the guest, and how often a pair
of indexes was further apart than its ring is large."""


class ConsoleRing:
    """Serves the ring page of one console.

    Args:
        page: the shared page, a writable view of 4096 bytes.
        notify: sends the console's event to the guest. Called without a lock held, in whichever
            thread called us.
        output: receives the guest's output. May block; the guest's ring is not released before it
            has returned, so what it raises loses nothing.
        counters: where to count, see COUNTERS.
        broken: called with what is wrong each time when a pair of indexes makes no sense. Without
            it the ring is left alone meanwhile, as xenconsoled does, which is logged once.
        has_room: whether output is taken now. Whoever says no calls ``drain`` later.

    ``on_event`` and ``drain`` are meant for the thread that runs the vCPUs, ``write_input`` for any
    thread: the input side and the output side have a lock each. The input lock is held only for
    copies within one ring, the output lock while ``output`` runs (it keeps the output in order).
    """

    def __init__(
        self,
        page: memoryview,
        notify: Callable[[], None],
        output: Callable[[bytes], None],
        counters: dict[str, int] | None = None,
        *,
        broken: Callable[[str], None] | None = None,
        has_room: Callable[[], bool] = lambda: True,
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
        self.counters = dict.fromkeys(COUNTERS, 0) if counters is None else counters
        self._broken = broken or self._tell_once
        self._told = False
        self._has_room = has_room

    def on_event(self) -> None:
        """Serve a notification of the guest: take its output, give it the input that now fits."""
        self.counters["events"] += 1
        drained = self._has_room() and self._take_output()
        with self._in_lock:
            delivered = self._fill_input_ring()
        if drained or delivered:
            self._notify()

    def drain(self) -> None:
        """Take what is in the output ring, without a question for room.

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
            self.counters["bytes_out"] += size
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
        self.counters["bytes_in"] += size
        self._words[_IN_PROD] = (prod + size) & _INDEX_MASK
        return True

    def _count_overrun(self, ring: str, cons: int, prod: int) -> None:
        """Note indexes that make no sense."""
        self.counters["overruns"] += 1
        self._broken(f"the guest broke its {ring} ring (cons {cons:#x}, prod {prod:#x})")

    def _tell_once(self, message: str) -> None:
        if not self._told:
            self._told = True
            log.warning("console: %s; it is not served while it is so", message)
