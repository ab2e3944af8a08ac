# SPDX-License-Identifier: GPL-2.0-or-later
"""Numbers among the arguments of verbs."""

from __future__ import annotations

import argparse
import math


def positive_integer(text: str) -> int:
    """A whole number above 0."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def positive_number(text: str) -> float:
    """Any number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
