# SPDX-License-Identifier: GPL-2.0-or-later
"""What is behind a disk: an ``Image``; and files and block devices as they are, ``RawImage``.

Data goes straight between the file and the guest's pages, by one system call for each request
(``preadv``, ``pwritev``); nothing is copied here. What is in the host's page cache takes some
microseconds, so it is tried at once, in the thread of the vCPUs (``read_now``, ``write_now``); what
would wait for the disk is done in another thread.

*When is a write on the disk?* It is in the host's page cache when it is acknowledged, and on the
disk after a flush (``fdatasync``). With ``writethrough`` it is on the disk when it is acknowledged
(``RWF_DSYNC``). ``direct`` leaves the host's page cache out (``O_DIRECT``), and needs a flush as
well.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import resource
import stat
import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

from pyxen.backends.block.locks import lock_image
from pyxen.backends.opened import Opened
from pyxen.errors import PyxenError

SECTOR: Final = 512
"""What front ends and back ends count in, however large those of the disk are."""

_SLOW: Final = 0.001
"""Seconds after which a write to the page cache that slept has waited for the disk."""
_AFTER_SLOW: Final = 64
"""How many writes are left to other threads after one that was slow."""

_FALLOC_FL_KEEP_SIZE: Final = 1
_FALLOC_FL_PUNCH_HOLE: Final = 2
_BLKDISCARD: Final = 0x1277
_BLKSSZGET: Final = 0x1268


class Image(ABC):
    """The content of a disk: ``size`` bytes, in blocks of ``sector_size``.

    ``read``, ``write``, ``flush`` and ``discard`` may take long, are called in any thread, several
    at a time, and raise OSError. ``buffers`` are views of the guest's memory, filled or written
    one after the other. ``volatile`` says that a flush is needed; ``discards``, that space can be
    given back.
    """

    name: str
    size: int
    sector_size: int
    readonly: bool
    discards: bool
    volatile: bool

    @abstractmethod
    def read(self, buffers: Sequence[memoryview], offset: int) -> None: ...

    @abstractmethod
    def write(self, buffers: Sequence[memoryview], offset: int) -> None: ...

    @abstractmethod
    def flush(self) -> None:
        """All writes that have been acknowledged are on the disk when it returns."""

    @abstractmethod
    def discard(self, offset: int, size: int) -> None: ...

    def read_now(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """Read if that can be done without waiting, and say whether it was done."""
        return False

    def write_now(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """The same for writing."""
        return False

    def measure(self) -> int:
        """The size as it is now, a whole number of sectors."""
        return self.size

    @abstractmethod
    def close(self) -> None:
        """Nothing is in progress any more, and nothing follows."""


class RawImage(Image):
    """A file or a block device whose bytes are those of the disk.

    It is what ``open_raw`` has opened, and locked until ``close``. A last part of a file that is
    less than a sector is left out.
    """

    def __init__(
        self,
        path: Path,
        opened: Opened,
        *,
        readonly: bool = False,
        sector_size: int = 512,
        discards: bool = True,
        writethrough: bool = False,
        direct: bool = False,
    ) -> None:
        self.name = str(path)
        self.readonly = readonly
        self.sector_size = sector_size
        self.volatile = not writethrough
        self._direct = direct
        self._write_flags = os.RWF_DSYNC if writethrough else 0
        self._waits = direct
        self._slow_writes = 0
        (self._file,) = opened.files
        self._is_device = stat.S_ISBLK(os.fstat(self._file).st_mode)
        self.discards = discards and not readonly
        self.size = self.measure()

    def measure(self) -> int:
        size = os.lseek(self._file, 0, os.SEEK_END)
        return size - size % self.sector_size

    def read_now(self, buffers: Sequence[memoryview], offset: int) -> bool:
        if self._waits:
            return False
        try:
            done = os.preadv(self._file, buffers, offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
            self._waits = True  # this file system cannot tell: read in other threads
            return False
        return done == sum(map(len, buffers))

    def write_now(self, buffers: Sequence[memoryview], offset: int) -> bool:
        """No file system tells before whether a write will wait: the last ones say."""
        if self._direct or self._write_flags:
            return False
        if self._slow_writes:
            self._slow_writes -= 1
            return False
        start, slept = perf_counter(), _times_slept()
        self.write(buffers, offset)
        if perf_counter() - start > _SLOW and _times_slept() != slept:
            self._slow_writes = _AFTER_SLOW
        return True

    def read(self, buffers: Sequence[memoryview], offset: int) -> None:
        size = sum(map(len, buffers))
        done = os.preadv(self._file, buffers, offset)
        while done < size:
            rest = after(buffers, done)
            more = os.preadv(self._file, rest, offset + done)
            if not more:
                raise OSError(errno.EIO, "the file ends here", self.name)
            done += more

    def write(self, buffers: Sequence[memoryview], offset: int) -> None:
        size = sum(map(len, buffers))
        done = os.pwritev(self._file, buffers, offset, self._write_flags)
        while done < size:
            rest = after(buffers, done)
            done += os.pwritev(self._file, rest, offset + done, self._write_flags)

    def flush(self) -> None:
        os.fdatasync(self._file)

    def discard(self, offset: int, size: int) -> None:
        if self._is_device:
            fcntl.ioctl(self._file, _BLKDISCARD, struct.pack("QQ", offset, size))
        else:
            mode = _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE
            if _libc.fallocate(self._file, mode, offset, size):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), self.name)
        if not self.volatile:
            self.flush()

    def close(self) -> None:
        """What was written is on the disk when it returns."""
        if not self.readonly:
            self.flush()
        os.close(self._file)


def open_raw(
    path: Path, *, readonly: bool = False, sector_size: int = 512, direct: bool = False
) -> Opened:
    """The file of a ``RawImage``, locked. Raises PyxenError if it cannot be opened or is in use."""
    file = _open(path, readonly, direct)
    try:
        mode = os.fstat(file).st_mode
        if stat.S_ISBLK(mode):
            _check_sectors(file, path, sector_size)
        elif not stat.S_ISREG(mode):
            raise PyxenError(f"{path}: a file or a block device is expected")
        lock_image(file, path, readonly)
    except BaseException:
        os.close(file)
        raise
    return Opened((file,))


def _check_sectors(file: int, path: Path, sector_size: int) -> None:
    (needed,) = struct.unpack("I", fcntl.ioctl(file, _BLKSSZGET, bytes(4)))
    if sector_size % needed:
        raise PyxenError(f"{path}: its sectors have {needed} bytes: sector-size={needed}")


def _open(path: Path, readonly: bool, direct: bool) -> int:
    flags = os.O_CLOEXEC | (os.O_RDONLY if readonly else os.O_RDWR)
    if direct:
        flags |= os.O_DIRECT
    try:
        if not readonly and path.is_block_device():
            flags |= os.O_EXCL  # not what the host has mounted
        return os.open(path, flags)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise PyxenError(f"{path}: the host itself uses it (is it mounted?)") from None
        if error.errno == errno.EINVAL and direct:
            raise PyxenError(f"{path}: its file system has no direct access") from None
        raise PyxenError(f"{path}: {error.strerror}") from None


def _times_slept() -> int:
    """How often this thread has given up its CPU itself, not had it taken on a busy machine."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


def after(buffers: Sequence[memoryview], done: int) -> list[memoryview]:
    """What is left of buffers behind their first bytes."""
    rest = []
    for buffer in buffers:
        if done < len(buffer):
            rest.append(buffer[done:])
        done = max(0, done - len(buffer))
    return rest


def _load_libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    return library


_libc: Final = _load_libc()
