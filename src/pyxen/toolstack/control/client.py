# SPDX-License-Identifier: GPL-2.0-or-later
"""The other side of the control socket: blocking, for one thread."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pyxen.errors import PyxenError
from pyxen.toolstack.control.messages import BROKER_SOCKET, LINE_LIMIT, Answer, Event, Request
from pyxen.toolstack.control.wire import read_line, read_message, request_line

_CHUNK = 64 * 1024
_SHORTEST = 0.001


class ControlError(PyxenError):
    """The connection was lost, or never made: the domain's process has ended."""


class ControlTimeout(ControlError):
    """Nothing came in time."""


class ControlClient:
    """A connection to a domain's process; a context manager.

    Args:
        folder: the domain's folder.
        timeout: for each answer, in seconds; None: no limit.

    Raises ControlError when the process cannot be reached, PyxenError for what it refuses.
    """

    def __init__(self, folder: Path, timeout: float | None = None) -> None:
        self._name = folder.name
        self._timeout = timeout
        self._received = bytearray()
        self._events: deque[Event] = deque()
        with self._lost_if_refused():
            # By its descriptor it is found also when the domain has another number.
            self._folder = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with self._lost_if_refused():
                self._socket = self._connect("control.sock")
        except BaseException:
            os.close(self._folder)
            raise

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1

    def _connect(self, name: str) -> socket.socket:
        return connect(Path(f"/proc/self/fd/{self._folder}"), name, self._timeout)

    @contextmanager
    def _lost_if_refused(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._lost(error) from None

    def ask(self, request: Request[Answer]) -> Answer:
        """The answer to a request. Events that come before it are kept for ``wait_event``."""
        if request.permit:
            self._permit(request)
        self._socket.settimeout(self._timeout)
        self._send(request_line(request))
        while True:
            content = self._receive()
            if "event" in content:
                self._events.append(read_message(Event, content["event"]))
            elif "error" in content:
                raise PyxenError(str(content["error"]))
            else:
                answer: Answer = read_message(request.answer, content.get("answer"))
                return answer

    def wait_event(self, timeout: float | None = None) -> Event:
        """The next event, after a ``Subscribe``. Raises ControlError when the process ends, and
        ControlTimeout when none comes in this time."""
        if self._events:
            return self._events.popleft()
        self._socket.settimeout(timeout if timeout is None else max(_SHORTEST, timeout))
        return read_message(Event, self._receive().get("event"))

    def _permit(self, request: Request[Any]) -> None:
        """Have the domain's broker do what this request will need of it."""
        try:
            with self._connect(BROKER_SOCKET) as broker, broker.makefile("rb") as answers:
                broker.sendall(request_line(request))
                line = answers.readline(LINE_LIMIT)
        except OSError as error:
            reason = error.strerror or error
            raise ControlError(f"domain {self._name}: its broker: {reason}") from None
        if not line:
            raise ControlError(f"domain {self._name}: its broker has ended")
        content = read_line(line)
        if "error" in content:
            raise PyxenError(str(content["error"]))

    def _send(self, line: bytes) -> None:
        try:
            self._socket.sendall(line)
        except OSError as error:
            raise self._lost(error) from None

    def _receive(self) -> dict[str, Any]:
        while (end := self._received.find(b"\n")) < 0:
            try:
                data = self._socket.recv(_CHUNK)
            except OSError as error:
                raise self._lost(error) from None
            if not data:
                raise ControlError(f"domain {self._name}: its process has ended")
            self._received += data
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return read_line(line)

    def _lost(self, error: OSError) -> ControlError:
        if isinstance(error, TimeoutError):
            return ControlTimeout(f"domain {self._name}: its process does not answer")
        return ControlError(f"domain {self._name}: {error.strerror or error}")


def connect(folder: Path, name: str, timeout: float | None = None) -> socket.socket:
    """Connect with a socket in a domain's folder, which has this time-out then. Raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout)
    try:
        with opened(folder) as place:
            connection.connect(f"{place}/{name}")
    except BaseException:
        connection.close()
        raise
    return connection


class opened:
    """A short path to a folder, while in the context: paths of sockets have 107 bytes at most."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Path:
        self._fd = os.open(self._folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        return Path(f"/proc/self/fd/{self._fd}")

    def __exit__(self, *exception: object) -> None:
        os.close(self._fd)
