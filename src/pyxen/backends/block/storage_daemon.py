# SPDX-License-Identifier: GPL-2.0-or-later
"""Images in other formats than raw: QEMU's storage daemon understands them, and we use it by NBD.

Each such disk has a ``qemu-storage-daemon`` of its own, which opens the image and serves it on a
unix socket; the socket is passed to it, so that it can be connected to from the first moment. The
socket's file is removed before, as a pyxen that is killed could not, and we connect by a descriptor
of it. The daemon is ended with the disk, and by the kernel when pyxen is killed. It locks its
image, as we do.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from pyxen.backends.block.nbd import NbdImage
from pyxen.errors import PyxenError

DAEMON: Final = "qemu-storage-daemon"
DRIVERS: Final = {"qcow": "qcow", "qcow2": "qcow2", "qed": "qed", "vhd": "vpc", "vmdk": "vmdk"}
"""By xl's names of formats, those of QEMU's drivers."""

_EXPORT: Final = "disk"
_PATIENCE: Final = 10.0
# PR_SET_PDEATHSIG with SIGTERM, unless the parent has died already.
_START: Final = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 15)
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


class StorageDaemonImage(NbdImage):
    """An image in one of ``DRIVERS``. Raises PyxenError if it cannot be opened, or if there is no
    storage daemon."""

    def __init__(
        self,
        path: Path,
        image_format: str,
        *,
        readonly: bool = False,
        sector_size: int = 512,
        discards: bool = True,
        writethrough: bool = False,
        direct: bool = False,
    ) -> None:
        program = shutil.which(DAEMON)
        if program is None:
            raise PyxenError(
                f"{path}: images in the format {image_format} need {DAEMON}, which is not "
                "installed (Debian: qemu-system-common)"
            )
        node = _node(path, image_format, readonly, direct)
        self._process: subprocess.Popen[bytes] | None = None
        listener, place = _listen()
        try:
            with listener:
                export = f"type=nbd,id={_EXPORT},node-name=disk,name={_EXPORT}"
                export += f",writable={'off' if readonly else 'on'}"
                export += f",writethrough={'on' if writethrough else 'off'}"
                arguments = ["--nbd-server", f"addr.type=fd,addr.str={listener.fileno()}"]
                arguments += ["--blockdev", json.dumps(node), "--export", export]
                self._process = subprocess.Popen(
                    [sys.executable, "-ISc", _START, str(os.getpid()), program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=(listener.fileno(),),
                )
            super().__init__(
                f"/proc/self/fd/{place}",
                _EXPORT,
                str(path),
                readonly=readonly,
                sector_size=sector_size,
                discards=discards,
                writethrough=writethrough,
            )
        except PyxenError as error:
            raise PyxenError(f"{path}: {self._reason() or error}") from None
        finally:
            os.close(place)

    def _reason(self) -> str:
        """What the daemon has said, on one line."""
        process, self._process = self._process, None
        assert process is not None
        process.terminate()
        said = process.communicate()[1].decode(errors="replace")
        return " ".join(said.replace(f"{DAEMON}:", "").split())

    def close(self) -> None:
        """What was written is on the disk when it returns."""
        super().close()
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.communicate(timeout=_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _listen() -> tuple[socket.socket, int]:
    """A socket that listens, and a descriptor of its file, which has no name any more."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with tempfile.TemporaryDirectory(prefix="pyxen-disk-") as folder:
        address = f"{folder}/nbd"
        listener.bind(address)
        listener.listen(8)
        return listener, os.open(address, os.O_PATH | os.O_CLOEXEC)


def _node(path: Path, image_format: str, readonly: bool, direct: bool) -> dict[str, object]:
    """The image as QEMU's options for a block device have it."""
    common = {"read-only": readonly, "discard": "unmap", "cache": {"direct": direct}}
    driver = "host_device" if path.is_block_device() else "file"
    file = {"driver": driver, "filename": str(path), **common}
    return {"driver": DRIVERS[image_format], "node-name": "disk", "file": file, **common}
