# SPDX-License-Identifier: GPL-2.0-or-later
"""What a domain's process tells the one that has started it: that the domain is ready to run, or
why there is none. It is said once."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from typing import Any

from pyxen.errors import PyxenError


class Report:
    """The writing end of a pipe."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def ready(self, domid: int) -> None:
        """Raises PyxenError if nobody waits for the domain any more."""
        try:
            self._say({"domid": domid})
        except BrokenPipeError:
            raise PyxenError("whoever wanted the domain has gone") from None

    def failed(self, message: str) -> None:
        """Does nothing once the domain was ready."""
        with suppress(BrokenPipeError):
            self._say({"error": message})

    def _say(self, content: dict[str, Any]) -> None:
        fd, self.fd = self.fd, -1
        if fd < 0:
            return
        try:
            os.write(fd, json.dumps(content).encode())
        finally:
            os.close(fd)
