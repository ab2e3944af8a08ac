# SPDX-License-Identifier: GPL-2.0-or-later
"""A few machine instructions of ours, which ``library`` puts into unicorn, and the data they use.

One page is executable, the pages behind it are data:

- ``RET``: nothing.
- ``READ_TSC``: the time-stamp counter, as the guest's RDTSC shows it.
- ``LOOK``, at the start of each translation block: if the *kick* byte is set, call
  ``uc_emu_stop`` and unicorn's own look for a stop.
- ``ALARM``, the handler of a signal: set the kick byte (see ``alarm``).
- ``PORT``, in the place of the helpers of IN and OUT: where ports are empty for the privilege
  level, all ones are read and a write is nothing; else it is a general protection fault.
- ``NOTE_CODE``, when code is translated from a frame that held none: set the frame's byte in the
  table that belongs to this unicorn instance, and let the next store to the frame through any of
  its mappings take the slow path, where it is noticed. (unicorn sees only to the mapping by which
  the code is executed.)
- ``NOTE_STORE``, at a store on that path: remember where it went, then unicorn's own function,
  which gives up the translations that the store overlaps.
- ``SET_DIRTY``, when further stores by that mapping, which is not executable, are to be fast again
  and will not be noticed: give up all translations from the frame, then unicorn's own function.
- ``SYSCALL`` and ``SYSENTER`` note the instruction's length, prefixes included, for the callback,
  because unicorn adds it to rip afterwards; then unicorn's own helper.
- ``LOAD_SEGMENT``: a null selector loaded into SS at level 1 would leave the guest at level 0; it
  becomes one that faults. Then unicorn's own helper.
- ``WATCHED``, when a page's translation is loaded: which accesses to it are to be checked.
- ``CHECK_WATCH``, at a load or store in such a page: a debug exception, if it hits a ``Watch``.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import struct
import weakref
from typing import TYPE_CHECKING, Final

from pyxen.errors import PyxenError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyxen.engine.memory import MachineMemory

RET: Final = 0
READ_TSC: Final = 16
LOOK: Final = 32
ALARM: Final = 112
PORT: Final = 128
WATCHED: Final = 224
CHECK_WATCH: Final = 288
SYSCALL: Final = 384
SYSENTER: Final = 400
LOAD_SEGMENT: Final = 416
NOTE_CODE: Final = 512
NOTE_STORE: Final = 608
SET_DIRTY: Final = 656
CPUID: Final = 736

KICK: Final = mmap.PAGESIZE
POINTERS: Final = mmap.PAGESIZE + 64
STOP, LOOK_ORIGINAL, RAISE, RESET_DIRTY, RAISE_DEBUG = range(5)
SYSCALL_ORIGINAL, SYSENTER_ORIGINAL, LOAD_SEGMENT_ORIGINAL = range(5, 8)
NOTE_STORE_ORIGINAL, INVALIDATE_PAGE, SET_DIRTY_ORIGINAL, CPUID_ORIGINAL = range(8, 12)
"""Numbers of the pointers to unicorn's functions."""

NULL_STACK_SEGMENT: Final = 0xFFF8
"""What a null selector for SS is made to at level 1: it is beyond every descriptor table."""

# Within CPUX86State: where SYSCALL's length is left (exception_next_eip), and hflags.
_LENGTH: Final = 0x1510
_HFLAGS: Final = 176
TRAP_FLAGS: Final = 372
"""Within CPUX86State, the flags of the task register, which nothing uses: a bit for each privilege
level for which ports are empty, and CPUID_FAULTS."""
CPUID_FAULTS: Final = 4 + 3
"""The bit for which CPUID at level 3 faults."""

_INSTANCES: Final = 2 * mmap.PAGESIZE
_INSTANCE: Final = struct.Struct("<QQQQQ")
"""Handle, CPU object, the frames' bytes, address of machine memory, the last store."""
_MAX_INSTANCES: Final = 100
_WATCHES: Final = 3 * mmap.PAGESIZE
_WATCH: Final = struct.Struct("<QQQIBBxx")  # CPU object, first and last byte, flags, hit, off
_WATCH_HIT, _WATCH_OFF = 28, 29
_MAX_WATCHES: Final = 32
FREED: Final = 1  # an entry that is in nobody's use; 0 ends a list

WATCH_WRITES: Final = 2
WATCH_ALL: Final = 3

_DEBUG: Final = 1
_GENERAL_PROTECTION: Final = 13
ENVIRONMENT: Final = 0x8A50
"""Offset of CPUX86State within X86CPU."""

_Part = bytes | tuple[int, int]


def _pointer(number: int) -> tuple[int, int]:
    return POINTERS + 8 * number, 0


_ROUTINES: Final[dict[int, tuple[_Part, ...]]] = {
    # In parentheses: a place relative to rip, and how many bytes of the instruction follow.
    RET: (b"\xc3",),
    # rdtsc; shl $32, %rdx; or %rdx, %rax; ret
    READ_TSC: (b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3",),
    # (uc)
    LOOK: (
        b"\x80\x3d", (KICK, 1), b"\x00\x75\x01\xc3",  # cmpb $0, kick; jne 1f; ret
        b"\x57\x56\x48\x83\xec\x08",  # 1: push %rdi; push %rsi; sub $8, %rsp
        b"\xff\x15", _pointer(STOP),
        b"\x48\x83\xc4\x08\x5e\x5f",  # add $8, %rsp; pop %rsi; pop %rdi
        b"\xff\x25", _pointer(LOOK_ORIGINAL),
    ),
    # (signal): movb $1, kick; ret
    ALARM: (b"\xc6\x05", (KICK, 1), b"\x01\xc3"),
    # (env, port, …); raise_exception_err_ra(env, vector, error code, return address)
    PORT: (
        b"\x8b\x8f" + struct.pack("<I", _HFLAGS) + b"\x83\xe1\x03",  # mov hflags, %ecx; and $3
        # bt %ecx, flags(%rdi); jc 1f
        b"\x0f\xa3\x8f" + struct.pack("<I", TRAP_FLAGS) + b"\x72\x11",
        b"\x48\x8b\x0c\x24\x31\xd2",  # mov (%rsp), %rcx; xor %edx, %edx
        b"\xbe" + struct.pack("<I", _GENERAL_PROTECTION),  # mov $13, %esi
        b"\xff\x25", _pointer(RAISE),
        b"\xb8\xff\xff\xff\xff\xc3",  # 1: mov $-1, %eax; ret
    ),
    # (env); raise_exception_err_ra(env, vector, error code, return address)
    CPUID: (
        b"\x8b\x8f" + struct.pack("<I", _HFLAGS) + b"\x83\xe1\x03",  # mov hflags, %ecx; and $3
        b"\x83\xc1\x04",  # add $4, %ecx
        # bt %ecx, flags(%rdi); jnc 1f
        b"\x0f\xa3\x8f" + struct.pack("<I", TRAP_FLAGS) + b"\x73\x11",
        b"\x48\x8b\x0c\x24\x31\xd2",  # mov (%rsp), %rcx; xor %edx, %edx
        b"\xbe" + struct.pack("<I", _GENERAL_PROTECTION),  # mov $13, %esi
        b"\xff\x25", _pointer(RAISE),
        b"\xff\x25", _pointer(CPUID_ORIGINAL),  # 1:
    ),
    # (uc, ram address); tlb_reset_dirty(cpu, host address, length)
    NOTE_CODE: (
        b"\x48\x8d\x05", (_INSTANCES, 0),  # lea instances, %rax
        b"\x48\x8b\x10\x48\x85\xd2\x74\x34",  # 1: mov (%rax), %rdx; test %rdx, %rdx; je 3f
        b"\x48\x39\xfa\x74\x06",  # cmp %rdi, %rdx; je 2f
        b"\x48\x83\xc0\x28\xeb\xed",  # add $40, %rax; jmp 1b
        b"\x48\x8b\x48\x10\x48\x89\xf2",  # 2: mov 16(%rax), %rcx; mov %rsi, %rdx
        b"\x48\xc1\xea\x0c\xc6\x04\x11\x01",  # shr $12, %rdx; movb $1, (%rcx, %rdx)
        b"\x48\x8b\x78\x08",  # mov 8(%rax), %rdi
        b"\x48\x81\xe6\x00\xf0\xff\xff",  # and $-4096, %rsi
        b"\x48\x03\x70\x18\xba\x00\x10\x00\x00",  # add 24(%rax), %rsi; mov $4096, %edx
        b"\xff\x25", _pointer(RESET_DIRTY),
        b"\xc3",  # 3: ret
    ),
    # (uc, pages, ram address, length, return address)
    NOTE_STORE: (
        b"\x48\x8d\x05", (_INSTANCES, 0),  # lea instances, %rax
        b"\x4c\x8b\x10\x4d\x85\xd2\x74\x0f",  # 1: mov (%rax), %r10; test %r10, %r10; je 3f
        b"\x49\x39\xfa\x74\x06",  # cmp %rdi, %r10; je 2f
        b"\x48\x83\xc0\x28\xeb\xed",  # add $40, %rax; jmp 1b
        b"\x48\x89\x50\x20",  # 2: mov %rdx, 32(%rax)
        b"\xff\x25", _pointer(NOTE_STORE_ORIGINAL),  # 3:
    ),
    # (cpu, address); tb_invalidate_phys_page_range(uc, first ram address, end)
    SET_DIRTY: (
        b"\x48\x8d\x05", (_INSTANCES, 0),  # lea instances, %rax
        b"\x4c\x8b\x10\x4d\x85\xd2\x74\x33",  # 1: mov (%rax), %r10; test %r10, %r10; je 3f
        b"\x48\x3b\x78\x08\x74\x06",  # cmp 8(%rax), %rdi; je 2f
        b"\x48\x83\xc0\x28\xeb\xec",  # add $40, %rax; jmp 1b
        b"\x57\x56\x48\x83\xec\x08",  # 2: push %rdi; push %rsi; sub $8, %rsp
        b"\x4c\x89\xd7\x48\x8b\x70\x20",  # mov %r10, %rdi; mov 32(%rax), %rsi
        b"\x48\x81\xe6\x00\xf0\xff\xff",  # and $-4096, %rsi
        b"\x48\x8d\x96\x00\x10\x00\x00",  # lea 4096(%rsi), %rdx
        b"\xff\x15", _pointer(INVALIDATE_PAGE),
        b"\x48\x83\xc4\x08\x5e\x5f",  # add $8, %rsp; pop %rsi; pop %rdi
        b"\xff\x25", _pointer(SET_DIRTY_ORIGINAL),  # 3:
    ),
    # (cpu, address, length) -> flags
    WATCHED: (
        b"\x48\x8d\x05", (_WATCHES, 0),  # lea watches, %rax
        b"\x45\x31\xc0",  # xor %r8d, %r8d
        b"\x48\x8b\x08\x48\x85\xc9\x74\x20",  # 1: mov (%rax), %rcx; test %rcx, %rcx; je 3f
        b"\x48\x39\xf9\x75\x15",  # cmp %rdi, %rcx; jne 2f
        b"\x48\x3b\x70\x10\x77\x0f",  # cmp 16(%rax), %rsi; ja 2f
        b"\x4c\x8d\x54\x16\xff",  # lea -1(%rsi, %rdx), %r10
        b"\x4c\x3b\x50\x08\x72\x04",  # cmp 8(%rax), %r10; jb 2f
        b"\x44\x0b\x40\x18",  # or 24(%rax), %r8d
        b"\x48\x83\xc0\x20\xeb\xd8",  # 2: add $32, %rax; jmp 1b
        b"\x44\x89\xc0\xc3",  # 3: mov %r8d, %eax; ret
    ),
    # (cpu, address, length, -, kind of access, return address)
    CHECK_WATCH: (
        b"\x48\x8d\x05", (_WATCHES, 0),  # lea watches, %rax
        b"\x48\x8b\x08\x48\x85\xc9\x74\x41",  # 1: mov (%rax), %rcx; test %rcx, %rcx; je 3f
        b"\x48\x39\xf9\x75\x36",  # cmp %rdi, %rcx; jne 2f
        b"\x44\x85\x40\x18\x74\x30",  # test %r8d, 24(%rax); je 2f
        b"\x80\x78\x1d\x00\x75\x2a",  # cmpb $0, 29(%rax); jne 2f
        b"\x48\x3b\x70\x10\x77\x24",  # cmp 16(%rax), %rsi; ja 2f
        b"\x4c\x8d\x54\x16\xff",  # lea -1(%rsi, %rdx), %r10
        b"\x4c\x3b\x50\x08\x72\x19",  # cmp 8(%rax), %r10; jb 2f
        b"\x80\x48\x1c\x01",  # orb $1, 28(%rax)
        # raise_exception_ra(env, vector, return address)
        b"\x48\x8d\xbf" + struct.pack("<I", ENVIRONMENT),  # lea env(%rdi), %rdi
        b"\xbe" + struct.pack("<I", _DEBUG),  # mov $1, %esi
        b"\x4c\x89\xca",  # mov %r9, %rdx
        b"\xff\x25", _pointer(RAISE_DEBUG),
        b"\x48\x83\xc0\x20\xeb\xb7",  # 2: add $32, %rax; jmp 1b
        b"\xc3",  # 3: ret
    ),
    # (env, length): mov %esi, length(%rdi)
    SYSCALL: (b"\x89\xb7" + struct.pack("<I", _LENGTH) + b"\xff\x25", _pointer(SYSCALL_ORIGINAL)),
    SYSENTER: (
        b"\x89\xb7" + struct.pack("<I", _LENGTH) + b"\xff\x25", _pointer(SYSENTER_ORIGINAL)
    ),
    # (env, register, selector); register 2 is SS
    LOAD_SEGMENT: (
        # cmp $2, %esi; jne 1f; test $0xfffc, %edx; jne 1f
        b"\x83\xfe\x02\x75\x19\xf7\xc2\xfc\xff\x00\x00\x75\x11",
        # mov hflags(%rdi), %al; and $3, %al; cmp $3, %al; je 1f
        b"\x8a\x87" + struct.pack("<i", _HFLAGS) + b"\x24\x03\x3c\x03\x74\x05",
        b"\xba" + struct.pack("<I", NULL_STACK_SEGMENT),  # mov $NULL_STACK_SEGMENT, %edx
        b"\xff\x25", _pointer(LOAD_SEGMENT_ORIGINAL),  # 1:
    ),
}  # fmt: skip


def _assemble() -> bytes:
    image = bytearray(b"\x90" * mmap.PAGESIZE)
    for start, parts in _ROUTINES.items():
        code = b""
        for part in parts:
            if isinstance(part, tuple):
                place, following = part
                part = struct.pack("<i", place - (start + len(code) + 4 + following))
            code += part
        image[start : start + len(code)] = code
    return bytes(image)


_keep_alive: list[object] = []


@functools.cache
def base() -> int:
    """Address of the code page."""
    pages = mmap.mmap(-1, 4 * mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    pages.write(_assemble())
    anchor = ctypes.c_char.from_buffer(pages)
    _keep_alive.extend((pages, anchor))
    return ctypes.addressof(anchor)


def set_pointer(number: int, address: int) -> None:
    """Tell the routines where a function of unicorn's is."""
    ctypes.c_uint64.from_address(base() + POINTERS + 8 * number).value = address


def watch_code(handle: int, cpu: int, memory: MachineMemory) -> None:
    """Let ``memory.code_frames`` tell from which frames the instance ``handle``, with this CPU
    object, has translated code, and notice all stores to them, until ``forget_code``."""
    for entry in _instances():
        if entry[0] in (0, FREED):
            table = (ctypes.c_char * memory.frames).from_buffer(memory.code_frames.obj)
            entry[1:5] = [cpu, ctypes.addressof(table), memory.address, 0]
            entry[0] = handle
            weakref.finalize(memory, forget_code, handle, table)
            return
    raise PyxenError(f"emulator: {_MAX_INSTANCES} engines are in use, which is the limit")


def forget_code(handle: int, table: ctypes.Array[ctypes.c_char] | None = None) -> None:
    """The instance ``handle`` is about to go: another may come to have its address, and the memory
    of its CPU object. With ``table``, only if the frames' bytes are still these."""
    for entry in _instances():
        if entry[0] == handle and (table is None or entry[2] == ctypes.addressof(table)):
            entry[0] = entry[1] = FREED


def _instances() -> Iterator[ctypes.Array[ctypes.c_uint64]]:
    for number in range(_MAX_INSTANCES):
        place = base() + _INSTANCES + _INSTANCE.size * number
        yield (ctypes.c_uint64 * 5).from_address(place)


class Watch:
    """Some bytes of linear memory that the CPU object ``cpu`` watches while it is enabled."""

    def __init__(self, cpu: int, first: int, last: int, flags: int) -> None:
        for number in range(_MAX_WATCHES):
            place = base() + _WATCHES + _WATCH.size * number
            self._entry = (ctypes.c_uint64 * 4).from_address(place)
            self._bytes = (ctypes.c_uint8 * _WATCH.size).from_address(place)
            if self._entry[0] in (0, FREED):
                self._entry[1:4] = [first, last, flags]
                self._entry[0] = cpu
                return
        raise PyxenError(f"emulator: {_MAX_WATCHES} data breakpoints are in use: the limit")

    def enable(self, value: bool) -> None:
        self._bytes[_WATCH_OFF] = 0 if value else 1

    def take_hit(self) -> bool:
        """Whether it has been hit since the last call."""
        hit = bool(self._bytes[_WATCH_HIT])
        self._bytes[_WATCH_HIT] = 0
        return hit

    def free(self) -> None:
        self._entry[0] = FREED
