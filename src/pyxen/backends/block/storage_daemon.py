# SPDX-License-Identifier: GPL-2.0-or-later
"""Images in other formats than raw: QEMU's storage daemon understands them, and we use it by NBD.

Each such disk has a ``qemu-storage-daemon`` of its own, which opens the image and serves it on a
unix socket. The socket is passed to it with connections that wait there already, and its file is
removed before, as a pyxen that is killed could not. The daemon is ended with the disk, and by the
kernel when pyxen is killed. It locks its image, as we do.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import tempfile
from pathlib import Path
from typing import Final

from pyxen.backends.block.nbd import CONNECTIONS, NbdImage
from pyxen.backends.opened import Opened, Program, last_words
from pyxen.errors import PyxenError

DAEMON: Final = "qemu-storage-daemon"
DRIVERS: Final = {"qcow": "qcow", "qcow2": "qcow2", "qed": "qed", "vhd": "vpc", "vmdk": "vmdk"}
"""By xl's names of formats, those of QEMU's drivers."""

_EXPORT: Final = "disk"
# PR_SET_PDEATHSIG with SIGTERM, unless the parent has died already.
_START: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class StorageDaemonImage(NbdImage):
    """An image in one of ``DRIVERS``, behind the daemon that ``start_daemon`` has started. Raises
    PyxenError if the daemon cannot open it."""

    def __init__(
        self,
        path: Path,
        opened: Opened,
        *,
        readonly: bool = False,
        sector_size: int = 512,
        discards: bool = True,
        writethrough: bool = False,
    ) -> None:
        self._opened = opened
        self._messages, *connections = opened.files
        try:
            super().__init__(
                [socket.socket(fileno=each) for each in connections],
                _EXPORT,
                str(path),
                readonly=readonly,
                sector_size=sector_size,
                discards=discards,
                writethrough=writethrough,
            )
        except PyxenError as error:
            opened.release()
            reason = " ".join(last_words(self._messages).replace(f"{DAEMON}:", "").split())
            raise PyxenError(f"{path}: {reason or error}") from None

    def close(self) -> None:
        """What was written is on the disk when it returns."""
        super().close()
        self._opened.release()
        if self._messages >= 0:
            os.close(self._messages)
            self._messages = -1


def start_daemon(
    path: Path,
    image_format: str,
    *,
    readonly: bool = False,
    writethrough: bool = False,
    direct: bool = False,
) -> Opened:
    """Start a daemon for an image: its messages, and connections with it. Whether it can open the
    image is known when it is spoken to. Raises PyxenError if there is none."""
    program = shutil.which(DAEMON)
    if program is None:
        raise PyxenError(
            f"{path}: images in the format {image_format} need {DAEMON}, which is not "
            "installed (Debian: qemu-system-common)"
        )
    with socket.socket(socket.AF_UNIX) as listener:
        connections = _connect(listener)
        export = f"type=nbd,id={_EXPORT},node-name=disk,name={_EXPORT}"
        export += f",writable={'off' if readonly else 'on'}"
        export += f",writethrough={'on' if writethrough else 'off'}"
        command = [sys.executable, "-ISc", _START, str(os.getpid()), program]
        command += ["--nbd-server", f"addr.type=fd,addr.str={listener.fileno()}"]
        command += ["--blockdev", json.dumps(_node(path, image_format, readonly, direct))]
        command += ["--export", export]
        daemon = Program(command, [listener.fileno()])
    return Opened((daemon.messages, *connections), daemon.stop, daemon.pid)


def _connect(listener: socket.socket) -> list[int]:
    """Connections with a socket that listens from now on, and whose file has gone again."""
    connections = []
    with tempfile.TemporaryDirectory(prefix="pyxen-disk-") as folder:
        listener.bind(f"{folder}/nbd")
        listener.listen(CONNECTIONS)
        for _ in range(CONNECTIONS):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(f"{folder}/nbd")
            connections.append(connection.detach())
    return connections


def _node(path: Path, image_format: str, readonly: bool, direct: bool) -> dict[str, object]:
    """The image as QEMU's options for a block device have it."""
    common = {"read-only": readonly, "discard": "unmap", "cache": {"direct": direct}}
    driver = "host_device" if path.is_block_device() else "file"
    file = {"driver": driver, "filename": str(path), **common}
    return {"driver": DRIVERS[image_format], "node-name": "disk", "file": file, **common}
