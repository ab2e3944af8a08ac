# SPDX-License-Identifier: GPL-2.0-or-later
"""A host of its own for tests: a run folder, logs, and ``pyxen`` as a user calls it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pyxen.toolstack.registry import Registry
from pyxen.xenstore import Client, StoreError

PATIENCE: Final = 60.0
"""Far above what is needed: a busy machine must not fail a test."""
_INTERVAL: Final = 0.02


class Machine:
    """See the module; a context manager. At its end nothing may be left: ``leaks``."""

    def __init__(self) -> None:
        # Not pytest's folder, whose name may be longer than a socket's path can be.
        self.folder = Path(tempfile.mkdtemp(prefix="pyxen-test-"))
        self.run = self.folder / "run"
        self.environment = {
            **os.environ,
            "PYXEN_RUN": str(self.run),
            "XDG_STATE_HOME": str(self.folder / "state"),
        }
        self.registry = Registry(self.run)

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *exception: object) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder)

    def call(
        self, *arguments: str | Path, limit: Callable[[], None] | None = None, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        """Call ``pyxen`` and return when it has ended, which is soon."""
        return subprocess.run(
            [sys.executable, "-m", "pyxen", *map(str, arguments)],
            env=self.environment,
            preexec_fn=limit,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def do(self, *arguments: str | Path) -> str:
        """The same for what must work; returns what it has printed."""
        done = self.call(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refusal(self, *arguments: str | Path) -> str:
        """The one line that it says of what cannot be."""
        done = self.call(*arguments)
        lines = [line for line in done.stderr.splitlines() if not line.startswith("Parsing")]
        assert (done.returncode, done.stdout, len(lines)) == (1, "", 1), done
        return lines[0].removeprefix("pyxen: ")

    def names(self) -> dict[int, str]:
        """The domains by number, as ``pyxen list`` has them, with their states: ``web -b----``."""
        lines = self.do("list").splitlines()[2:]
        return {int(line.split()[1]): f"{line.split()[0]} {line.split()[4]}" for line in lines}

    def log(self, name: str) -> str:
        """What a domain's process has said."""
        return (self.folder / "state" / "pyxen" / f"{name}.log").read_text()

    def console_log(self, name: str) -> str:
        """What a domain has printed."""
        path = self.folder / "state" / "pyxen" / f"{name}-console.log"
        return path.read_text() if path.exists() else ""

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until it is so."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(_INTERVAL)

    def processes(self) -> list[int]:
        """All that belong to this machine."""
        mark = f"PYXEN_RUN={self.run}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
        return found

    def store_nodes(self) -> list[str]:
        """What the store has of domains but domain 0; nothing if it has ended."""
        try:
            with Client(self.run / "xenstored.sock", timeout=PATIENCE) as store:
                nodes = []
                for place in (*("/local/domain", "/vm", "/libxl"), *_backend_places(store)):
                    nodes += [f"{place}/{name}" for name in _directory(store, place) if name != "0"]
                return nodes
        except OSError:
            return []

    def leaks(self) -> list[str]:
        """What is left when all domains have gone, besides the store, which ends later."""
        left = [str(path.relative_to(self.run)) for path in (self.run / "domains").rglob("*")]
        for pid in self.processes():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            if "xenstored" not in command:
                left.append(command)
        return left


def command_of(pid: int) -> list[str]:
    """One empty word for a process that has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode().split("\0")
    except OSError:
        return [""]


def children_of(pid: int) -> list[int]:
    """None of a process that has ended."""
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def _directory(store: Client, path: str) -> list[str]:
    try:
        return store.directory(path)
    except StoreError:
        return []


def _backend_places(store: Client) -> list[str]:
    """Where back ends of domains have their nodes, and their errors."""
    base = "/local/domain/0"
    return [
        f"{base}/{place}/{kind}"
        for place in ("backend", "error/backend")
        for kind in _directory(store, f"{base}/{place}")
    ]
