# SPDX-License-Identifier: GPL-2.0-or-later
"""Starting the process of a domain: it is started first and told afterwards what it is to be, as it
takes as long to load as its configuration to be read.

It has an *order*, one object of JSON on its standard input, and reports on its standard output: the
number of the domain when that is ready to run, or why there is none. Without an order it ends. What
it says before it has one, which is only that it cannot load, goes to its starter's standard error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

from pyxen.errors import PyxenError


class NewProcess:
    """A context manager: a process that has no order when it is left ends."""

    def __enter__(self) -> NewProcess:
        """Raises PyxenError."""
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "pyxen.toolstack.process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                start_new_session=True,
                cwd="/",
                env=_environment(),
            )
        except OSError as error:
            raise PyxenError(f"{error.filename}: {error.strerror}") from None
        return self

    def __exit__(self, *exception: Any) -> None:
        self._process.__exit__(*exception)

    def begin(self, order: dict[str, Any]) -> int:
        """Give it its order. Returns the number of the domain, which is about to run. Raises
        PyxenError."""
        said, _ = self._process.communicate(json.dumps(order).encode())
        if not said:
            name, log = order["config"]["c_info"]["name"], order["log"]
            raise PyxenError(
                f"the process of domain {name} ended before it could say why; see {log}"
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
