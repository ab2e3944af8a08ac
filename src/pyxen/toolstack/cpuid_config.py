# SPDX-License-Identifier: GPL-2.0-or-later
"""``cpuid=`` of a domain's configuration: which bits of CPUID a guest sees otherwise (xl.cfg(5)).

Two forms. libxl's names fields, behind the word "host"::

    host,sse4_2=0,family=6,avx=x

xend's writes registers as 32 characters, from bit 31 down; there may be several of these::

    1:ecx=xxxxxxxxxxx0xxxxxxxxxxxxxxxxxxxx,edx=...
    7,0:ebx=...

A bit is 1 or 0, x for what the guest would see anyway, or k (also s) for what the CPU has. What is
asked for and impossible is not shown, as with Xen.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from pyxen.errors import PyxenError
from pyxen.hypervisor.cpuid_names import FIELDS, Place

_WIDTH: Final = 32
_REGISTERS: Final = ("eax", "ebx", "ecx", "edx")
_XEND: Final = re.compile(r"(\w+)(?:,(\w+))?:(.*)", re.DOTALL)


def parse_cpuid(specifications: Sequence[str]) -> dict[Place, str]:
    """Place -> 32 characters, from bit 31 down. Raises PyxenError naming what is wrong."""
    overrides: dict[Place, str] = {}
    for text in specifications:
        if text.split(",")[0] == "host":
            for item in text.split(",")[1:]:
                _parse_field(overrides, item)
        else:
            _parse_registers(overrides, text)
    return overrides


def _parse_field(overrides: dict[Place, str], item: str) -> None:
    name, equals, value = item.partition("=")
    if not equals or name not in FIELDS:
        raise PyxenError(f"cpuid: {item!r}: expected NAME=VALUE with a name of xl.cfg(5)")
    place, bit, width = FIELDS[name]
    if value in ("x", "k", "s"):
        bits = value * (8 if name in ("family", "model") else width)
    else:
        try:
            number = int(value, 0)
        except ValueError:
            raise PyxenError(f"cpuid: {item!r}: expected a number, x, k or s") from None
        if name == "family":
            # Above 15 the rest is in the extended family.
            bits = f"{max(number - 15, 0) & 0xFF:08b}{min(number, 15):04b}"
            _set_bits(overrides, place, bit, bits[8:])
            _set_bits(overrides, place, 20, bits[:8])
            return
        bits = f"{number & (1 << width) - 1:0{width}b}"
    if name == "model":
        _set_bits(overrides, place, 16, bits[:4])
        _set_bits(overrides, place, bit, bits[4:])
    elif name == "family":
        _set_bits(overrides, place, 20, bits)
        _set_bits(overrides, place, bit, bits[:4])
    else:
        _set_bits(overrides, place, bit, bits)


def _set_bits(overrides: dict[Place, str], place: Place, bit: int, bits: str) -> None:
    old = overrides.get(place, "x" * _WIDTH)
    start = _WIDTH - bit - len(bits)
    overrides[place] = old[:start] + bits + old[start + len(bits) :]


def _parse_registers(overrides: dict[Place, str], text: str) -> None:
    match = _XEND.fullmatch(text)
    try:
        leaf = int(match[1], 0) if match else -1
        subleaf = int(match[2], 0) if match and match[2] else None
    except ValueError:
        match = None
    if match is None:
        raise PyxenError(f"cpuid: {text!r}: expected host,NAME=VALUE,... or LEAF:REGISTER=BITS,...")
    for item in match[3].split(","):
        register, _, bits = item.strip().partition("=")
        if register not in _REGISTERS or len(bits) != _WIDTH or set(bits) - set("01xks"):
            raise PyxenError(f"cpuid: {item!r}: expected eax, ebx, ecx or edx and 32 of 0 1 x k s")
        overrides[leaf, subleaf, _REGISTERS.index(register)] = bits
