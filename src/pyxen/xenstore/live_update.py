# SPDX-License-Identifier: GPL-2.0-or-later
"""Live update: another program goes on in the place of the server, and nobody notices.

A client, ``xenstore-control live-update``, names the program (``-f``), perhaps its arguments
(``-c``), and has the update begin (``-s``), in CONTROL requests of one connection. It begins when
no transaction is open; new ones wait meanwhile. After the time that ``-t`` tells, an update that
still cannot begin is refused, or, with ``-F``, begins nevertheless: the open transactions then end
with EAGAIN. Then the server writes its state into a file and executes the program in its own
process, where all sockets stay open. The answer of ``-s`` is part of that state: it is sent by the
new program. Answers that are no "OK" are texts for people, as those of C xenstored.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from pyxen.abi.io_xs_wire import XS_TRANSACTION_START
from pyxen.xenstore.error import StoreError

if TYPE_CHECKING:
    from pyxen.xenstore.connection import Connection
    from pyxen.xenstore.daemon import Xenstored
    from pyxen.xenstore.operations import Request
    from pyxen.xenstore.wire import Message

OK: Final = "OK"
_LOOK_AGAIN: Final = 0.05

log = logging.getLogger(__name__)


class _Session(Struct, eq=False):
    """What has been asked for. ``started``: when, None before ``-s``; ``message`` is that request,
    which is answered at the end."""

    connection: Connection
    program: str
    arguments: list[str] | None = None
    force: bool = False
    timeout: int = 0
    started: float | None = None
    message: Message | None = None


class LiveUpdate:
    """Those of one server. ``execute(program, arguments)`` saves the state and does not return;
    without arguments it is those of the present program. It raises OSError if it cannot."""

    def __init__(self, daemon: Xenstored, execute: Callable[[str, list[str] | None], None]) -> None:
        self._daemon = daemon
        self._execute = execute
        self._session: _Session | None = None

    def delays(self, connection: Connection, message: Message) -> bool:
        """Whether a request is to wait for the end of an update: one for a first transaction."""
        return (
            self._session is not None
            and message.type == XS_TRANSACTION_START
            and not connection.transactions
        )

    def forget(self, connection: Connection) -> None:
        """This client has gone, and with it what it has asked for."""
        if self._session is not None and self._session.connection is connection:
            self._end()

    def _end(self) -> None:
        self._session = None
        for connection in list(self._daemon.connections):
            connection.resume()

    # Commands

    def command(self, request: Request, arguments: list[str]) -> str | None:
        """Returns the answer, None if it comes later. Raises EINVAL."""
        match arguments:
            case ["-a"]:
                return self._abort()
            case ["-c", line]:
                return self._set_arguments(request.connection, line)
            case ["-f", program]:
                return self._begin(request.connection, program)
            case ["-s", *options]:
                return self._start(request, options)
        raise StoreError("EINVAL")

    def _begin(self, connection: Connection, program: str) -> str:
        if not os.path.exists(program):
            return "File not accessible."
        if not os.access(program, os.X_OK):
            return "File not executable."
        if self._session is not None:
            return "live-update session already active."
        self._session = _Session(connection, program)
        return OK

    def _abort(self) -> str:
        session = self._session
        if session is None:
            return "No live-update session active."
        if session.message is not None:
            _answer(session, "Cancellation was requested")
        self._end()
        return OK

    def _set_arguments(self, connection: Connection, line: str) -> str:
        if self._session is None or self._session.connection is not connection:
            return "Not in live-update session."
        self._session.arguments = line.split()
        return OK

    def _start(self, request: Request, options: list[str]) -> str | None:
        session = self._session
        force, timeout = False, 0
        left = list(options)
        while left:
            option = left.pop(0)
            if option == "-F":
                force = True
            elif option == "-t" and left:
                number = left.pop(0)
                timeout = int(number) if number.isdecimal() else 0
            else:
                raise StoreError("EINVAL")
        if session is None or session.connection is not request.connection:
            return "Not in live-update session."
        if session.message is not None:
            raise StoreError("EINVAL")
        session.force, session.timeout = force, timeout
        session.started = self._daemon.now()
        session.message = request.message
        self._later(0.0)
        return None

    # The update

    def _later(self, seconds: float) -> None:
        session = self._session
        assert self._daemon.later is not None
        self._daemon.later(seconds, lambda: self._try(session))

    def _try(self, session: _Session | None) -> None:
        if session is None or session is not self._session or session.started is None:
            return
        now = self._daemon.now()
        running = self._running(now)
        late = [each for each in running if each[1] >= session.timeout]
        if running and not (session.force and len(late) == len(running)):
            if now < session.started + session.timeout:
                self._later(_LOOK_AGAIN)
                return
            if not session.force:
                self._refuse(session, _reason(late))
                return
        log.info("xenstore: live update to %s", session.program)
        output = session.connection.output
        _answer(session, OK)
        try:
            self._execute(session.program, session.arguments)
        except OSError as error:
            log.error("xenstore: live update to %s: %s", session.program, error.strerror)
            output.pop()
            self._refuse(session, "Error activating new binary.")

    def _running(self, now: float) -> list[tuple[int, float]]:
        """For each client with transactions: its domain, and since how many seconds."""
        return [
            (each.domid, now - min(one.started for one in each.transactions.values()))
            for each in self._daemon.connections
            if each.transactions
        ]

    def _refuse(self, session: _Session, reason: str) -> None:
        _answer(session, reason)
        self._end()
        self._daemon.wake_clients()


def _answer(session: _Session, text: str) -> None:
    assert session.message is not None
    session.connection.answer(session.message, text.encode() + b"\0")


def _reason(late: list[tuple[int, float]]) -> str:
    if not late:
        return "Overlapping transactions"
    lines = [f"Domain {domid}: {seconds:.0f} s" for domid, seconds in late]
    return "\n".join(["Domains with long running transactions:", *lines])
