# SPDX-License-Identifier: GPL-2.0-or-later
"""The part of memory_op that changes how much memory a domain has, and which.

A domain gives frames back (``decrease_reservation``: a balloon inflates), gets new ones for pfns
that it names (``populate_physmap``) or without (``increase_reservation``), and swaps frames for
others in larger or smaller pieces (``exchange``). Lists hold *extents*: frame numbers, each the
first of 2**order frames. A domain has at most its ``max_pages``; a frame that is still in use, as
a table or by a mapping, stays the domain's until the last use has gone.

The first three have no errors: they return how many extents were done. All give way to events
between two extents (``continuation``).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pyxen.abi import memory as abi
from pyxen.abi.errno import EFAULT, EINVAL, EPERM
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.continuation import Continuation
from pyxen.hypervisor.page_flags import PAGE_SHIFT

if TYPE_CHECKING:
    from pyxen.hypervisor.domain import Domain
    from pyxen.hypervisor.memory import Memory
    from pyxen.hypervisor.vcpu import Vcpu

RESERVATIONS: Final = (
    abi.XENMEM_increase_reservation,
    abi.XENMEM_decrease_reservation,
    abi.XENMEM_populate_physmap,
)
MAX_ORDER: Final = 9
"""Of an unprivileged domain's extents: 2 MiB."""

_START_EXTENT_SHIFT: Final = 6
_MAX_EXTENTS: Final = 0xFFFFFFFF >> _START_EXTENT_SHIFT
_NR_EXCHANGED: Final = abi.XEN_MEMORY_EXCHANGE.offsets["nr_exchanged"]


def change(vcpu: Vcpu, command: int, argument: int, start: int) -> int:
    """Increase, decrease or populate, from extent ``start`` on.

    Returns the number of extents done, which is less than asked for when one was refused.
    """
    domain = vcpu.domain
    layout = abi.XEN_MEMORY_RESERVATION
    done = start
    with suppress(XenError):
        reservation = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
        extents, count, order, flags, domid = reservation
        if count > _MAX_EXTENTS or start >= count or order > MAX_ORDER:
            return start
        domain.check_is_self(domid)
        limit = _frame_limit(domain, flags)
        if flags & abi.XENMEMF_populate_on_demand and command == abi.XENMEM_populate_physmap:
            return start
        if extents or command != abi.XENMEM_increase_reservation:
            guest_access.check_handle(extents)
        while done < count:
            if done > start and domain.preempt_check(vcpu):
                raise Continuation(command | done << _START_EXTENT_SHIFT, argument)
            if command == abi.XENMEM_decrease_reservation:
                _decrease(vcpu, extents + 8 * done, order)
            elif command == abi.XENMEM_populate_physmap:
                _populate(vcpu, extents + 8 * done, order, limit)
            else:
                _increase(vcpu, extents + 8 * done if extents else 0, order, limit)
            done += 1
    return done


def _frame_limit(domain: Domain, flags: int) -> int:
    """New frames are to lie below this one.

    Raises EINVAL for less than a page, and for a node of the machine, which is not a guest's to
    choose.
    """
    exact = flags & (abi.XENMEMF_exact_node_request | abi.XENMEMF_vnode)
    if exact == abi.XENMEMF_exact_node_request and flags >> abi.XENMEMF_NODE_SHIFT & 0xFF:
        raise XenError(EINVAL)
    bits = flags & abi.XENMEMF_ADDRESS_BITS_MASK
    frames = domain.memory.frames
    if not bits or bits >= (frames - 1).bit_length() + PAGE_SHIFT:
        return frames
    if bits <= PAGE_SHIFT:
        raise XenError(EINVAL)
    return 1 << (bits - PAGE_SHIFT)


def _populate(vcpu: Vcpu, place: int, order: int, limit: int) -> None:
    """Frames for the pfns from that in the list on, which gets the first one's mfn."""
    (pfn,) = guest_access.read_words(vcpu, place, 1)
    memory = vcpu.domain.memory
    mfn = memory.allocate(order, limit)
    _enter_into_m2p(memory, mfn, pfn, order)
    # As under Xen the frames are the domain's, even if it cannot be told.
    guest_access.write_word(vcpu, place, mfn)


def _increase(vcpu: Vcpu, place: int, order: int, limit: int) -> None:
    """Frames without a pfn; the list, if there is one, gets the mfn."""
    mfn = vcpu.domain.memory.allocate(order, limit)
    if place:
        guest_access.write_word(vcpu, place, mfn)


def _decrease(vcpu: Vcpu, place: int, order: int) -> None:
    """Give back the frames from that in the list on."""
    (first,) = guest_access.read_words(vcpu, place, 1)
    for mfn in range(first, first + (1 << order)):
        vcpu.domain.memory.release(mfn)


# Exchange


def exchange(vcpu: Vcpu, argument: int) -> int:
    """Swap extents of one order for extents of another one, chunk by chunk.

    A chunk is what makes up one extent of the larger order. ``nr_exchanged`` of the guest's
    structure says how many input extents are done. Raises EPERM for too large an order, EINVAL
    for lists that do not fit or frames that are in use, ENOMEM, EFAULT, ESRCH.
    """
    layout = abi.XEN_MEMORY_EXCHANGE
    given, taken, exchanged = layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))
    request = _Exchange(vcpu, given, taken, exchanged)
    try:
        request.check()
        while request.exchanged < request.count:
            request.exchange_chunk()
            if request.exchanged < request.count and vcpu.domain.preempt_check(vcpu):
                raise Continuation(abi.XENMEM_exchange, argument)
    finally:
        if request.exchanged != exchanged or request.exchanged < request.count:
            guest_access.write_word(vcpu, argument + _NR_EXCHANGED, request.exchanged)
    return 0


class _Exchange:
    """One ``xen_memory_exchange``, ``exchanged`` of whose ``count`` input extents are done."""

    def __init__(self, vcpu: Vcpu, given: bytes, taken: bytes, exchanged: int) -> None:
        self._vcpu = vcpu
        self._domain = vcpu.domain
        layout = abi.XEN_MEMORY_RESERVATION
        self._in_list, self.count, self._in_order, _, self._in_domid = layout.unpack(given)
        self._out_list, self._out_count, self._out_order, self._flags, self._out_domid = (
            layout.unpack(taken)
        )
        self.exchanged = exchanged

    def check(self) -> None:
        """Raises EPERM, EINVAL, EFAULT, ESRCH."""
        if max(self._in_order, self._out_order) > MAX_ORDER:
            raise XenError(EPERM)
        frames = self.count << self._in_order
        if (
            self.exchanged > self.count
            or self._in_domid != self._out_domid
            or frames >> 64
            or frames != self._out_count << self._out_order
        ):
            raise XenError(EINVAL)
        if self.exchanged == self.count:
            return
        guest_access.check_handle(self._in_list)
        guest_access.check_handle(self._out_list)
        self._limit = _frame_limit(self._domain, self._flags)
        self._domain.check_is_self(self._in_domid)
        self._ins = 1 << max(0, self._out_order - self._in_order)
        self._outs = 1 << max(0, self._in_order - self._out_order)
        self.exchanged -= self.exchanged % self._ins

    def exchange_chunk(self) -> None:
        """Exchange what makes up one extent of the larger order."""
        old = self._find_input()
        new = self._allocate_output()
        for mfn in old:
            self._domain.memory.release(mfn)
        first_out = self.exchanged // self._ins * self._outs
        failed = False
        for number, mfn in enumerate(new):
            try:
                self._assign(self._out_list + 8 * (first_out + number), mfn)
            except XenError:
                failed = True  # the frames are the domain's all the same
        if failed:
            raise XenError(EFAULT)
        self.exchanged += self._ins

    def _find_input(self) -> list[int]:
        """The frames of a chunk: each the domain's, without any use, and named once."""
        frames: list[int] = []
        for number in range(self._ins):
            place = self._in_list + 8 * (self.exchanged + number)
            (first,) = guest_access.read_words(self._vcpu, place, 1)
            frames.extend(range(first, first + (1 << self._in_order)))
        memory = self._domain.memory
        if len(set(frames)) < len(frames) or not all(memory.is_unused(mfn) for mfn in frames):
            raise XenError(EINVAL)
        return frames

    def _allocate_output(self) -> list[int]:
        memory = self._domain.memory
        new: list[int] = []
        try:
            for _ in range(self._outs):
                new.append(memory.take_free(self._out_order, self._limit))
        except XenError:
            for first in new:
                for mfn in range(first, first + (1 << self._out_order)):
                    memory.release(mfn)
            raise
        return new

    def _assign(self, place: int, mfn: int) -> None:
        (pfn,) = guest_access.read_words(self._vcpu, place, 1)
        _enter_into_m2p(self._domain.memory, mfn, pfn, self._out_order)
        guest_access.write_word(self._vcpu, place, mfn)


def _enter_into_m2p(memory: Memory, mfn: int, pfn: int, order: int) -> None:
    for number in range(1 << order):
        memory.m2p[mfn + number] = pfn + number & 0xFFFFFFFFFFFFFFFF
