# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting the store of the host when it is first needed.

Whoever needs it holds a lock from looking for it until being connected with it, and a server that
nobody uses any more holds the same lock while it ends. So there is never a second server, and none
ends that somebody is about to use. The lock is an empty file beside the socket.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pyxen.errors import PyxenError
from pyxen.xenstore.address import connect

_TIMEOUT: Final = 20.0
_POLL: Final = 0.01


class StartLock:
    """Of a socket's path. Whoever removes the file holds it."""

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(f"{path.name}.lock")

    @contextlib.contextmanager
    def held(self, seconds: float) -> Iterator[None]:
        """Raises PyxenError if another process holds it for longer, or it cannot be made."""
        deadline = time.monotonic() + seconds
        while (fd := self.take()) is None:
            if time.monotonic() >= deadline:
                raise PyxenError(f"{self.path}: another process holds it for {seconds:g} s")
            time.sleep(_POLL)
        try:
            yield
        finally:
            os.close(fd)

    def take(self) -> int | None:
        """Its file descriptor, which holds it until it is closed; None if another has it."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise PyxenError(f"{self.path}: {error.strerror}") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(fd), os.stat(self.path)):
                return fd
        except (BlockingIOError, FileNotFoundError):
            pass  # held, or removed by a server that has ended
        os.close(fd)
        return None


def ensure_xenstored(
    path: Path, log_file: Path, *, idle_exit: float = 10.0, timeout: float = _TIMEOUT
) -> socket.socket:
    """Connect with the server at this socket, which is started if there is none.

    The server is detached from this process and its terminal, writes its complaints to
    ``log_file``, and ends when nobody has been connected for ``idle_exit`` seconds. Folders are to
    be there. Raises PyxenError if it cannot be started in so many seconds.
    """
    with StartLock(path).held(timeout):
        with contextlib.suppress(FileNotFoundError, ConnectionRefusedError):
            return _connect(path)
        _start(path, log_file, idle_exit, timeout)
        try:
            return _connect(path)
        except (FileNotFoundError, ConnectionRefusedError):
            raise PyxenError(f"xenstored: has ended as soon as it began; see {log_file}") from None


def _connect(path: Path) -> socket.socket:
    try:
        return connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        raise
    except OSError as error:
        raise PyxenError(f"{path}: {error.strerror or error}") from None


def _start(path: Path, log_file: Path, idle_exit: float, timeout: float) -> None:
    """Returns when it listens."""
    command = [sys.executable, "-m", "pyxen", "xenstored", "--socket", str(path.absolute())]
    command += ["--detach", str(log_file.absolute()), "--idle-exit", f"{idle_exit:g}"]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise PyxenError(
            f"xenstored: has not started within {timeout:g} s; see {log_file}"
        ) from None
    if done.returncode:
        reason = done.stderr.decode(errors="replace").strip().removeprefix("pyxen: ")
        raise PyxenError(f"xenstored: {reason or f'ended with status {done.returncode}'}")
