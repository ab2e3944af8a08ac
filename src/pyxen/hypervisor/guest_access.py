# SPDX-License-Identifier: GPL-2.0-or-later
"""Copying to and from guest memory by linear address.

A hypercall's pointers are linear addresses of the guest kernel. They are translated by walking the
page tables that the guest kernel runs on, as the CPU would: an address that is not mapped, not
writable when it is written to, not canonical, or Xen's own gives EFAULT. Nothing is cached: the
guest may change its tables at any time.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from pyxen.abi.arch_x86_64 import HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START
from pyxen.abi.errno import EFAULT
from pyxen.errors import XenError
from pyxen.hypervisor.addresses import is_guest_address
from pyxen.hypervisor.page_flags import FRAME, PAGE_SIZE, PRESENT, PSE, RW

if TYPE_CHECKING:
    from pyxen.hypervisor.vcpu import Vcpu

NOT_MAPPED: Final = -1
_LOW_END: Final = 0x0000800000000000
_HIGH_START: Final = 0xFFFF800000000000
_END: Final = 1 << 64
_WORD: Final = 0xFFFFFFFFFFFFFFFF


def translate(words: memoryview, table: int, address: int, needed: int) -> int:
    """Machine address of a linear one, or NOT_MAPPED.

    ``table`` is the machine address of the L4 table; all entries must have the ``needed`` bits.
    """
    try:
        entry = words[(table >> 3) + (address >> 39 & 511)]
        if entry & needed != needed:
            return NOT_MAPPED
        entry = words[((entry & FRAME) >> 3) + (address >> 30 & 511)]
        if entry & needed != needed or entry & PSE:
            return NOT_MAPPED
        entry = words[((entry & FRAME) >> 3) + (address >> 21 & 511)]
        if entry & needed != needed:
            return NOT_MAPPED
        if entry & PSE:
            return (entry & 0x000FFFFFFFE00000) | (address & 0x1FFFFF)
        entry = words[((entry & FRAME) >> 3) + (address >> 12 & 511)]
        if entry & needed != needed:
            return NOT_MAPPED
    except IndexError:  # an entry that points outside the machine
        return NOT_MAPPED
    return int(entry & FRAME) | address & 0xFFF


def check_handle(address: int) -> None:
    """Whether a list of the guest's may begin there; of its length Xen takes no notice.

    Raises EFAULT. Source: ``guest_handle_okay`` of Xen.
    """
    if not is_guest_address(address):
        raise XenError(EFAULT)


def _check_range(address: int, size: int) -> None:
    end = address + size
    if address < _LOW_END:
        if end > _LOW_END:
            raise XenError(EFAULT)
    elif (
        address < _HIGH_START
        or end > _END
        or (address < HYPERVISOR_VIRT_END and end > HYPERVISOR_VIRT_START)
    ):
        raise XenError(EFAULT)


def _machine(vcpu: Vcpu, address: int, needed: int) -> int:
    machine = translate(vcpu.words, vcpu.cpu.kernel_page_table, address, needed)
    if machine == NOT_MAPPED or machine >> 3 >= len(vcpu.words):
        raise XenError(EFAULT)
    return machine


def copy_from(vcpu: Vcpu, address: int, size: int) -> bytes:
    """``size`` bytes at a linear address of the guest kernel. Raises EFAULT."""
    if not size:
        return b""
    _check_range(address, size)
    view = vcpu.domain.memory.bytes
    room = PAGE_SIZE - (address & 0xFFF)
    if size <= room:
        machine = _machine(vcpu, address, PRESENT)
        return bytes(view[machine : machine + size])
    parts = []
    while size:
        part = min(size, PAGE_SIZE - (address & 0xFFF))
        machine = _machine(vcpu, address, PRESENT)
        parts.append(bytes(view[machine : machine + part]))
        address += part
        size -= part
    return b"".join(parts)


def copy_to(vcpu: Vcpu, address: int, data: bytes) -> None:
    """Write to a linear address of the guest kernel. Raises EFAULT, maybe after a part."""
    size = len(data)
    if not size:
        return
    _check_range(address, size)
    view = vcpu.domain.memory.bytes
    done = 0
    while done < size:
        part = min(size - done, PAGE_SIZE - (address & 0xFFF))
        machine = _machine(vcpu, address, PRESENT | RW)
        view[machine : machine + part] = data[done : done + part]
        if vcpu.code_frames[machine >> 12]:
            vcpu.domain.forget_code(machine >> 12)
        address += part
        done += part


def copy_to_area(vcpu: Vcpu, address: int, data: bytes) -> None:
    """Write to what the vCPU's tables of the moment map, be they those of user mode. EFAULT."""
    cpu = vcpu.cpu
    table = cpu.user_page_table if cpu.user_mode else cpu.kernel_page_table
    memory = vcpu.domain.memory
    _check_range(address, len(data))
    while data:
        part = PAGE_SIZE - (address & 0xFFF)
        machine = translate(vcpu.words, table, address, PRESENT | RW)
        if machine == NOT_MAPPED or machine >= memory.frames * PAGE_SIZE:
            raise XenError(EFAULT)
        memory.bytes[machine : machine + len(data[:part])] = data[:part]
        address += part
        data = data[part:]


def find_words(vcpu: Vcpu, address: int, count: int) -> int:
    """Position in ``memory.words`` of aligned 64-bit words in one page, or NOT_MAPPED.

    For words that are read once, in place. Others are copied to the bounce page of ``memory``.
    """
    if address & 7 == 0 and (address & 0xFFF) + 8 * count <= PAGE_SIZE:
        if _LOW_END <= address < HYPERVISOR_VIRT_END:
            return NOT_MAPPED
        machine = translate(vcpu.words, vcpu.cpu.kernel_page_table, address, PRESENT)
        if machine == NOT_MAPPED or machine >> 3 >= len(vcpu.words):
            return NOT_MAPPED
        return machine >> 3
    memory = vcpu.domain.memory
    try:
        data = copy_from(vcpu, address, 8 * count)
    except XenError:
        return NOT_MAPPED
    start = memory.bounce_mfn * PAGE_SIZE
    memory.bytes[start : start + len(data)] = data
    return start >> 3


def read_words(vcpu: Vcpu, address: int, count: int) -> list[int]:
    """``count`` 64-bit words. Raises EFAULT."""
    if not count:
        return []
    if address & 7 == 0 and (address & 0xFFF) + 8 * count <= PAGE_SIZE:
        _check_range(address, 8 * count)
        first = _machine(vcpu, address, PRESENT) >> 3
        return vcpu.domain.memory.words[first : first + count].tolist()
    return list(struct.unpack(f"<{count}Q", copy_from(vcpu, address, 8 * count)))


def write_word(vcpu: Vcpu, address: int, value: int) -> None:
    """One 64-bit word, unsigned or signed. Raises EFAULT."""
    if address & 7 or address > _WORD:
        copy_to(vcpu, address, struct.pack("<Q", value & _WORD))
    else:
        _write_aligned(vcpu, address, value & _WORD)


def _write_aligned(vcpu: Vcpu, address: int, value: int) -> None:
    if _LOW_END <= address < HYPERVISOR_VIRT_END:
        raise XenError(EFAULT)
    machine = _machine(vcpu, address, PRESENT | RW)
    vcpu.words[machine >> 3] = value
    if vcpu.code_frames[machine >> 12]:
        vcpu.domain.forget_code(machine >> 12)


def write_u32(vcpu: Vcpu, address: int, value: int) -> None:
    """One 32-bit word. Raises EFAULT."""
    copy_to(vcpu, address, struct.pack("<I", value))


def read_code(vcpu: Vcpu, address: int, size: int) -> bytes:
    """Up to ``size`` instruction bytes as the vCPU's mode maps them; fewer where the map ends."""
    memory = vcpu.domain.memory
    table = vcpu.cpu.user_page_table if vcpu.cpu.user_mode else vcpu.cpu.kernel_page_table
    code = b""
    while len(code) < size:
        machine = translate(vcpu.words, table, address, PRESENT)
        if machine == NOT_MAPPED or machine >= memory.frames * PAGE_SIZE:
            break
        part = min(size - len(code), PAGE_SIZE - (address & 0xFFF))
        code += bytes(memory.bytes[machine : machine + part])
        address = (address + part) % _END
    return code
