# SPDX-License-Identifier: GPL-2.0-or-later
"""Layout computes what a C compiler would, and packs it."""

from __future__ import annotations

import pytest

from pyxen.abi.layout import Layout


def test_members_are_aligned_and_the_end_is_padded() -> None:
    layout = Layout("struct t", ("a", "B"), ("b", "Q"), ("c", "H"), ("d", "I"), ("e", "B"))
    assert dict(layout.offsets) == {"a": 0, "b": 8, "c": 16, "d": 20, "e": 24}
    assert dict(layout.sizes) == {"a": 1, "b": 8, "c": 2, "d": 4, "e": 1}
    assert layout.size == 32
    assert layout.alignment == 8


def test_values_go_in_and_out_in_order_little_endian() -> None:
    layout = Layout("struct t", ("a", "H"), ("b", "i"), ("c", "3B"), ("d", "4s"))
    packed = layout.pack(0x0102, -2, 7, 8, 9, b"xen")
    assert packed == bytes.fromhex("0201 0000 feffffff 070809 78656e00 00".replace(" ", ""))
    assert layout.unpack(packed) == (0x0102, -2, 7, 8, 9, b"xen\0")


def test_pack_into_writes_zeros_to_the_padding() -> None:
    layout = Layout("struct t", ("a", "B"), ("b", "H"))
    buffer = bytearray(b"\xff" * 6)
    layout.pack_into(buffer, 1, 1, 2)
    assert buffer == b"\xff\x01\x00\x02\x00\xff"


def test_named_padding_has_an_offset_and_no_value() -> None:
    layout = Layout("struct t", ("a", "B"), ("pad", "3x"), ("b", "B"))
    assert layout.offsets["pad"] == 1
    assert layout.sizes["pad"] == 3
    assert layout.unpack(b"\x01\x00\x00\x00\x05") == (1, 5)


def test_padding_without_a_name_is_not_among_the_fields() -> None:
    layout = Layout("struct t", ("a", "H"), ("", "6x"), ("b", "H"), ("", "6x"))
    assert dict(layout.offsets) == {"a": 0, "b": 8}
    assert layout.size == 16


def test_nested_layout_is_opaque_and_keeps_its_alignment() -> None:
    inner = Layout("struct i", ("x", "Q"), ("y", "B"))
    outer = Layout("struct o", ("a", "B"), ("one", inner), ("two", (inner, 2)), ("b", "B"))
    assert dict(outer.offsets) == {"a": 0, "one": 8, "two": 24, "b": 56}
    assert outer.size == 64
    data = outer.pack(1, inner.pack(2, 3), inner.pack(4, 5) * 2, 6)
    assert outer.unpack(data)[1] == inner.pack(2, 3)
    assert inner.unpack_from(data, outer.offsets["two"] + inner.size) == (4, 5)


def test_array_of_bytes_needs_no_alignment() -> None:
    assert Layout("struct t", ("a", "B"), ("s", "9s")).size == 10


def test_size_makes_room_for_a_larger_member_of_a_union() -> None:
    layout = Layout("union u", ("small", "H"), size=16)
    assert layout.size == 16
    assert layout.unpack(b"\x05" + bytes(15)) == (5,)


def test_size_below_the_fields_is_refused() -> None:
    with pytest.raises(ValueError, match="struct t: size 4 is less than its fields take, 8"):
        Layout("struct t", ("a", "Q"), size=4)


@pytest.mark.parametrize("code", ("P", "l", "", "2", "<I", "I2", "HH"))
def test_other_codes_are_refused(code: str) -> None:
    with pytest.raises(ValueError, match=r"struct t\.a: bad code"):
        Layout("struct t", ("a", code))


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="struct t: field a occurs twice"):
        Layout("struct t", ("a", "I"), ("a", "I"))


def test_a_value_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="struct t: a field with the code 'I' must have a name"):
        Layout("struct t", ("", "I"))
