# SPDX-License-Identifier: GPL-2.0-or-later
"""To what an extra console is connected on the host: a pty, or a unix socket that listens.

Output never waits: it goes into a buffer of limited size, out of which the I/O thread writes as the
other end takes it. That is also what is kept while nobody is connected. When the buffer is full,
the middle is discarded, or no more is taken from the guest (``keep``), as xenconsoled can do both.
Input is read by the piece, when it is asked for: a guest that takes none holds its source back.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import tty
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pyxen.abi.io_console import XENCONS_OUT_SIZE
from pyxen.backends.console import sockets
from pyxen.backends.console.buffer import DEFAULT_LIMIT, OutputBuffer
from pyxen.backends.opened import Opened

_CHUNK: Final = 16 * 1024
_RETRY_SECONDS: Final = 1.0


class Outlet(ABC):
    """``tty`` is the path of the terminal, or empty. ``output`` and ``ask`` may be called in any
    thread, what begins with an underscore is for the loop's."""

    tty = ""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, limit: int = DEFAULT_LIMIT, *, keep: bool = False
    ) -> None:
        self._loop = loop
        self._lock = threading.Lock()
        self._limit = limit
        self._keep = keep
        # Where nothing is to be discarded, a ring may come on top, and once more at the end.
        self._buffer = OutputBuffer(limit + 2 * XENCONS_OUT_SIZE if keep else limit)
        self._flushing = False
        self._refused = False
        self._asked = False
        self._deliver: Callable[[bytes], None] = lambda data: None
        self._tell_room: Callable[[], None] = lambda: None
        self._fd = -1
        """The other end, while there is one."""

    @property
    def discarded(self) -> int:
        """Bytes of output that were too many."""
        return self._buffer.discarded

    def start(self, deliver: Callable[[bytes], None], tell_room: Callable[[], None]) -> None:
        """Begin. ``deliver`` gets input, once for each ``ask``; ``tell_room`` is called when there
        is room again after ``has_room`` has said no. Both in the loop's thread."""
        self._deliver = deliver
        self._tell_room = tell_room
        self._loop.call_soon_threadsafe(self._start)

    def has_room(self) -> bool:
        """Whether output should be given now."""
        with self._lock:
            self._refused = self._keep and len(self._buffer) >= self._limit
            return not self._refused

    def output(self, data: bytes) -> None:
        """Write this as soon as the other end takes it; never waits."""
        with self._lock:
            self._buffer.append(data)
            wanted, self._flushing = not self._flushing, True
        if wanted:
            self._loop.call_soon_threadsafe(self._flush)

    def ask(self) -> None:
        """Read the next piece of input, when there is any."""
        self._loop.call_soon_threadsafe(self._ask)

    def close(self) -> None:
        """Write what the other end takes at once, and let go of it. Waits for the loop's thread."""

        async def close() -> None:
            self._flush()
            self._close()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result()

    @abstractmethod
    def _start(self) -> None: ...

    @abstractmethod
    def _hung_up(self) -> None:
        """The other end has gone."""

    @abstractmethod
    def _close(self) -> None: ...

    def _connect(self, fd: int) -> None:
        """There is another end from now on; ``fd`` does not block."""
        self._fd = fd
        if self._asked:
            self._ask()
        self._flush()

    def _disconnect(self) -> None:
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            self._fd = -1

    def _ask(self) -> None:
        self._asked = True
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._receive)

    def _receive(self) -> None:
        try:
            data = os.read(self._fd, _CHUNK)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._asked = False
            self._loop.remove_reader(self._fd)
            self._deliver(data)
        else:
            self._hung_up()

    def _flush(self) -> None:
        """Write what can be written without waiting."""
        fd = self._fd
        with self._lock:
            self._flushing = False
            if fd < 0:
                return
            try:
                if self._buffer:
                    self._buffer.consume(os.write(fd, self._buffer.first(_CHUNK)))
            except BlockingIOError:
                pass
            except OSError:
                fd = -1
            # Until it is empty the loop calls us, and ``output`` need not.
            self._flushing = fd >= 0 and bool(self._buffer)
            has_room = self._refused and len(self._buffer) < self._limit
            self._refused = self._refused and not has_room
        if has_room:
            self._tell_room()
        if fd < 0:
            self._hung_up()
        elif self._flushing:
            self._loop.add_writer(fd, self._flush)
        else:
            self._loop.remove_writer(fd)


class PtyOutlet(Outlet):
    """A pseudo-terminal of its own, raw, as xenconsoled makes them: that of ``open_pty``. This end
    keeps the user's side open, so that users may come and go."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        opened: Opened,
        limit: int = DEFAULT_LIMIT,
        *,
        keep: bool = False,
    ) -> None:
        super().__init__(loop, limit, keep=keep)
        self._master, self._slave = opened.files
        self.tty = os.ttyname(self._slave)

    def _start(self) -> None:
        self._connect(self._master)

    def _hung_up(self) -> None:
        """Only if somebody has hung up the terminal by force: it is of no more use then."""
        self._disconnect()

    def _close(self) -> None:
        self._disconnect()
        os.close(self._master)
        os.close(self._slave)


class SocketOutlet(Outlet):
    """A unix socket that listens, that of ``open_socket``, for one client after the other."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        opened: Opened,
        limit: int = DEFAULT_LIMIT,
        *,
        keep: bool = False,
    ) -> None:
        super().__init__(loop, limit, keep=keep)
        self._opened = opened
        self._listener = socket.socket(fileno=opened.files[0])
        self._listener.setblocking(False)
        self._client: socket.socket | None = None

    def _start(self) -> None:
        if self._listener.fileno() >= 0:
            self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        try:
            self._client, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # too many open files, say
            self._loop.remove_reader(self._listener)
            self._loop.call_later(_RETRY_SECONDS, self._start)
            return
        self._client.setblocking(False)
        self._loop.remove_reader(self._listener)
        self._connect(self._client.fileno())

    def _hung_up(self) -> None:
        self._drop()
        self._start()

    def _drop(self) -> None:
        self._disconnect()
        if self._client is not None:
            self._client.close()
            self._client = None

    def _close(self) -> None:
        self._drop()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        self._opened.release()


def open_pty() -> Opened:
    """A pseudo-terminal, raw: its master, which does not block, and the user's side. Raises
    OSError."""
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    return Opened((master, slave))


def open_socket(path: Path) -> Opened:
    """A socket that listens there, for its owner. Raises PyxenError if it cannot be made."""
    listener = sockets.listen(path)
    return Opened((listener.detach(),), lambda: path.unlink(missing_ok=True))
