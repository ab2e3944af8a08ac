# SPDX-License-Identifier: GPL-2.0-or-later
"""Sizes of memory as xl reads them."""

from __future__ import annotations

import argparse
import re

_FACTORS = {"": 1 << 10, "m": 1 << 10, "k": 1, "g": 1 << 20, "t": 1 << 30}


def memory_kib(text: str) -> int:
    """``512`` and ``512m`` are MiB; also ``b``, ``k``, ``g`` and ``t``. In KiB."""
    match = re.fullmatch(r"([0-9]{1,15})([bkmgt]?)", text.lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"invalid memory size: {text}")
    number, unit = int(match[1]), match[2]
    return number >> 10 if unit == "b" else number * _FACTORS[unit]
