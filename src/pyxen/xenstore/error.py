# SPDX-License-Identifier: GPL-2.0-or-later
"""What a request is refused with."""

from __future__ import annotations


class StoreError(Exception):
    """The name of an error number, which is what the answer carries: ``StoreError("ENOENT")``."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class StoreGone(StoreError):
    """There is no answer, as the server has ended, or is stuck. ``reason`` is for people."""

    def __init__(self, reason: str) -> None:
        super().__init__("EIO")
        self.args = (reason,)
