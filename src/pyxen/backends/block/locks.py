# SPDX-License-Identifier: GPL-2.0-or-later
"""Nobody writes to an image while another one uses it.

Linux's *open file description* locks belong to an open file, so that they keep apart two disks of
one process as well as two processes, and end with the last of its users however that ends. They
are advisory; we use them as QEMU does, so that an image which a QEMU process uses is refused here,
and the reverse. In its scheme each kind of use is a byte of the file (which need not exist): a
user holds a shared lock at 100 + n for each use n that it makes, and at 200 + n for each that it
does not suffer in others. Whoever comes looks for locks at 200 + n for its own uses, and at 100 +
n for what it does not suffer.

Reference: QEMU, ``docs/system/images`` ("Disk image file locking").
"""

from __future__ import annotations

import errno
import fcntl
import struct
from pathlib import Path
from typing import Final

from pyxen.errors import PyxenError

_USED: Final = 100
_UNSHARED: Final = 200
_READ, _WRITE, _RESIZE = 0, 1, 3
_FLOCK: Final = struct.Struct("@hhqqi4x")
"""struct flock: type, whence, start, length, process."""


def lock_image(file: int, path: Path, readonly: bool) -> None:
    """Keep an open image for us: others may read with us, and none may write. If we write, none may
    even read. Raises PyxenError if another one is in the way."""
    uses = [_READ] if readonly else [_READ, _WRITE]
    refused = [_WRITE, _RESIZE] if readonly else [_READ, _WRITE, _RESIZE]
    mine = [_USED + use for use in uses] + [_UNSHARED + use for use in refused]
    others = [_UNSHARED + use for use in uses] + [_USED + use for use in refused]
    try:
        for byte in mine:
            fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FLOCK.pack(fcntl.F_RDLCK, 0, byte, 1, 0))
        in_use = any(_is_locked(file, byte) for byte in others)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise PyxenError(f"{path}: it cannot be locked: {error.strerror}") from None
        in_use = True
    if in_use:
        how = "is writing to it" if readonly else "has it open, and this one would write to it"
        raise PyxenError(f"{path}: the image is in use: another disk or program {how}")


def _is_locked(file: int, byte: int) -> bool:
    """Whether another one holds a lock there; ours are not seen."""
    query = _FLOCK.pack(fcntl.F_WRLCK, 0, byte, 1, 0)
    answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, query)
    return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)
