# SPDX-License-Identifier: GPL-2.0-or-later
"""The FIFO form of event channels: a word for each port, linked into queues by priority.

The guest gives Xen pages of its own for two things. The *event array* (``EVTCHNOP_expand_array``,
up to 128 pages) holds a 32-bit word for each port::

    31       30      29      28    16       0
    PENDING  MASKED  LINKED  BUSY  …  LINK

A *control block* for each vCPU (``EVTCHNOP_init_control``; the first one switches the domain to
this form) holds the heads of sixteen queues, one for each priority, and a bit for each queue in
``ready``. An event that is raised and not masked is linked to the end of the queue of its port's
priority and vCPU: the LINK of the last word names the next port. If the queue was empty, the head
names it, the queue's bit in ``ready`` is set, and the vCPU gets an upcall. The guest takes the most
urgent ready queue and follows its links, clearing LINKED and LINK of each word, then PENDING. A
link of 0 is the end.

Only Xen adds at a tail, which it remembers, and only the guest takes from a head. So Xen knows
that a queue is empty when the word of its tail is no longer LINKED. A port whose vCPU or priority
has changed stays in the old queue until the guest takes it from there; that is why a closed port
that is still LINKED is not given out again.

Xen proper needs BUSY and bounded retries against guests that change a word at the same moment.
Here no guest code runs while a word is changed, so BUSY is cleared as in Xen, and never set.

Reference: ``public/event_channel.h`` and the FIFO-based event channel ABI's design document.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from pyxen.abi.errno import EINVAL, ENOSPC
from pyxen.abi.event_channel import (
    EVTCHN_FIFO_BUSY,
    EVTCHN_FIFO_CONTROL_BLOCK,
    EVTCHN_FIFO_LINK_MASK,
    EVTCHN_FIFO_LINKED,
    EVTCHN_FIFO_MASKED,
    EVTCHN_FIFO_MAX_QUEUES,
    EVTCHN_FIFO_NR_CHANNELS,
    EVTCHN_FIFO_PENDING,
    EVTCHN_FIFO_PRIORITY_DEFAULT,
    EVTCHN_FIFO_PRIORITY_MIN,
)
from pyxen.errors import XenError
from pyxen.hypervisor.page_flags import PAGE_SHIFT, PAGE_SIZE
from pyxen.hypervisor.page_types import WRITABLE

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.events_ports import Ports

WORDS_PER_PAGE: Final = PAGE_SIZE // 4
_MAX_PAGES: Final = EVTCHN_FIFO_NR_CHANNELS // WORDS_PER_PAGE
_LAST_OFFSET: Final = PAGE_SIZE - EVTCHN_FIFO_CONTROL_BLOCK.size

_PENDING: Final = 1 << EVTCHN_FIFO_PENDING
_MASKED: Final = 1 << EVTCHN_FIFO_MASKED
_LINKED: Final = 1 << EVTCHN_FIFO_LINKED
_ALL: Final = 0xFFFFFFFF
_NOT_LINK: Final = _ALL & ~(1 << EVTCHN_FIFO_BUSY | EVTCHN_FIFO_LINK_MASK)

_FLAGS_BYTE: Final = 3
"""The highest byte of a word: it has the flags."""
_IS_LINKED: Final = bytes(flags >> EVTCHN_FIFO_LINKED - 24 & 1 for flags in range(256))

_READY: Final = EVTCHN_FIFO_CONTROL_BLOCK.offsets["ready"] // 4
_HEAD: Final = EVTCHN_FIFO_CONTROL_BLOCK.offsets["head"] // 4
_NO_WORD: Final = -1
_NO_BLOCK: Final = 0


class Fifo:
    """See ``events.PortOperations`` for the methods.

    ``pages`` are the frames of the event array, ``blocks[vcpu]`` the positions of the control
    blocks as indices of 32-bit words of machine memory (0: none), and ``tails[16 * vcpu +
    priority]`` the port that was last linked into a queue (0: none).
    """

    max_ports = EVTCHN_FIFO_NR_CHANNELS

    def __init__(self, domain: Domain, ports: Ports) -> None:
        self._domain = domain
        self._ports = ports
        self._bytes = domain.memory.bytes
        self._words = self._bytes.cast("I")
        vcpus = len(domain.vcpus)
        self.pages = array("Q")
        self.blocks = array("Q", bytes(8 * vcpus))
        self.tails = array("I", bytes(4 * vcpus * EVTCHN_FIFO_MAX_QUEUES))

    # The guest's pages

    def map_control_block(self, vcpu: int, mfn: int, offset: int) -> None:
        """Raises EINVAL for a place that is not good, or if the vCPU has a control block."""
        if offset > _LAST_OFFSET or offset & 7 or self.blocks[vcpu] != _NO_BLOCK:
            raise XenError(EINVAL)
        self._map(mfn)
        self.blocks[vcpu] = mfn * WORDS_PER_PAGE + offset // 4

    def add_page(self, mfn: int) -> range:
        """Add a page to the event array; returns the ports that have a word now.

        Raises ENOSPC when it is complete, EINVAL for a frame that is not good.
        """
        if len(self.pages) >= _MAX_PAGES:
            raise XenError(ENOSPC)
        self._map(mfn)
        first = len(self.pages) * WORDS_PER_PAGE
        self.pages.append(mfn)
        return range(first, first + WORDS_PER_PAGE)

    def _map(self, mfn: int) -> None:
        """Hold a frame of the domain's as a writable page. Raises EINVAL, whatever is wrong."""
        try:
            self._domain.pagetables.get_page_and_type(mfn, WRITABLE)
        except XenError:
            raise XenError(EINVAL) from None

    def release(self) -> None:
        """Give the guest its pages back."""
        for mfn, _ in self.held_frames():
            self._domain.pagetables.put_page_and_type(mfn)
        self.pages = array("Q")
        self.blocks = array("Q", bytes(8 * len(self.blocks)))

    def held_frames(self) -> Iterator[tuple[int, int]]:
        """The frames that are held, each as often as it is used, with their type."""
        for mfn in self.pages:
            yield mfn, WRITABLE
        for block in self.blocks:
            if block != _NO_BLOCK:
                yield block // WORDS_PER_PAGE, WRITABLE

    # Ports

    def init(self, number: int) -> None:
        self._ports.priority[number] = EVTCHN_FIFO_PRIORITY_DEFAULT

    def set_pending(self, number: int, vcpu: int) -> bool:
        position = self._position(number)
        if position == _NO_WORD:
            self._ports.missed[number] = 1
            return False
        if self.blocks[vcpu] == _NO_BLOCK:
            return False  # a guest does not unmask before; Xen drops the event too
        words = self._words
        word = words[position]
        if word & (_MASKED | _LINKED):
            words[position] = word | _PENDING
        else:
            words[position] = word | _PENDING | _LINKED
            self._link(number, vcpu)
        return not word & _PENDING

    def clear_pending(self, number: int) -> None:
        """The guest will find the port in its queue and pass over it."""
        self._ports.missed[number] = 0
        position = self._position(number)
        if position != _NO_WORD:
            self._words[position] &= _ALL ^ _PENDING

    def unmask(self, number: int) -> None:
        position = self._position(number)
        if position == _NO_WORD:
            return
        word = self._words[position] & ~_MASKED
        self._words[position] = word
        if word & _PENDING:
            self.set_pending(number, self._ports.vcpu[number])

    def is_pending(self, number: int) -> bool:
        position = self._position(number)
        return position != _NO_WORD and bool(self._words[position] & _PENDING)

    def is_masked(self, number: int) -> bool:
        position = self._position(number)
        return position == _NO_WORD or bool(self._words[position] & _MASKED)

    def show_state(self, number: int) -> str:
        """The port behind it, if it is linked; BUSY is never set."""
        position = self._position(number)
        if position == _NO_WORD:
            return "?     "
        word = self._words[position]
        return f"  {word & EVTCHN_FIFO_LINK_MASK if word & _LINKED else '-':<4}"

    def find_free(self) -> int:
        """A port that is LINKED is not free. A page at a time: the guest may have linked all."""
        lowest = self._ports.find_closed()
        for page in range(lowest // WORDS_PER_PAGE, len(self.pages)):
            first = page * WORDS_PER_PAGE
            states = self._ports.state[first : first + WORDS_PER_PAGE]
            size = len(states)
            start = self.pages[page] * PAGE_SIZE + _FLAGS_BYTE
            linked = bytes(self._bytes[start : start + 4 * size : 4]).translate(_IS_LINKED)
            taken = int.from_bytes(states, "little") | int.from_bytes(linked, "little")
            number = taken.to_bytes(size, "little").find(0)
            if number >= 0:
                return first + number
        return self._ports.find_closed(max(lowest, len(self.pages) * WORDS_PER_PAGE))

    def set_priority(self, number: int, priority: int) -> None:
        if priority > EVTCHN_FIFO_PRIORITY_MIN:
            raise XenError(EINVAL)
        self._ports.priority[number] = priority

    def _position(self, number: int) -> int:
        """Where the port's word is, or _NO_WORD while the guest has not given its page."""
        page = number >> (PAGE_SHIFT - 2)
        if page >= len(self.pages):
            return _NO_WORD
        return self.pages[page] * WORDS_PER_PAGE + number % WORDS_PER_PAGE

    def _link(self, number: int, vcpu: int) -> None:
        """Put a port, whose word is LINKED since now, at the end of its queue."""
        ports, tails, words = self._ports, self.tails, self._words
        priority = ports.priority[number]
        queue = vcpu * EVTCHN_FIFO_MAX_QUEUES + priority
        last = ports.last_vcpu[number] * EVTCHN_FIFO_MAX_QUEUES + ports.last_priority[number]
        if tails[last] == number:
            tails[last] = 0  # the guest has taken it, so that queue is empty
        ports.last_vcpu[number] = vcpu
        ports.last_priority[number] = priority
        tail = tails[queue]
        tails[queue] = number
        if tail:
            position = self._position(tail)
            word = words[position]
            if word & _LINKED:
                words[position] = word & _NOT_LINK | number
                return
        block = self.blocks[vcpu]
        words[block + _HEAD + priority] = number
        ready = words[block + _READY]
        if not ready >> priority & 1:
            words[block + _READY] = ready | 1 << priority
            self._domain.vcpus[vcpu].mark_events_pending()
