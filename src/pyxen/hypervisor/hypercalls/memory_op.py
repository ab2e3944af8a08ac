# SPDX-License-Identifier: GPL-2.0-or-later
"""memory_op: more memory, less memory, and questions about it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from pyxen.abi import memory as abi
from pyxen.abi.arch_x86_64 import ARCH_SHARED_INFO, MACH2PHYS_VIRT_START
from pyxen.abi.errno import EFAULT, EINVAL, ENOSYS, EPERM, ESRCH
from pyxen.abi.xen import SHARED_INFO, HYPERVISOR_memory_op
from pyxen.errors import XenError
from pyxen.hypervisor import guest_access
from pyxen.hypervisor.hypercalls.table import hypercall
from pyxen.hypervisor.page_flags import PAGE_SIZE

if TYPE_CHECKING:
    from pyxen.abi.layout import Layout
    from pyxen.hypervisor.vcpu import Vcpu

_NAMES: Final = {number: f"memory_op.{name}" for number, name in abi.XENMEM_NAMES.items()}
_COMMAND: Final = 0x3F
_START_EXTENT_SHIFT: Final = 6
_MAX_EXTENTS: Final = 0xFFFFFFFF >> _START_EXTENT_SHIFT
_LARGE_PAGE: Final = 0x200000
_MAX_PFN: Final = SHARED_INFO.offsets["arch"] + ARCH_SHARED_INFO.offsets["max_pfn"]


@hypercall(HYPERVISOR_memory_op)
def memory_op(vcpu: Vcpu, command: int, argument: int) -> int:
    """The bits above the sub-operation say at which extent a continued call goes on."""
    start_extent = command >> _START_EXTENT_SHIFT
    command &= _COMMAND
    vcpu.domain.counters.add_operation(_NAMES.get(command, "memory_op.unknown"))
    if command in _RESERVATIONS:
        return _reservation(vcpu, command, argument, start_extent)
    if start_extent:
        raise XenError(EINVAL if command in _SIMPLE_QUESTIONS else ENOSYS)
    operation = _QUESTIONS.get(command)
    if operation is None:
        if command in abi.XENMEM_NAMES:
            vcpu.domain.report_once(f"{_NAMES[command]} is not implemented: -ENOSYS")
        raise XenError(ENOSYS)
    return operation(vcpu, argument)


def _read(vcpu: Vcpu, layout: Layout, argument: int) -> tuple[int, ...]:
    return layout.unpack(guest_access.copy_from(vcpu, argument, layout.size))


# The reservation


def _reservation(vcpu: Vcpu, command: int, argument: int, start: int) -> int:
    """Returns the number of extents done, which is less than asked for when one was refused.

    There are no errors, not even for a bad pointer.
    """
    try:
        extents, count, order, _flags, domid = _read(vcpu, abi.XEN_MEMORY_RESERVATION, argument)
    except XenError:
        return start
    if not vcpu.domain.is_self(domid) or count > _MAX_EXTENTS:
        return start
    if order:  # extents of more than a page are for those who build domains
        return start
    change = _RESERVATIONS[command]
    done = start
    with suppress(XenError):
        while done < count:
            change(vcpu, extents, done)
            done += 1
    return done


def _populate(vcpu: Vcpu, extents: int, number: int) -> None:
    """A frame for the pfn in the list, which becomes the frame's mfn."""
    if not extents:
        raise XenError(EFAULT)
    address = extents + 8 * number
    (pfn,) = guest_access.read_words(vcpu, address, 1)
    memory = vcpu.domain.memory
    mfn = memory.allocate()
    memory.m2p[mfn] = pfn
    try:
        guest_access.write_word(vcpu, address, mfn)
    except XenError:
        memory.release(mfn)
        raise


def _increase(vcpu: Vcpu, extents: int, number: int) -> None:
    """A frame without a pfn; the list, if there is one, gets its mfn."""
    memory = vcpu.domain.memory
    mfn = memory.allocate()
    if extents:
        try:
            guest_access.write_word(vcpu, extents + 8 * number, mfn)
        except XenError:
            memory.release(mfn)
            raise


def _decrease(vcpu: Vcpu, extents: int, number: int) -> None:
    """Give back the frame whose mfn is in the list."""
    (mfn,) = guest_access.read_words(vcpu, extents + 8 * number, 1)
    vcpu.domain.memory.release(mfn)


_RESERVATIONS: Final[dict[int, Callable[[Vcpu, int, int], None]]] = {
    abi.XENMEM_increase_reservation: _increase,
    abi.XENMEM_decrease_reservation: _decrease,
    abi.XENMEM_populate_physmap: _populate,
}

# Questions


def _check_domid(vcpu: Vcpu, argument: int) -> None:
    (domid,) = _read(vcpu, abi.XEN_MEMORY_DOMAIN, argument)
    if not vcpu.domain.is_self(domid):
        raise XenError(EPERM if domid == 0 else ESRCH)


def _current_reservation(vcpu: Vcpu, argument: int) -> int:
    _check_domid(vcpu, argument)
    return vcpu.domain.memory.nr_pages


def _maximum_reservation(vcpu: Vcpu, argument: int) -> int:
    _check_domid(vcpu, argument)
    return vcpu.domain.memory.max_pages


def _maximum_gpfn(vcpu: Vcpu, argument: int) -> int:
    """Of a PV guest only the guest knows: it has told in its shared info."""
    _check_domid(vcpu, argument)
    memory = vcpu.domain.memory
    max_pfn = memory.words[(memory.shared_info_mfn * PAGE_SIZE + _MAX_PFN) >> 3]
    return max(max_pfn, 1) - 1


def _maximum_ram_page(vcpu: Vcpu, argument: int) -> int:
    return vcpu.domain.memory.frames


def _machphys_mapping(vcpu: Vcpu, argument: int) -> int:
    memory = vcpu.domain.memory
    size = -(-memory.frames * 8 // _LARGE_PAGE) * _LARGE_PAGE
    mapping = abi.XEN_MACHPHYS_MAPPING.pack(
        MACH2PHYS_VIRT_START, MACH2PHYS_VIRT_START + size, size // 8 - 1
    )
    guest_access.copy_to(vcpu, argument, mapping)
    return 0


def _machphys_mfn_list(vcpu: Vcpu, argument: int) -> int:
    """The frames of the table, one of each 2 MiB. Only Xen may map them."""
    maximum, extents, _ = _read(vcpu, abi.XEN_MACHPHYS_MFN_LIST, argument)
    mfns = vcpu.domain.memory.m2p_mfns()[:maximum]
    for number, mfn in enumerate(mfns):
        guest_access.write_word(vcpu, extents + 8 * number, mfn)
    offset = abi.XEN_MACHPHYS_MFN_LIST.offsets["nr_extents"]
    guest_access.write_u32(vcpu, argument + offset, len(mfns))
    return 0


def _memory_map(vcpu: Vcpu, argument: int) -> int:
    """One region: all that the domain may have."""
    entries, buffer = _read(vcpu, abi.XEN_MEMORY_MAP, argument)
    size = vcpu.domain.memory.max_pages * PAGE_SIZE
    if entries:
        guest_access.copy_to(vcpu, buffer, abi.E820_ENTRY.pack(0, size, abi.E820_RAM))
    guest_access.write_u32(vcpu, argument, min(entries, 1))
    return 0


def _machine_memory_map(vcpu: Vcpu, argument: int) -> int:
    raise XenError(EPERM)


_SIMPLE_QUESTIONS: Final = (
    abi.XENMEM_current_reservation,
    abi.XENMEM_maximum_reservation,
    abi.XENMEM_maximum_gpfn,
    abi.XENMEM_maximum_ram_page,
)
_QUESTIONS: Final[dict[int, Callable[[Vcpu, int], int]]] = {
    abi.XENMEM_current_reservation: _current_reservation,
    abi.XENMEM_maximum_reservation: _maximum_reservation,
    abi.XENMEM_maximum_gpfn: _maximum_gpfn,
    abi.XENMEM_maximum_ram_page: _maximum_ram_page,
    abi.XENMEM_machphys_mapping: _machphys_mapping,
    abi.XENMEM_machphys_mfn_list: _machphys_mfn_list,
    abi.XENMEM_memory_map: _memory_map,
    abi.XENMEM_machine_memory_map: _machine_memory_map,
}
