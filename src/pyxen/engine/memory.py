# SPDX-License-Identifier: GPL-2.0-or-later
"""Machine memory: what guest code can reach, as one range of host addresses.

The range is reserved once; its upper part is a shared mapping of a memfd that holds guest RAM and
nothing else (so that another process can map a guest's page by its frame number), its lower part
is private memory for the hypervisor's frames: shared info, tables, the machine-to-phys map.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref

from pyxen.errors import PyxenError

PAGE_SIZE = 4096
RAM_MFN = 0x10000
"""First frame of guest RAM. Not 0, so that a pfn used as an mfn (or the reverse) shows."""
MAX_RAM_PAGES = 1 << 24
"""64 GiB: the machine-to-phys map of more would not fit below ``RAM_MFN``."""

_MAP_FAILED = ctypes.c_void_p(-1).value
_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000


def _libc_mmap(address: int, size: int, flags: int, fd: int) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    )
    result = libc.mmap(address or None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, 0)
    if result is None or result == _MAP_FAILED:
        reason = os.strerror(ctypes.get_errno())
        raise PyxenError(f"memory: the host refuses {size >> 20} MiB: {reason}")
    return int(result)


def _unmap(address: int, size: int) -> None:
    ctypes.CDLL(None).munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))


class MachineMemory:
    """See ``protocol.MachineMemory``. ``address`` is where machine address 0 lies in the host."""

    def __init__(self, ram_pages: int) -> None:
        if not 0 < ram_pages <= MAX_RAM_PAGES:
            raise PyxenError(
                f"memory: {ram_pages >> 8} MiB asked for, "
                f"expected more than 0 and at most {MAX_RAM_PAGES >> 8} MiB"
            )
        self.ram_mfn = RAM_MFN
        self.frames = RAM_MFN + ram_pages
        self.size = self.frames * PAGE_SIZE
        ram_size = ram_pages * PAGE_SIZE
        self.fd = os.memfd_create("pyxen-ram", os.MFD_CLOEXEC)
        os.ftruncate(self.fd, ram_size)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
        self.address = _libc_mmap(0, self.size, flags, -1)
        _libc_mmap(
            self.address + RAM_MFN * PAGE_SIZE, ram_size, mmap.MAP_SHARED | _MAP_FIXED, self.fd
        )
        array = (ctypes.c_char * self.size).from_address(self.address)
        weakref.finalize(array, _unmap, self.address, self.size)
        self.bytes = memoryview(array).cast("B")
        self.words = self.bytes.cast("Q")
        self.code_frames = memoryview(bytearray(self.frames))

    def close(self) -> None:
        """Give the memory back, which happens when the last view of it is gone."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            del self.bytes, self.words
