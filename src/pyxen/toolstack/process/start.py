# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting the process of a domain: it is started first and told afterwards what it is to be, as it
takes as long to load as its configuration to be read.

It has an *order*, one object of JSON on its standard input, and a pipe for its report: the number
of the domain when that is ready to run, or why there is none. Without an order it ends. What it
says before it has one, which is only that it cannot load, goes to its starter's standard error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Final

from pyxen.errors import PyxenError

_CHUNK: Final = 64 * 1024


class NewProcess:
    """A context manager: a process that has no order when it is left ends."""

    def __enter__(self) -> NewProcess:
        """Raises PyxenError."""
        self._report, writer = os.pipe2(os.O_CLOEXEC)
        command = [sys.executable, "-P", "-m", "pyxen.toolstack.process", str(writer)]
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                pass_fds=(writer,),
                start_new_session=True,
                cwd="/",
                env=_environment(),
            )
        except OSError as error:
            os.close(self._report)
            raise PyxenError(f"{error.filename}: {error.strerror}") from None
        finally:
            os.close(writer)
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._report)
        self._process.communicate()

    def begin(self, order: dict[str, Any]) -> int:
        """Give it its order. Returns the number of the domain, which is about to run. Raises
        PyxenError."""
        self._process.communicate(json.dumps(order).encode())
        said = b""
        while data := os.read(self._report, _CHUNK):
            said += data
        if not said:
            raise PyxenError(
                f"the process of the domain ended before it could say why; see {order['log']}"
            )
        report = json.loads(said)
        if "error" in report:
            raise PyxenError(report["error"])
        return int(report["domid"])


def _environment() -> dict[str, str]:
    """The same modules are to be found from another working directory."""
    environment = dict(os.environ)
    places = environment.get("PYTHONPATH", "")
    if places:
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, places.split(os.pathsep)))
    return environment
