# SPDX-License-Identifier: GPL-2.0-or-later
"""CONTROL requests: what ``xenstore-control`` asks the server to do, and the server's log.

A request is the name of a command and its arguments; the answer is a text. The commands are those
of C xenstored, and three of ours, for the processes in which domains live: ``confine`` limits the
client that says it to a domain's nodes (``confinement``), ``guest-connect`` makes the socket it
comes by a domain's (``server``), ``guest-stopped`` tells that a domain has stopped.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from msgspec import Struct

from pyxen.abi.io_xs_wire import XS_NAMES
from pyxen.xenstore import paths
from pyxen.xenstore.confinement import CONFINE, Confinement
from pyxen.xenstore.error import StoreError
from pyxen.xenstore.quotas import HARD, SOFT
from pyxen.xenstore.wire import decode

if TYPE_CHECKING:
    from pyxen.xenstore.connection import Connection
    from pyxen.xenstore.daemon import Xenstored
    from pyxen.xenstore.domains import DomainRecord
    from pyxen.xenstore.operations import Request
    from pyxen.xenstore.wire import Message

OK: Final = "OK"
_GUEST_CONNECT: Final = "guest-connect"
_LIVE_UPDATE: Final = "live-update"

log = logging.getLogger(__name__)


class Log:
    """The trace of all requests, in a file; off unless asked for."""

    def __init__(self) -> None:
        self.path: Path | None = None
        self._file: TextIO | None = None

    @property
    def on(self) -> bool:
        return self._file is not None

    def open(self) -> None:
        """Begin, or go on, if there is a path. Raises EINVAL if the file cannot be written."""
        self.close()
        if self.path is None:
            return
        try:
            self._file = self.path.open("a", encoding="latin-1", buffering=1)
        except OSError:
            raise StoreError("EINVAL") from None

    def close(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # what could not be written is written once more
                self._file.close()
            self._file = None

    def request(self, connection: Connection, message: Message) -> None:
        """One line of a request."""
        if self._file is None:
            return
        kind = XS_NAMES.get(message.type, str(message.type)).removeprefix("XS_")
        text = decode(message.payload).replace("\0", " ").encode("unicode_escape").decode()
        now = datetime.now().isoformat(" ", "milliseconds")
        transaction = message.transaction
        try:
            self._file.write(f"{now} domain {connection.domid} {kind} {transaction} ({text})\n")
        except OSError as error:
            log.warning("xenstore: no more log, %s: %s", self.path, error.strerror)
            self.close()

    def write(self, text: str) -> None:
        """Any text. Raises EINVAL if there is no log, or no room for it."""
        if self._file is None:
            raise StoreError("EINVAL")
        try:
            self._file.write(text)
        except OSError:
            raise StoreError("EINVAL") from None


def run(request: Request) -> bytes | None:
    """Carry out a command with its arguments; returns the text that answers it, None if it is
    answered later.

    Raises EINVAL for what it does not know.
    """
    name, *arguments = [decode(word) for word in request.message.strings()] or [""]
    if name == _GUEST_CONNECT:
        return _guest_connect(request, arguments).encode() + b"\0"
    if name == CONFINE:
        return _confine(request, arguments).encode() + b"\0"
    if name == _LIVE_UPDATE and request.daemon.live_update is not None:
        answer = request.daemon.live_update.command(request, arguments)
        return None if answer is None else answer.encode() + b"\0"
    command = _COMMANDS.get(name)
    if command is None:
        raise StoreError("EINVAL")
    return command.work(request.daemon, arguments).encode("latin-1") + b"\0"


def _expect(arguments: list[str], *numbers: int) -> None:
    if len(arguments) not in numbers:
        raise StoreError("EINVAL")


def _check(daemon: Xenstored, arguments: list[str]) -> str:
    """Whether each node is in its parent's list, and each in a list is there."""
    _expect(arguments, 0)
    tree = daemon.database.tree
    found = {paths.ROOT}
    for path, node in tree.items():
        found.update(paths.child_of(path, name) for name in node.child_names)
    if found != set(tree):
        raise StoreError("EIO")
    return OK


def _log(daemon: Xenstored, arguments: list[str]) -> str:
    _expect(arguments, 1)
    if arguments[0] == "on":
        daemon.log.open()
    elif arguments[0] == "off":
        daemon.log.close()
    else:
        raise StoreError("EINVAL")
    return OK


def _logfile(daemon: Xenstored, arguments: list[str]) -> str:
    _expect(arguments, 1)
    daemon.log.path = Path(arguments[0])
    daemon.log.open()
    return OK


def _memreport(daemon: Xenstored, arguments: list[str]) -> str:
    """To a file, or to the log."""
    _expect(arguments, 0, 1)
    lines = [f"{len(daemon.database.tree)} nodes, {len(daemon.connections)} connections"]
    lines += [
        f"domain {record.domid}: {len(record.nodes)} nodes, {record.watches} watches, "
        f"{record.outstanding} outstanding requests, {record.memory} bytes"
        for record in daemon.domains.values()
    ]
    report = "\n".join(lines) + "\n"
    if not arguments:
        daemon.log.write(report)
        return OK
    try:
        with Path(arguments[0]).open("a", encoding="latin-1") as file:
            file.write(report)
    except OSError:
        raise StoreError("EINVAL") from None
    return OK


def _print(daemon: Xenstored, arguments: list[str]) -> str:
    _expect(arguments, 1)
    print(f"control: {arguments[0]}", flush=True)
    return OK


def _quota(daemon: Xenstored, arguments: list[str]) -> str:
    if len(arguments) == 1:
        return _usage(daemon, arguments[0])
    return _show_or_set(daemon, arguments, HARD)


def _quota_soft(daemon: Xenstored, arguments: list[str]) -> str:
    return _show_or_set(daemon, arguments, SOFT)


def _show_or_set(daemon: Xenstored, arguments: list[str], names: dict[str, tuple[str, str]]) -> str:
    if not arguments:
        lines = [
            f"{name:<17}: {getattr(daemon.quotas, field):8d} {text}\n"
            for name, (field, text) in names.items()
        ]
        return "Quota settings:\n" + "".join(lines)
    _expect(arguments, 3)
    word, name, value = arguments
    if word != "set" or name not in names or not value.isdecimal() or not 0 < int(value) < 1 << 31:
        raise StoreError("EINVAL")
    setattr(daemon.quotas, names[name][0], int(value))
    return OK


def _usage(daemon: Xenstored, domid: str) -> str:
    record = daemon.domains.get(int(domid)) if domid.isdecimal() else None
    if record is None:
        raise StoreError("ENOENT")
    connection = record.connection
    numbers = {
        "nodes": len(record.nodes),
        "watches": record.watches,
        "transactions": len(connection.transactions) if connection is not None else 0,
        "outstanding": record.outstanding,
        "memory": record.memory,
    }
    lines = [f"{name:<16}: {number:8d}\n" for name, number in numbers.items()]
    return f"Domain {record.domid}:\n" + "".join(lines)


def _guest_connect(request: Request, arguments: list[str]) -> str:
    """The answer tells the features of the domain."""
    become_guest = request.connection.become_guest
    if become_guest is None or not arguments:
        raise StoreError("EINVAL")
    record = _domain(request.daemon, arguments[0])
    if not all(path.startswith(paths.ROOT) and path != paths.ROOT for path in arguments[1:]):
        raise StoreError("EINVAL")
    request.after = lambda: become_guest(record.domid, arguments[1:])
    return str(record.features)


def _confine(request: Request, arguments: list[str]) -> str:
    domid, *places = arguments or [""]
    if not domid.isdecimal() or not all(place.startswith(paths.ROOT) for place in places):
        raise StoreError("EINVAL")
    request.connection.confined = Confinement(int(domid), tuple(places))
    return OK


def _guest_stopped(daemon: Xenstored, arguments: list[str]) -> str:
    _expect(arguments, 1)
    daemon.domain_shut_down(_domain(daemon, arguments[0]).domid)
    return OK


def _domain(daemon: Xenstored, domid: str) -> DomainRecord:
    if not domid.isdecimal() or not int(domid):
        raise StoreError("EINVAL")
    record = daemon.find_record(int(domid))
    if record is None:
        raise StoreError("ENOENT")
    return record


def _help(daemon: Xenstored, arguments: list[str]) -> str:
    _expect(arguments, 0)
    commands = {name: command.arguments for name, command in _COMMANDS.items()}
    if daemon.live_update is not None:
        commands[_LIVE_UPDATE] = "[-c <cmdline>] [-F] [-t <timeout>] <file>"
    return "".join(f"{name}\t{arguments}\n" for name, arguments in commands.items())


class _Command(Struct, frozen=True):
    work: Callable[[Xenstored, list[str]], str]
    arguments: str = ""


_COMMANDS: Final = {
    "check": _Command(_check),
    "log": _Command(_log, "on|off"),
    "logfile": _Command(_logfile, "<file>"),
    "memreport": _Command(_memreport, "[<file>]"),
    "print": _Command(_print, "<string>"),
    "quota": _Command(_quota, "[set <name> <val>|<domid>]"),
    "quota-soft": _Command(_quota_soft, "[set <name> <val>]"),
    "help": _Command(_help),
    "guest-stopped": _Command(_guest_stopped, "<domid>"),
}
