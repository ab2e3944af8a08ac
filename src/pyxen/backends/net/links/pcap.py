# SPDX-License-Identifier: GPL-2.0-or-later
"""``pcap=FILE``: records what passes a link, for tcpdump and Wireshark.

A pcap file is a header and then, for each frame, the time, its length and its bytes; the magic
number of this kind says that times are in nanoseconds. Frames are recorded as the link sees them,
unfinished ones too, as tcpdump shows them on a machine whose card helps it: large segments, and
checksums that are "incorrect".

Writing is the work of a thread that may wait for the disk. If it does not keep up, frames pass
unrecorded and are counted. Whole records are written at once, so that a file whose process was
killed can be read up to its end.

Reference: draft-ietf-opsawg-pcap.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import struct
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyxen.backends.net.link import Frame, Link, Receive
from pyxen.errors import PyxenError

if TYPE_CHECKING:
    from pyxen.backends.doors import Doors

log = logging.getLogger("pyxen")

_MAGIC_NANOSECONDS: Final = 0xA1B23C4D
_SNAP_LENGTH: Final = 262144
_LINKTYPE_ETHERNET: Final = 1
_HEADER: Final = struct.Struct("<IHHiIII")
_RECORD: Final = struct.Struct("<IIII")
_NANOSECONDS: Final = 10**9
_QUEUE_LIMIT: Final = 16 << 20


class PcapLink:
    """``link``, with a record in the file at ``path``, which ``open_record`` has opened."""

    def __init__(self, doors: Doors, link: Link, path: Path, file: int) -> None:
        self._link = link
        self._path = path
        self._executor = doors.executor
        self._writer: Future[None] | None = None
        self._unrecorded = 0
        self._lock = threading.Lock()  # of what both threads change: the next four
        self._records: list[bytes] = []
        self._size = 0
        self._writing = False
        self._failed = False
        self._file: int | None = file

    @property
    def takes_unfinished(self) -> bool:
        return self._link.takes_unfinished

    def open(self, receive: Receive) -> None:
        def record_and_receive(frames: Sequence[Frame]) -> bool:
            self._record(frames)
            return receive(frames)

        self._link.open(record_and_receive)

    def send(self, frames: Sequence[Frame]) -> None:
        self._record(frames)
        self._link.send(frames)

    def resume(self) -> None:
        self._link.resume()

    def close(self) -> None:
        self._link.close()

    def release(self) -> None:
        """What was recorded is in the file when it returns."""
        self._link.release()
        if self._writer is not None:
            self._writer.result()
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def statistics(self) -> dict[str, int]:
        return {**self._link.statistics(), "pcap_dropped": self._unrecorded}

    def _record(self, frames: Sequence[Frame]) -> None:
        if self._file is None:
            return
        seconds, nanoseconds = divmod(time.time_ns(), _NANOSECONDS)
        with self._lock:
            for frame in frames:
                length = len(frame.data)
                if self._failed or self._size + length > _QUEUE_LIMIT:
                    self._unrecorded += 1
                    continue
                self._records += (_RECORD.pack(seconds, nanoseconds, length, length), frame.data)
                self._size += _RECORD.size + length
            if self._writing or not self._records:
                return
            self._writing = True
        self._writer = self._executor.submit(self._write, self._file)

    def _write(self, file: int) -> None:
        """In a thread of its own: write until there is no more."""
        while True:
            with self._lock:
                records, self._records = self._records, []
                self._size = 0
                if not records:
                    self._writing = False
                    return
            text = b"".join(records)
            try:
                while text:
                    text = text[os.write(file, text) :]
            except OSError as error:
                log.warning("net: %s: %s; no more is recorded", self._path, error.strerror)
                self._failed = True


def open_record(file: Path) -> int:
    """A file, which is overwritten, with the header of pcap. Raises PyxenError."""
    try:
        return _create(file)
    except OSError as error:
        raise PyxenError(f"net: {file}: {error.strerror}") from None


def _create(file: Path) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(file, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        # Another program at its end could stop us.
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    os.write(
        descriptor,
        _HEADER.pack(_MAGIC_NANOSECONDS, 2, 4, 0, 0, _SNAP_LENGTH, _LINKTYPE_ETHERNET),
    )
    return descriptor
