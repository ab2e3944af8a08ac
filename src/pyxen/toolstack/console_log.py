# SPDX-License-Identifier: GPL-2.0-or-later
"""The log of a domain's console as users ask for it: ``console.log,timestamp,limit=10M,keep=3``.

After the file come, in any order, ``timestamp`` (each line begins with its time), ``limit=`` (how
large the file may grow, in bytes or with K, M or G behind) and ``keep=`` (how many older files are
kept then). Without a limit the file grows, until somebody moves it away, as logrotate does.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

from pyxen.backends.console.log_file import DEFAULT_KEPT, LogFile
from pyxen.errors import PyxenError
from pyxen.toolstack.folders import log_folder

_SIZE: Final = re.compile(r"([0-9]{1,12})([KMG]?)")
_FACTORS: Final = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MAX_KEPT: Final = 1000
_DEFAULT_LIMIT: Final = 16 << 20
"""Of each of two files, where the configuration names none."""


class ConsoleLogConfig(Struct, frozen=True):
    """A log file. ``limit`` is in bytes, 0 for none."""

    path: Path
    timestamps: bool = False
    limit: int = 0
    kept: int = DEFAULT_KEPT

    def open(self, opener: Callable[[bool], int] | None = None) -> LogFile:
        """Raises PyxenError. ``opener``: see ``LogFile``."""
        return LogFile(
            self.path,
            timestamps=self.timestamps,
            limit=self.limit,
            kept=self.kept,
            opener=opener,
        )

    def __str__(self) -> str:
        """As ``parse_console_log`` reads it."""
        parts = [str(self.path)]
        if self.timestamps:
            parts.append("timestamp")
        if self.limit:
            parts.append(f"limit={self.limit}")
        if self.kept != DEFAULT_KEPT:
            parts.append(f"keep={self.kept}")
        return ",".join(parts)


def default_console_log(name: str) -> ConsoleLogConfig:
    """For a domain in the background whose configuration names none."""
    return ConsoleLogConfig(log_folder() / f"{name}-console.log", limit=_DEFAULT_LIMIT, kept=1)


def parse_console_log(spec: str) -> ConsoleLogConfig:
    """Raises PyxenError."""
    path, *options = (part.strip() for part in spec.split(","))
    timestamps, limit, kept = False, 0, DEFAULT_KEPT
    if not path:
        raise PyxenError(f"console log {spec!r}: no file is given")
    for option in options:
        key, _, value = option.partition("=")
        if option == "timestamp":
            timestamps = True
        elif key == "limit" and (match := _SIZE.fullmatch(value)) and int(match[1]):
            limit = int(match[1]) * _FACTORS[match[2]]
        elif key == "keep" and value.isascii() and value.isdigit() and int(value) <= _MAX_KEPT:
            kept = int(value)
        else:
            raise PyxenError(
                f"console log {spec!r}: {option!r} is none of timestamp, limit=SIZE, "
                f"keep=NUMBER (up to {_MAX_KEPT})"
            )
    return ConsoleLogConfig(Path(path), timestamps, limit, kept)
