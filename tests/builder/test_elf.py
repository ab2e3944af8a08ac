# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import struct

import pytest
from small_kernels import DATA, TEXT, Load, Sect, elf, note, text_and_data

from pyxen.builder.elf import notes_in, parse_elf
from pyxen.errors import PyxenError


def test_segments_are_read_in_order_of_their_address() -> None:
    file = parse_elf(memoryview(elf(text_and_data()[::-1])))
    text, data = file.loadable
    assert (text.paddr, text.memory_size, text.flags) == (TEXT, 8192, 5)
    assert (data.paddr, data.file_size, data.memory_size) == (DATA, 4100, 0x3000)
    assert file.segment_data(data) == b"data" * 1025
    assert file.entry == TEXT


def test_sections_are_read_with_their_names() -> None:
    file = parse_elf(memoryview(elf(sections=[Sect("__xen_guest", 1, b"LOADER=generic")])))
    section = file.sections[1]
    assert section.name == "__xen_guest"
    assert file.section_data(section) == b"LOADER=generic"


@pytest.mark.parametrize(
    ("file", "message"),
    (
        (elf(elf_class=1), "32-bit ELF file, expected a 64-bit"),
        (elf(elf_class=7), "class 7, byte order 1, expected class 2"),
        (elf(machine=183), "for 64-bit Arm, expected x86-64"),
        (elf(machine=9), "for machine 9, expected x86-64"),
        (elf(kind=1), "of type 1, expected 2"),
        (elf()[:40], "of 40 bytes is truncated in its header"),
        (elf()[:100], "program headers end at 176, the file has 100 bytes"),
        (elf()[:-8], "truncated: segment ends at"),
        (elf(sections=[Sect("a", 1, b"")])[:-1], "truncated: section headers end at"),
        (elf([Load(0, b"x" * 5000, memory_size=4096)]), "5000 bytes in the file but only 4096"),
        (elf([Load(0x1000, b"x" * 9), Load(0x1008, b"y")]), "0x1008 overlaps the one before"),
        (elf([Load((1 << 64) - 8, b"x" * 9)]), "beyond the address space"),
    ),
)
def test_a_bad_file_is_refused(file: bytes, message: str) -> None:
    with pytest.raises(PyxenError, match=message):
        parse_elf(memoryview(file))


def test_a_file_without_segments_is_refused() -> None:
    file = bytearray(elf())
    struct.pack_into("<H", file, 56, 0)
    with pytest.raises(PyxenError, match="without a segment to load"):
        parse_elf(memoryview(file))


def test_headers_of_another_size_are_refused() -> None:
    file = bytearray(elf())
    struct.pack_into("<H", file, 54, 32)
    with pytest.raises(PyxenError, match="program headers of 32 bytes, expected 56"):
        parse_elf(memoryview(file))


def test_notes_are_padded_to_four_bytes() -> None:
    region = note(7, b"abcde", b"Xen\0") + note(1, b"", b"Linux\0") + note(2, b"1234", b"Xen\0")
    found = [(n.owner, n.type, n.content) for n in notes_in(memoryview(region))]
    assert found == [(b"Xen", 7, b"abcde"), (b"Linux", 1, b""), (b"Xen", 2, b"1234")]


def test_a_note_beyond_its_region_is_refused() -> None:
    with pytest.raises(PyxenError, match=r"note of 4 \+ 8 bytes reaches beyond"):
        list(notes_in(memoryview(note(1, bytes(8)))[:-1]))
