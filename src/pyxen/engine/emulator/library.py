# SPDX-License-Identifier: GPL-2.0-or-later
"""The unicorn library: load it, make it fit, and prove what we assume about it.

These things of its inside are used, all of version 2.1.4:

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
- the helpers of IN and OUT. unicorn lets every program use the ports; ours raise the general
  protection fault that a guest without I/O privileges is due. So does ours of CPUID, for programs
  of a kernel that wants it.
- ``tlb_protect_code``, which is called when code is first translated from a frame. Ours notes it,
  so that it costs the hypervisor one look at a byte to know whether a frame that it writes to may
  hold translated code.
- ``tb_invalidate_phys_page_fast`` and ``tlb_set_dirty``, which are called at stores to frames that
  may hold translated code. unicorn forgets that a frame may be mapped twice, executable and
  writable; with ours a store by any mapping gives up the translations.
- the helpers of SYSCALL, SYSENTER and of segment registers get instructions of ours in front, and
  the look for TF after SYSCALL is left out, as it would trap before the instruction that is to be
  stepped: see ``machine_code``.
- ``cpu_watchpoint_address_matches`` and ``cpu_check_watchpoint``, what is left of QEMU's data
  breakpoints: see ``breakpoints``.

``self_check`` verifies all of it, so that another build of the library gives a clear error and
never a corrupted guest.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import struct
from collections.abc import Collection
from typing import Any, Final

from pyxen.engine.emulator import machine_code
from pyxen.errors import PyxenError

VERSION: Final = "2.1.4"

# CPUState *cpu within struct uc_struct, and CPUX86State within X86CPU.
_UC_CPU: Final = 0x1B8
_CPU_ENV: Final = machine_code.ENVIRONMENT

_EXIT_CHECK: Final = "check_exit_request_x86_64"
_EXIT_HELPER: Final = "helper_check_exit_request_x86_64"
_R_X86_64_64: Final = 1
_R_X86_64_GLOB_DAT: Final = 6
_R_X86_64_JUMP_SLOT: Final = 7
_DT_JMPREL, _DT_PLTRELSZ, _DT_SYMTAB, _DT_STRTAB = 23, 2, 6, 5
_DT_RELA, _DT_RELASZ, _DT_RELACOUNT = 7, 8, 0x6FFFFFF9
_RELOCATION_WORDS: Final = 3  # offset, symbol and kind, addend
_SYMBOL_WORDS: Final = 3  # name and kind, value, size
_PT_DYNAMIC, _PT_GNU_RELRO = 2, 0x6474E552
_READ, _WRITE = mmap.PROT_READ, mmap.PROT_WRITE

_PORT_HELPERS: Final = tuple(
    f"helper_{operation}{size}_x86_64" for operation in ("in", "out") for size in "bwl"
)
_NOTE_CODE: Final = "tlb_protect_code_x86_64"
_NOTE_STORE: Final = "tb_invalidate_phys_page_fast_x86_64"
_SET_DIRTY: Final = "tlb_set_dirty_x86_64"
_WATCHED: Final = "cpu_watchpoint_address_matches_x86_64"
_CHECK_WATCH: Final = "cpu_check_watchpoint_x86_64"
_SYSCALL: Final = "helper_syscall_x86_64"
_SYSENTER: Final = "helper_sysenter_x86_64"
_LOAD_SEGMENT: Final = "helper_load_seg_x86_64"
_CPUID: Final = "helper_cpuid_x86_64"
_STEP_AFTER_SYSCALL: Final = "helper_rechecking_single_step_x86_64"


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
    _make_it_fit(library)
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
        ("tb_flush_x86_64", None, (pointer,)),
        ("cpu_breakpoint_insert_x86_64", ctypes.c_int, (pointer, u64, ctypes.c_int, pointer)),
        ("cpu_breakpoint_remove_all_x86_64", None, (pointer, ctypes.c_int)),
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
def tsc_reader() -> Any:
    """A function that executes RDTSC; the guest's RDTSC shows the same counter."""
    return ctypes.PYFUNCTYPE(ctypes.c_uint64)(machine_code.base() + machine_code.READ_TSC)


@functools.cache
def kick_byte() -> memoryview:
    """One byte: not 0 makes the guest code that runs stop at the start of its next block.

    There is one for the process: all engines in it stop.
    """
    byte = (ctypes.c_uint8 * 1).from_address(machine_code.base() + machine_code.KICK)
    return memoryview(byte).cast("B")


def _make_it_fit(library: ctypes.CDLL) -> None:
    """Point the places that hold the addresses of some of its functions at our machine code."""
    path, base = _mapping(_address_of(library, "uc_emu_start"))
    tags, relro = _read_headers(path, base)
    code = machine_code.base()
    for number, name in (
        (machine_code.STOP, "uc_emu_stop"),
        (machine_code.LOOK_ORIGINAL, _EXIT_HELPER),
        (machine_code.RAISE, "raise_exception_err_ra_x86_64"),
        (machine_code.RAISE_DEBUG, "raise_exception_ra_x86_64"),
        (machine_code.RESET_DIRTY, "tlb_reset_dirty_x86_64"),
        (machine_code.NOTE_STORE_ORIGINAL, _NOTE_STORE),
        (machine_code.INVALIDATE_PAGE, "tb_invalidate_phys_page_range_x86_64"),
        (machine_code.SET_DIRTY_ORIGINAL, _SET_DIRTY),
        (machine_code.SYSCALL_ORIGINAL, _SYSCALL),
        (machine_code.SYSENTER_ORIGINAL, _SYSENTER),
        (machine_code.LOAD_SEGMENT_ORIGINAL, _LOAD_SEGMENT),
        (machine_code.CPUID_ORIGINAL, _CPUID),
    ):
        machine_code.set_pointer(number, _address_of(library, name))
    # Called through the linkage table; or translated code calls it, and the address is in the
    # list of helpers and where code is generated.
    changes = [
        (_EXIT_CHECK, _DT_JMPREL, 1, machine_code.RET),
        (_EXIT_HELPER, _DT_RELA, 2, machine_code.LOOK),
        (_NOTE_CODE, _DT_JMPREL, 1, machine_code.NOTE_CODE),
        (_NOTE_STORE, _DT_JMPREL, 1, machine_code.NOTE_STORE),
        (_SET_DIRTY, _DT_JMPREL, 1, machine_code.SET_DIRTY),
        (_WATCHED, _DT_JMPREL, 1, machine_code.WATCHED),
        (_CHECK_WATCH, _DT_JMPREL, 1, machine_code.CHECK_WATCH),
        (_STEP_AFTER_SYSCALL, _DT_RELA, 2, machine_code.RET),
        (_SYSCALL, _DT_RELA, 2, machine_code.SYSCALL),
        (_SYSENTER, _DT_RELA, 2, machine_code.SYSENTER),
        (_LOAD_SEGMENT, _DT_RELA, 2, machine_code.LOAD_SEGMENT),
        (_CPUID, _DT_RELA, 2, machine_code.CPUID),
        *((name, _DT_RELA, 2, machine_code.PORT) for name in _PORT_HELPERS),
    ]
    values = {name: _address_of(library, name) - base for name, *_ in changes}
    symbols = _symbol_numbers(tags, values.values())
    tables = {table: _find_slots(tags, symbols, table) for table in (_DT_JMPREL, _DT_RELA)}
    slots = []
    for name, table, expected, target in changes:
        found = tables[table][values[name]]
        if len(found) != expected:
            raise PyxenError(
                f"emulator: this build of unicorn has {len(found)} references to {name}, "
                f"expected {expected}"
            )
        slots += [(slot, code + target) for slot in found]
    _protect(base + relro[0], relro[1], _READ | _WRITE)
    for slot, value in slots:
        ctypes.c_uint64.from_address(base + slot).value = value
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


def _find_slots(tags: dict[int, int], symbols: dict[int, int], table: int) -> dict[int, list[int]]:
    """Offsets of the words that the dynamic linker has filled with the addresses of symbols, by the
    symbols' values. All are looked for at once: there are tens of thousands of relocations."""
    start = tags[table]
    if table == _DT_JMPREL:
        kinds: tuple[int, ...] = (_R_X86_64_JUMP_SLOT,)
        end = start + tags[_DT_PLTRELSZ]
    else:
        kinds = (_R_X86_64_64, _R_X86_64_GLOB_DAT)
        end = start + tags[_DT_RELASZ]
        start += tags.get(_DT_RELACOUNT, 0) * _RELOCATION_WORDS * 8  # those that have no symbol
    wanted = {number << 32 | kind: value for number, value in symbols.items() for kind in kinds}
    relocations = _words(start, end - start)
    slots: dict[int, list[int]] = {value: [] for value in symbols.values()}
    for position, info in enumerate(relocations[1::_RELOCATION_WORDS].tolist()):
        if info in wanted:
            slots[wanted[info]].append(relocations[position * _RELOCATION_WORDS])
    return slots


def _symbol_numbers(tags: dict[int, int], values: Collection[int]) -> dict[int, int]:
    """The values of dynamic symbols by the symbols' numbers. The string table follows them."""
    symbols = _words(tags[_DT_SYMTAB], tags[_DT_STRTAB] - tags[_DT_SYMTAB])
    wanted = frozenset(values)
    found = {
        number: value
        for number, value in enumerate(symbols[1::_SYMBOL_WORDS].tolist())
        if value in wanted
    }
    if wanted - set(found.values()):
        raise PyxenError("emulator: unicorn's symbols are not where expected")
    return found


def _words(address: int, size: int) -> memoryview:
    return memoryview((ctypes.c_uint64 * (size // 8)).from_address(address)).cast("B").cast("Q")


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
