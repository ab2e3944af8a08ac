# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the state of running domains and their logs lie. Both folders are for their owner only."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from pyxen.errors import PyxenError

_MODE: Final = 0o700


def run_folder() -> Path:
    """``/run/pyxen`` for root, ``$XDG_RUNTIME_DIR/pyxen`` for others, else ``/tmp/pyxen-UID``;
    ``PYXEN_RUN`` overrides. It need not be there."""
    chosen = os.environ.get("PYXEN_RUN", "")
    if chosen:
        return Path(os.path.abspath(chosen))
    if os.geteuid() == 0:
        return Path("/run/pyxen")
    folder = os.environ.get("XDG_RUNTIME_DIR", "")
    if folder.startswith("/"):
        return Path(folder) / "pyxen"
    return Path(f"/tmp/pyxen-{os.geteuid()}")


def switches_folder() -> Path:
    """Where the networks of ``switch=NAME`` are, a folder each."""
    return run_folder() / "switches"


def log_folder() -> Path:
    """``/var/log/pyxen`` for root, else ``pyxen`` in ``$XDG_STATE_HOME``."""
    if os.geteuid() == 0 and "XDG_STATE_HOME" not in os.environ:
        return Path("/var/log/pyxen")
    folder = os.environ.get("XDG_STATE_HOME", "")
    base = Path(folder) if folder.startswith("/") else Path(os.path.expanduser("~/.local/state"))
    return base / "pyxen"


def make_private(folder: Path) -> Path:
    """Make the folder if need be. Raises PyxenError if it is not ours alone: in ``/tmp`` somebody
    else may have made it before us."""
    try:
        folder.mkdir(mode=_MODE, parents=True, exist_ok=True)
        status = folder.lstat()
    except OSError as error:
        raise PyxenError(f"{folder}: {error.strerror}") from None
    if not stat.S_ISDIR(status.st_mode):
        raise PyxenError(f"{folder}: is no folder")
    if status.st_uid != os.geteuid():
        raise PyxenError(f"{folder}: belongs to somebody else (user {status.st_uid})")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise PyxenError(f"{folder}: others can get into it; expected mode 700")
    return folder
