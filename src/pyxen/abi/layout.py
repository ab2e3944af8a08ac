# SPDX-License-Identifier: GPL-2.0-or-later
"""C structures of Xen's public headers as data.

A guest and Xen exchange structures in the guest's memory, laid out as a C compiler lays them out:
each member at the next multiple of its own alignment, the whole padded to the largest alignment in
it, little endian (System V ABI, x86-64 supplement, section 3.1.2). `Layout` computes exactly that
from a list of members and is then an ordinary `struct.Struct`, whose packing is done in C.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping
from types import MappingProxyType

_CODE = re.compile(r"(\d*)([bBhHiIqQsx])")


class Layout(struct.Struct):
    """One C structure: sizes and offsets, and packing of its members in order.

    `Layout("multicall_entry_t", ("op", "Q"), ("result", "q"), ("args", "6Q"))`

    `ctype` is the type as C spells it (`struct name` or `name_t`). Each field has a name, which is
    a C member designator (`"arg1.mfn"`, `"gdt_frames[0]"`), and a code of the `struct` module with
    an optional count: `bBhHiIqQ` for integers, `s` for an array of bytes, `x` for padding that has
    a name but no value. In place of a code a field may have another `Layout`, or a pair of a
    `Layout` and a count: it is then one opaque bytes object, aligned as the nested structure.
    Where C puts padding that is not a member, at the end of an inner structure whose members are
    listed one by one, the name of an `x` is empty.

    `offsets` and `sizes` give the place and the length in bytes of each field by name, `size` is
    that of the whole.

    For a union, name the one member that the layout describes, and give `size` if another member
    makes the structure larger.

    Raises ValueError for a code that is not one of these, a name that occurs twice or
    is missing, or a `size` that the fields exceed.
    """

    ctype: str
    offsets: Mapping[str, int]
    sizes: Mapping[str, int]
    alignment: int

    def __init__(
        self,
        ctype: str,
        *fields: tuple[str, str | Layout | tuple[Layout, int]],
        size: int | None = None,
    ) -> None:
        form = "<"
        position = 0
        alignment = 1
        offsets: dict[str, int] = {}
        sizes: dict[str, int] = {}
        for name, kind in fields:
            code, length, align = _measure(kind, f"{ctype}.{name}")
            gap = -position % align
            if name in offsets:
                raise ValueError(f"{ctype}: field {name} occurs twice")
            if not name and code[-1] != "x":
                raise ValueError(f"{ctype}: a field with the code {kind!r} must have a name")
            if name:
                offsets[name] = position + gap
                sizes[name] = length
            form += f"{gap}x{code}" if gap else code
            position += gap + length
            alignment = max(alignment, align)
        end = position + -position % alignment if size is None else size
        if end < position:
            raise ValueError(f"{ctype}: size {size} is less than its fields take, {position}")
        if end > position:
            form += f"{end - position}x"
        super().__init__(form)
        self.ctype = ctype
        self.offsets = MappingProxyType(offsets)
        self.sizes = MappingProxyType(sizes)
        self.alignment = alignment

    def __repr__(self) -> str:
        return f"<Layout {self.ctype}, {self.size} bytes>"


def _measure(kind: str | Layout | tuple[Layout, int], where: str) -> tuple[str, int, int]:
    """The code for struct.Struct, the length in bytes and the alignment of one field."""
    if isinstance(kind, str):
        match = _CODE.fullmatch(kind)
        if match is None:
            raise ValueError(f"{where}: bad code {kind!r}, expected a count and one of bBhHiIqQsx")
        return kind, struct.calcsize("<" + kind), struct.calcsize("<" + match[2])
    nested, count = (kind, 1) if isinstance(kind, Layout) else kind
    length = nested.size * count
    return f"{length}s", length, nested.alignment
