# SPDX-License-Identifier: GPL-2.0-or-later
"""The two errors that cross package borders."""

from __future__ import annotations


class PyxenError(Exception):
    """An error of ours or of the input, told to the user in one line (exit status 1)."""


class XenError(Exception):
    """What a hypercall refuses with.

    ``errno`` is the positive number of Xen's ``public/errno.h``; the guest receives its negative.
    """

    def __init__(self, errno: int) -> None:
        super().__init__(errno)
        self.errno = errno
