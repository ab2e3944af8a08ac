# SPDX-License-Identifier: GPL-2.0-or-later
"""What a device has of the host: open files, and perhaps a program that serves it.

A back end opens that itself, or is given it by a process that may do what its own may not.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from typing import Any, Final

from msgspec import Struct, field

PATIENCE: Final = 10.0
"""So many seconds a program may take to end."""
_CHUNK: Final = 64 * 1024


class Opened(Struct, frozen=True):
    """See the module. ``files`` are descriptors, in the order that each kind of device knows; they
    are then the user's to close. ``release`` ends the program and removes what was made in the file
    system; a second time it does nothing. ``pid`` is the program, 0 for none; ``facts`` is what
    else has to be known, plain data."""

    files: tuple[int, ...]
    release: Callable[[], None] = lambda: None
    pid: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    def close(self) -> None:
        """Give up all of it, unused."""
        for file in self.files:
            os.close(file)
        self.release()


class Program:
    """A program that serves a device by ``files``, which it inherits; ``messages`` is the reading
    end of what it writes to standard error."""

    def __init__(self, command: Sequence[str], files: Sequence[int]) -> None:
        self.messages, writer = os.pipe2(os.O_CLOEXEC)
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=writer,
                pass_fds=files,
            )
        except BaseException:
            os.close(self.messages)
            raise
        finally:
            os.close(writer)

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """End it, and return when it has ended."""
        self._process.terminate()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def last_words(messages: int) -> str:
    """All that a program that has ended had still to say; its pipe is closed then."""
    said = b""
    with open(messages, "rb", buffering=0) as pipe:
        while data := pipe.read(_CHUNK):
            said += data
    return said.decode(errors="replace")
