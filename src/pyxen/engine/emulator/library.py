# SPDX-License-Identifier: GPL-2.0-or-later
"""The unicorn library: load it, make it fit, and prove what we assume about it.

Five things of its inside are used, all of version 2.1.4:

- the layout of the CPU state (``state``), read and written in place;
- exported functions below the public interface: TLB flushes of one set of translations, flags;
- ``check_exit_request``, which makes unicorn look for a stop after *every* guest load and store.
  A stop that is taken there executes an instruction a second time whose store has already been
  done. The function is reached through the procedure linkage table, so its slot is pointed at a
  bare ``ret``: what is left is the look at the start of each translation block, where the state
  is whole. (Guest code also gets twice as fast.)
- ``helper_check_exit_request``, which is that look. The two places that hold its address are
  pointed at a few instructions of ours, which test a byte, the *kick*, and call the original only
  if it is set. That is cheaper, and a kick is a store to memory: it cannot get lost while the
  engine starts, as a call of ``uc_emu_stop`` can. Now and then these instructions also compare
  the time-stamp counter with the engine's *deadline*, so that no other thread need watch the time.
- Four more helpers of translated code get instructions of ours in front, in the same way:
  SYSCALL and SYSENTER note their length (prefixes included) for the callback, because unicorn adds
  it to rip afterwards; the look for TF after SYSCALL is left out, as it would trap before the
  instruction that is to be stepped; and a null selector loaded into SS at level 1, which would
  leave the guest at level 0, becomes one that faults.

``self_check`` verifies all of it, so that another build of the library gives a clear error and
never a corrupted guest.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import struct
from typing import Any, Final

from pyxen.errors import PyxenError

VERSION: Final = "2.1.4"

# CPUState *cpu within struct uc_struct, and CPUX86State within X86CPU.
_UC_CPU: Final = 0x1B8
_CPU_ENV: Final = 0x8A50

_EXIT_CHECK: Final = "check_exit_request_x86_64"
_EXIT_HELPER: Final = "helper_check_exit_request_x86_64"
_SYSCALL_HELPER: Final = "helper_syscall_x86_64"
_SYSENTER_HELPER: Final = "helper_sysenter_x86_64"
_STEP_HELPER: Final = "helper_rechecking_single_step_x86_64"
_SEGMENT_HELPER: Final = "helper_load_seg_x86_64"
_R_X86_64_64: Final = 1
_R_X86_64_GLOB_DAT: Final = 6
_R_X86_64_JUMP_SLOT: Final = 7
_DT_JMPREL, _DT_PLTRELSZ, _DT_SYMTAB, _DT_STRTAB = 23, 2, 6, 5
_DT_RELA, _DT_RELASZ = 7, 8
_RELOCATION: Final = struct.Struct("<QQq")
_SYMBOL_SIZE: Final = 24
_PT_DYNAMIC, _PT_GNU_RELRO = 2, 0x6474E552
_READ, _WRITE, _EXECUTE = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC

# Our machine code: a page that is executable, and one behind it for data.
_RET: Final = 0
_READ_TSC: Final = 16
_LOOK: Final = 32
_SYSCALL: Final = 128
_SYSENTER: Final = 144
_LOAD_SEGMENT: Final = 160
_KICK: Final = mmap.PAGESIZE
_COUNT: Final = mmap.PAGESIZE + 4
_POINTERS: Final = mmap.PAGESIZE + 64
"""Of uc_emu_stop and of the helpers that ours go on to, in the order in which they are above."""
_DEADLINES: Final = mmap.PAGESIZE + 128
"""Pairs of an engine's handle and its deadline, up to a pair of zeros."""
_MAX_ENGINES: Final = 240
_BLOCKS: Final = 256
"""So many blocks of guest code run between two looks at the clock."""
NEVER: Final = 0xFFFFFFFFFFFFFFFF
_GONE: Final = 1  # no handle


def _data(place: int, end: int) -> bytes:
    """The operand of an instruction that ends at offset ``end`` of the look: relative to rip."""
    return struct.pack("<i", place - _LOOK - end)


NULL_STACK_SEGMENT: Final = 0xFFF8
"""What a null selector for SS is made to at level 1: it is beyond every descriptor table."""

# Within CPUX86State: where SYSCALL's length is left (exception_next_eip), and hflags.
_LENGTH: Final = 0x1510
_HFLAGS: Final = 176


def _jump(place: int, pointer: int) -> bytes:
    """jmp *pointer(%rip), at an offset in our code, to one of the pointers."""
    return b"\xff\x25" + struct.pack("<i", _POINTERS + 8 * pointer - place - 6)


def _note_length(place: int, pointer: int) -> bytes:
    """mov %esi, _LENGTH(%rdi); jump"""
    code = b"\x89\xb7" + struct.pack("<i", _LENGTH)
    return (code + _jump(place + len(code), pointer)).ljust(16, b"\x90")


def _refuse_null_stack_segment(place: int, pointer: int) -> bytes:
    """Arguments: the state, the register (2 is SS), the selector."""
    code = (
        # cmp $2, %esi; jne 1f; test $0xfffc, %edx; jne 1f
        b"\x83\xfe\x02\x75\x19\xf7\xc2\xfc\xff\x00\x00\x75\x11"
        # mov _HFLAGS(%rdi), %al; and $3, %al; cmp $3, %al; je 1f
        + b"\x8a\x87" + struct.pack("<i", _HFLAGS) + b"\x24\x03\x3c\x03\x74\x05"
        # mov $NULL_STACK_SEGMENT, %edx
        + b"\xba" + struct.pack("<I", NULL_STACK_SEGMENT)
    )  # fmt: skip
    return code + _jump(place + len(code), pointer)  # 1:


_MACHINE_CODE: Final = (
    b"\xc3".ljust(16, b"\x90")
    # rdtsc; shl $32, %rdx; or %rdx, %rax; ret
    + b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3".ljust(16, b"\x90")
    # cmpb $0, kick(%rip); jne 1f; decl count(%rip); js 2f; ret
    + b"\x80\x3d" + _data(_KICK, 7) + b"\x00\x75\x09"
    + b"\xff\x0d" + _data(_COUNT, 15) + b"\x78\x19\xc3"
    # 1: push %rdi; push %rsi; sub $8, %rsp; call *uc_emu_stop(%rip)
    + b"\x57\x56\x48\x83\xec\x08\xff\x15" + _data(_POINTERS, 30)
    # add $8, %rsp; pop %rsi; pop %rdi; jmp *helper(%rip)
    + b"\x48\x83\xc4\x08\x5e\x5f\xff\x25" + _data(_POINTERS + 8, 42)
    # 2: movl $_BLOCKS, count(%rip); lea deadlines(%rip), %rcx
    + b"\xc7\x05" + _data(_COUNT, 52) + struct.pack("<i", _BLOCKS)
    + b"\x48\x8d\x0d" + _data(_DEADLINES, 59)
    # 3: mov (%rcx), %rax; test %rax, %rax; je 4f; add $16, %rcx; cmp %rax, %rdi; jne 3b
    + b"\x48\x8b\x01\x48\x85\xc0\x74\x18\x48\x83\xc1\x10\x48\x39\xc7\x75\xef"
    # rdtsc; shl $32, %rdx; or %rdx, %rax; cmp -8(%rcx), %rax; jae 1b; 4: ret
    + b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\x48\x3b\x41\xf8\x73\xb7\xc3".ljust(20, b"\x90")
    + _note_length(_SYSCALL, 2)
    + _note_length(_SYSENTER, 3)
    + _refuse_null_stack_segment(_LOAD_SEGMENT, 4)
)  # fmt: skip

_keep_alive: list[object] = []


@functools.cache
def load() -> ctypes.CDLL:
    """The library, made to fit. Raises PyxenError on any surprise."""
    try:
        import unicorn  # loads 24 MB
        from unicorn.unicorn_py3.unicorn import uclib
    except ImportError as error:
        raise PyxenError(f"emulator: unicorn {VERSION} cannot be loaded: {error}") from error
    if unicorn.__version__ != VERSION:
        raise PyxenError(f"emulator: unicorn {unicorn.__version__} found, expected {VERSION}")
    library: ctypes.CDLL = uclib
    _redirect_functions(library)
    _declare(library)
    return library


def _declare(library: ctypes.CDLL) -> None:
    """Signatures of the functions below the public interface."""
    pointer, u64 = ctypes.c_void_p, ctypes.c_uint64
    signatures: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        ("tlb_flush_x86_64", None, (pointer,)),
        ("tlb_flush_by_mmuidx_x86_64", None, (pointer, ctypes.c_uint16)),
        ("tlb_flush_page_x86_64", None, (pointer, u64)),
        ("cpu_cc_compute_all_x86_64", ctypes.c_uint32, (pointer, ctypes.c_int)),
        ("cpu_x86_cpuid_x86_64", None, (pointer,) + (ctypes.c_uint32,) * 2 + (pointer,) * 4),
        ("tb_invalidate_phys_range_x86_64", None, (pointer, u64, u64)),
        ("uc_emu_start", ctypes.c_int, (pointer, u64, u64, u64, ctypes.c_size_t)),
        ("uc_emu_stop", ctypes.c_int, (pointer,)),
    )
    for name, result, arguments in signatures:
        try:
            function = getattr(library, name)
        except AttributeError:
            raise PyxenError(f"emulator: this build of unicorn does not export {name}") from None
        function.restype = result
        function.argtypes = arguments


@functools.cache
def _machine_code() -> int:
    """Address of our machine code; its data page follows."""
    pages = mmap.mmap(-1, 2 * mmap.PAGESIZE, prot=_READ | _WRITE | _EXECUTE)
    pages.write(_MACHINE_CODE)
    anchor = ctypes.c_char.from_buffer(pages)
    _keep_alive.extend((pages, anchor))
    return ctypes.addressof(anchor)


@functools.cache
def tsc_reader() -> Any:
    """A function that executes RDTSC; the guest's RDTSC shows the same counter."""
    return ctypes.PYFUNCTYPE(ctypes.c_uint64)(_machine_code() + _READ_TSC)


@functools.cache
def kick_byte() -> memoryview:
    """One byte: not 0 makes the guest code that runs stop at the start of its next block.

    There is one for the process: all engines in it stop.
    """
    byte = (ctypes.c_uint8 * 1).from_address(_machine_code() + _KICK)
    return memoryview(byte).cast("B")


def deadline_word(handle: int) -> memoryview:
    """One word for the engine with this handle, the time-stamp counter at which it is to stop.

    Guest code that runs stops at one of the next blocks when the counter has come there. Raises
    PyxenError if there are too many engines; ``give_back_deadline`` makes room again.
    """
    table = (ctypes.c_uint64 * (2 * _MAX_ENGINES)).from_address(_machine_code() + _DEADLINES)
    for entry in range(0, len(table), 2):
        if table[entry] in (0, _GONE, handle):
            table[entry + 1] = NEVER
            table[entry] = handle
            return memoryview(table).cast("B").cast("Q")[entry + 1 : entry + 2]
    raise PyxenError(f"emulator: more than {_MAX_ENGINES} engines in this process")


def give_back_deadline(handle: int) -> None:
    """The engine with this handle is closed."""
    table = (ctypes.c_uint64 * (2 * _MAX_ENGINES)).from_address(_machine_code() + _DEADLINES)
    for entry in range(0, len(table), 2):
        if table[entry] == handle:
            table[entry] = _GONE


def _redirect_functions(library: ctypes.CDLL) -> None:
    path, base = _mapping(_address_of(library, "uc_emu_start"))
    tags, relro = _read_headers(path, base)
    code = _machine_code()
    slots: list[tuple[int, int]] = []
    for name, table, count, ours in (
        (_EXIT_CHECK, _DT_JMPREL, 1, _RET),
        (_EXIT_HELPER, _DT_RELA, 2, _LOOK),
        (_SYSCALL_HELPER, _DT_RELA, 2, _SYSCALL),
        (_SYSENTER_HELPER, _DT_RELA, 2, _SYSENTER),
        (_STEP_HELPER, _DT_RELA, 2, _RET),
        (_SEGMENT_HELPER, _DT_RELA, 2, _LOAD_SEGMENT),
    ):
        found = _find_slots(base, tags, _address_of(library, name) - base, table)
        if len(found) != count:
            raise PyxenError(
                f"emulator: this build of unicorn has {len(found)} references to {name}, "
                f"expected {count}"
            )
        slots += [(slot, ours) for slot in found]
    originals = ("uc_emu_stop", _EXIT_HELPER, _SYSCALL_HELPER, _SYSENTER_HELPER, _SEGMENT_HELPER)
    for number, name in enumerate(originals):
        pointer = ctypes.c_uint64.from_address(code + _POINTERS + 8 * number)
        pointer.value = _address_of(library, name)
    _protect(base + relro[0], relro[1], _READ | _WRITE)
    for slot, ours in slots:
        ctypes.c_uint64.from_address(base + slot).value = code + ours
    _protect(base + relro[0], relro[1], _READ)


def _address_of(library: ctypes.CDLL, name: str) -> int:
    try:
        return ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
    except AttributeError:
        raise PyxenError(f"emulator: this build of unicorn does not export {name}") from None


def _protect(address: int, size: int, protection: int) -> None:
    start = address & -mmap.PAGESIZE
    end = address + size & -mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_void_p(start), ctypes.c_size_t(end - start), ctypes.c_int(protection))
    if end > start and libc.mprotect(*arguments):
        reason = os.strerror(ctypes.get_errno())
        raise PyxenError(f"emulator: the library cannot be made to fit: mprotect: {reason}")


def _mapping(address: int) -> tuple[str, int]:
    """The file that is mapped at ``address`` and the lowest address of its mappings."""
    path = ""
    lowest: dict[str, int] = {}
    with open("/proc/self/maps", encoding="ascii", errors="surrogateescape") as maps:
        for line in maps:
            fields = line.split(maxsplit=5)
            if len(fields) < 6:
                continue
            start, end = (int(part, 16) for part in fields[0].split("-"))
            name = fields[5].rstrip("\n")
            lowest.setdefault(name, start)
            if start <= address < end:
                path = name
    return path, lowest[path]


def _read_headers(path: str, base: int) -> tuple[dict[int, int], tuple[int, int]]:
    """The dynamic tags of the library that is mapped at ``base``, and its RELRO segment."""
    with open(path, "rb") as file:
        header = file.read(64)
        (table,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(table)
        segments = {
            kind: rest for kind, *rest in struct.iter_unpack("<IIQQQQQQ", file.read(size * count))
        }
    if _PT_DYNAMIC not in segments or _PT_GNU_RELRO not in segments:
        raise PyxenError(f"emulator: {path} lacks a dynamic or a RELRO segment")
    _, _, address, _, _, length, _ = segments[_PT_DYNAMIC]
    tags = dict(struct.iter_unpack("<QQ", ctypes.string_at(base + address, length)))
    _, _, address, _, _, length, _ = segments[_PT_GNU_RELRO]
    return tags, (address, length)


def _find_slots(base: int, tags: dict[int, int], value: int, table: int) -> list[int]:
    """Offsets of the words that the dynamic linker has filled with the address of a symbol."""
    size = tags[_DT_PLTRELSZ if table == _DT_JMPREL else _DT_RELASZ]
    relocations = ctypes.string_at(tags[table], size)
    symbol = _symbol_number(tags, value)
    kinds = (_R_X86_64_JUMP_SLOT,) if table == _DT_JMPREL else (_R_X86_64_64, _R_X86_64_GLOB_DAT)
    slots = []
    for kind in kinds:
        wanted = struct.pack("<Q", symbol << 32 | kind)
        position = relocations.find(wanted)
        while position >= 0:
            if position % _RELOCATION.size == 8:
                slots.append(_RELOCATION.unpack_from(relocations, position - 8)[0])
            position = relocations.find(wanted, position + 1)
    return slots


def _symbol_number(tags: dict[int, int], value: int) -> int:
    """Number of the dynamic symbol with this value. The string table follows the symbols."""
    symbols = ctypes.string_at(tags[_DT_SYMTAB], tags[_DT_STRTAB] - tags[_DT_SYMTAB])
    wanted = struct.pack("<Q", value)
    position = symbols.find(wanted)
    while position >= 0:
        if position % _SYMBOL_SIZE == 8:
            return position // _SYMBOL_SIZE
        position = symbols.find(wanted, position + 1)
    raise PyxenError("emulator: unicorn's symbols are not where expected")


def state_address(handle: int) -> tuple[int, int]:
    """Addresses of the CPU object and of its register state within unicorn's object ``handle``.

    Reads through /proc/self/mem, so that a wrong assumption is an error and not a crash.
    """
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        try:
            (cpu,) = struct.unpack("<Q", os.pread(memory.fileno(), 8, handle + _UC_CPU))
            os.pread(memory.fileno(), 0x2000, cpu + _CPU_ENV)
        except (OSError, OverflowError, struct.error):
            raise PyxenError("emulator: the state of unicorn's CPU is not where expected") from None
    return cpu, cpu + _CPU_ENV


@functools.cache
def self_check() -> str:
    """Prove the assumptions about the library on an engine of a few pages.

    Returns a line that describes it; raises PyxenError naming the first thing that differs.
    """
    from pyxen.engine.emulator.check import check_state_layout

    load()
    check_state_layout()
    return f"unicorn {VERSION}, state layout checked"
