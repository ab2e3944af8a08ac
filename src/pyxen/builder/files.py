# SPDX-License-Identifier: GPL-2.0-or-later
"""How the builder comes by its files: a process that may open none is handed them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

OpenFile = Callable[[Path], BinaryIO]
"""Opens a file to be read. May raise OSError."""


def open_for_reading(path: Path) -> BinaryIO:
    """As any process does."""
    return path.open("rb")
