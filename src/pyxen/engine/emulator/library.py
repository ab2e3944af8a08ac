# SPDX-License-Identifier: GPL-2.0-or-later
"""The unicorn library: load it, make it fit, and prove what we assume about it.

Three things of its inside are used, all of version 2.1.4:

- the layout of the CPU state (``state``), read and written in place;
- exported functions below the public interface: TLB flushes of one set of translations, flags;
- ``check_exit_request``, which unicorn emits after *every* guest load and store. A stop that is taken there
  executes an instruction a second time whose store has already been done. The function is reached
  through the procedure linkage table, so its slot is pointed at a bare ``ret``: what is left is the check at the start of
  each translation block, where the state is whole. (Guest code also gets twice as fast.)

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
_R_X86_64_JUMP_SLOT: Final = 7
_DT_JMPREL, _DT_PLTRELSZ, _DT_SYMTAB = 23, 2, 6
_PT_LOAD, _PT_DYNAMIC = 1, 2

# ret at 0; rdtsc; shl rdx, 32; or rax, rdx; ret at 16.
_MACHINE_CODE: Final = b"\xc3".ljust(16, b"\x90") + b"\x0f\x31\x48\xc1\xe2\x20\x48\x09\xd0\xc3"

_keep_alive: list[object] = []


@functools.cache
def load() -> ctypes.CDLL:
    """The library, with its exit checks disabled. Raises PyxenError on any surprise."""
    try:
        import unicorn  # noqa: PLC0415 (loads 24 MB)
        from unicorn.unicorn_py3.unicorn import uclib  # noqa: PLC0415
    except ImportError as error:
        raise PyxenError(f"emulator: unicorn {VERSION} cannot be loaded: {error}") from error
    if unicorn.__version__ != VERSION:
        raise PyxenError(f"emulator: unicorn {unicorn.__version__} found, expected {VERSION}")
    library: ctypes.CDLL = uclib
    _disable_exit_check(library)
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
    """Address of our few bytes of machine code."""
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_MACHINE_CODE)
    anchor = ctypes.c_char.from_buffer(page)
    _keep_alive.extend((page, anchor))
    return ctypes.addressof(anchor)


@functools.cache
def tsc_reader() -> Any:
    """A function that executes RDTSC; the guest's RDTSC shows the same counter."""
    return ctypes.PYFUNCTYPE(ctypes.c_uint64)(_machine_code() + 16)


def _disable_exit_check(library: ctypes.CDLL) -> None:
    path, base = _mapping(ctypes.cast(library.uc_emu_start, ctypes.c_void_p).value or 0)
    try:
        target = ctypes.cast(getattr(library, _EXIT_CHECK), ctypes.c_void_p).value or 0
    except AttributeError:
        raise PyxenError(f"emulator: this build of unicorn does not export {_EXIT_CHECK}") from None
    slot = _linkage_slot(path, base, target - base)
    if not slot:
        raise PyxenError(f"emulator: this build of unicorn does not call {_EXIT_CHECK} by linkage")
    ctypes.c_uint64.from_address(base + slot).value = _machine_code()


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


def _linkage_slot(path: str, base: int, value: int) -> int:
    """Offset of the linkage slot of the function whose symbol has this value, or 0."""
    with open(path, "rb") as file:
        header = file.read(64)
        (table,) = struct.unpack_from("<Q", header, 32)
        size, count = struct.unpack_from("<HH", header, 54)
        file.seek(table)
        segments = list(struct.iter_unpack("<IIQQQQQQ", file.read(size * count)))
    dynamic = next((address, length) for kind, _, _, address, _, length, *_ in segments if kind == _PT_DYNAMIC)
    tags = dict(struct.iter_unpack("<QQ", ctypes.string_at(base + dynamic[0], dynamic[1])))
    relocations = ctypes.string_at(tags[_DT_JMPREL], tags[_DT_PLTRELSZ])
    symbols = tags[_DT_SYMTAB]
    for offset, info, _ in struct.iter_unpack("<QQq", relocations):
        if info & 0xFFFFFFFF != _R_X86_64_JUMP_SLOT:
            continue
        if ctypes.c_uint64.from_address(symbols + 24 * (info >> 32) + 8).value == value:
            return int(offset)
    return 0


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
    from pyxen.engine.emulator.check import check_state_layout  # noqa: PLC0415

    load()
    check_state_layout()
    return f"unicorn {VERSION}, state layout checked"
