# SPDX-License-Identifier: GPL-2.0-or-later
"""The console of a domain, for a program that expects and sends.

A thread reads all the time, so that nothing is lost while the program does something else. What
the guest has printed before is there too, from the first byte.
"""

from __future__ import annotations

import codecs
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

from pyxen.errors import PyxenError
from pyxen.toolstack.control.client import connect

EXPECT_SECONDS: Final = 60.0
"""How long is waited where nothing else is said."""
_CHUNK: Final = 64 * 1024
_SHOWN: Final = 2000
_LINE_LIMIT: Final = 4000
"""A terminal in line mode, as a shell without an editor has it, cuts longer lines off."""


class ExpectTimeout(PyxenError):
    """It has not come in time. The message shows the end of the console."""


class ConsoleEnded(PyxenError):
    """The domain has ended, or its console was closed, before it came."""


class CommandResult(Struct, frozen=True):
    """What a command in the guest printed, both of its outputs as one text, and its status."""

    output: str
    status: int


class Console:
    """A connection to the console of a domain; a context manager.

    Args:
        folder: the domain's folder, with its ``console.sock``.

    Several of them may be open at a time. Raises PyxenError if the domain does not serve it.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self._socket = connect(folder, "console.sock")
        except OSError as error:
            raise PyxenError(f"domain {folder.name}: console: {error.strerror or error}") from None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._text = ""
        self._position = 0
        self._commands = 0
        self._ended = False
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, name="pyxen-console", daemon=True)
        self._reader.start()

    def __enter__(self) -> Console:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Read no more. What was received can still be looked at."""
        with suppress(OSError):  # the other side may have closed it before
            self._socket.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._socket.close()

    @property
    def text(self) -> str:
        """All that the guest has printed, without carriage returns."""
        with self._changed:
            return self._text

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        with self._changed:
            return self._ended

    def read(self) -> str:
        """What has come since the last ``read`` or ``expect``."""
        with self._changed:
            text = self._text[self._position :]
            self._position = len(self._text)
            return text

    def send(self, text: str | bytes) -> None:
        """Type this. Nothing is added: a line ends with ``"\\n"``. Waits while the guest does not
        take it."""
        data = text.encode() if isinstance(text, str) else text
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise ConsoleEnded(self._describe(f"nothing can be sent: {error.strerror}")) from None

    def expect(self, pattern: str, timeout: float = EXPECT_SECONDS) -> re.Match[str]:
        """Wait for a regular expression behind what was expected or read before.

        Carriage returns do not count: a line ends with ``\\n``. Raises ExpectTimeout, ConsoleEnded.
        """
        expression = re.compile(pattern)
        end = time.monotonic() + timeout
        with self._changed:
            while True:
                match = expression.search(self._text, self._position)
                if match is not None:
                    self._position = match.end()
                    return match
                if self._ended:
                    raise ConsoleEnded(self._describe(f"ended without {pattern!r}"))
                left = end - time.monotonic()
                if left <= 0:
                    raise ExpectTimeout(self._describe(f"no {pattern!r} within {timeout:g} s"))
                self._changed.wait(left)

    def run(self, command: str, timeout: float = EXPECT_SECONDS) -> CommandResult:
        """Run a command in the shell that has the console: the one that waits for input there.

        The kernel's own messages may get into the output; ``dmesg -n 1`` keeps them away.
        """
        self._commands += 1
        number = self._commands
        # Echoed, the marks are not what they are printed as.
        line = (
            f"printf '[begin %d]' {number}; {{ {command}\n}} 2>&1; printf '[end {number} %d]' $?\n"
        )
        if max(map(len, line.encode().split(b"\n"))) > _LINE_LIMIT:
            raise PyxenError(f"a line of a command has at most {_LINE_LIMIT} bytes")
        self.send(line)
        end = time.monotonic() + timeout
        self.expect(rf"\[begin {number}\]", timeout)
        match = self.expect(rf"(?s)(.*?)\[end {number} (\d+)\]", max(0.0, end - time.monotonic()))
        return CommandResult(match[1], int(match[2]))

    def _describe(self, problem: str) -> str:
        return f"console: {problem}; its end:\n{self._text[-_SHOWN:]}"

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(_CHUNK)
            except OSError:
                data = b""  # the domain's process was killed: as good as closed
            with self._changed:
                self._text += self._decoder.decode(data, final=not data).replace("\r", "")
                self._ended = not data
                self._changed.notify_all()
            if not data:
                return
