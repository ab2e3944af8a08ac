# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest has a hand in must not steer the terminal that shows it."""

from __future__ import annotations


def printable(line: str) -> str:
    """The line with its control characters as numbers."""
    return "".join(c if c.isprintable() or c == "\t" else f"\\x{ord(c):02x}" for c in line)
