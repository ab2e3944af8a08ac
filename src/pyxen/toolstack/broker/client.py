# SPDX-License-Identifier: GPL-2.0-or-later
"""The broker as the domain's process knows it."""

from __future__ import annotations

import errno
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Final

from pyxen.backends.opened import Opened
from pyxen.errors import PyxenError
from pyxen.hypervisor.domain import Domain
from pyxen.toolstack.broker import messages, wire
from pyxen.toolstack.config import DomainConfig, to_json
from pyxen.toolstack.control.messages import Answer, Request
from pyxen.toolstack.control.wire import read_line, read_message, request_line
from pyxen.toolstack.core_dump import write_core
from pyxen.toolstack.registry import Record

_OPEN: Final[dict[str, Any]] = {
    "vbd": messages.OpenDisk,
    "vif": messages.OpenNic,
    "console": messages.OpenChannel,
}


class BrokerGone(PyxenError, OSError):
    """It has ended."""

    def __init__(self) -> None:
        OSError.__init__(self, errno.EPIPE, "the domain's broker has ended")

    def __str__(self) -> str:
        return str(self.strerror)


class Broker:
    """See the package: one method for each request. In any thread but that of the loop, as they
    wait for the answer. All of them raise PyxenError, and OSError where that is said.

    ``record`` and ``folder``, the descriptor of the domain's folder, are there after ``join``.
    """

    record: Record
    folder: int

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def _ask(self, request: Request[Answer]) -> tuple[Answer, list[int]]:
        try:
            with self._lock:
                wire.send(self._connection, request_line(request))
                line, files = wire.receive(self._connection)
        except (OSError, EOFError):
            raise BrokerGone from None
        content = read_line(line)
        if "errno" in content:
            number = int(content["errno"])
            raise OSError(number, os.strerror(number), content["file"])
        if "error" in content:
            raise PyxenError(str(content["error"]))
        answer: Answer = read_message(request.answer, content["answer"])
        return answer, files

    # The domain's place in the registry

    def join(self) -> None:
        """Take a number and a folder, which is the domain's as long as this process lives."""
        self.record, (_lock, self.folder) = self._ask(messages.Join())

    def renumber(self) -> int:
        self.record, _ = self._ask(messages.Renumber())
        return self.record.domid

    def rename(self, name: str, uuid: str | None = None) -> None:
        self.record, _ = self._ask(messages.Rename(name, uuid))

    def configure(self, config: DomainConfig) -> None:
        self._ask(messages.Configure(to_json(config)))

    def spawn(self, config: DomainConfig) -> None:
        self._ask(messages.Spawn(to_json(config)))

    def leave(self) -> None:
        self._ask(messages.Leave())

    # Opening

    def connect_store(self, *, start: bool = False) -> socket.socket:
        """Raises OSError too."""
        _, (file,) = self._ask(messages.ConnectStore(start))
        return socket.socket(fileno=file)

    def open_device(self, kind: str, config: Any) -> Opened:
        answer, files = self._ask(_OPEN[kind](config))

        def release() -> None:
            with suppress(BrokerGone):  # which has done it at its end
                self._ask(messages.Release(answer.number))

        return Opened(tuple(files), release, answer.pid, answer.facts)

    def open_console_log(self, rotate: bool) -> int:
        """Raises OSError too."""
        _, (file,) = self._ask(messages.OpenConsoleLog(rotate))
        return file

    def open_file(self, path: Path) -> BinaryIO:
        """One that the domain is built from. Raises OSError too."""
        _, (file,) = self._ask(messages.OpenBuildFile(str(path)))
        return open(file, "rb")

    def dump_core(self, domain: Domain, path: Path | None = None) -> None:
        """As ``core_dump.dump_core``; without a path to where those of domains that have crashed
        are. Raises OSError too."""
        opened, (file,) = self._ask(messages.OpenCore(str(path or "")))
        whole = False
        try:
            write_core(domain, file)
            whole = True
        finally:
            self._ask(messages.FinishCore(opened.number, whole))
