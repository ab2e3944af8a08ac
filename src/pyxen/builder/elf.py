# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF files: kernels as the linker leaves them.

An ELF file describes itself twice. The program headers say which parts of the file go where in
memory, the PT_LOAD *segments*; a loader needs no more. The section headers say what each part is,
the *sections* with their names; they may be missing. Notes are small typed records (owner, type,
content) by which a kernel tells its loader about itself; PT_NOTE segments or SHT_NOTE sections
hold them. Formats: System V ABI, chapters 4 and 5; only 64-bit little-endian files for x86-64.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from pyxen.errors import PyxenError

PT_LOAD: Final = 1
PT_NOTE: Final = 4
PF_X: Final = 1
SHF_EXECINSTR: Final = 4
SHT_SYMTAB: Final = 2
SHT_NOTE: Final = 7
SHN_UNDEF: Final = 0
SHN_XINDEX: Final = 0xFFFF

_MAGIC: Final = b"\x7fELF"
_EM_X86_64: Final = 62
_MACHINES: Final = {3: "32-bit x86", 40: "32-bit Arm", 183: "64-bit Arm", 243: "RISC-V"}
_ET_EXEC: Final = 2
_ET_DYN: Final = 3

_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER: Final = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER: Final = struct.Struct("<IIQQQQIIQQ")
_NOTE_HEADER: Final = struct.Struct("<III")


class Segment(Struct, frozen=True):
    """A program header. Addresses and sizes in bytes, `flags` are PF_*."""

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    file_size: int
    memory_size: int


class Section(Struct, frozen=True):
    """A section header. `flags` are SHF_*, `link` is the index of the section it refers to."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int


class ElfFile(Struct, frozen=True, eq=False):
    """An ELF file whose tables have been read and checked."""

    data: memoryview
    entry: int
    segments: tuple[Segment, ...]
    sections: tuple[Section, ...]

    @property
    def loadable(self) -> list[Segment]:
        """The PT_LOAD segments that take memory, by physical address."""
        found = (s for s in self.segments if s.type == PT_LOAD and s.memory_size)
        return sorted(found, key=lambda segment: segment.paddr)

    def segment_data(self, segment: Segment) -> memoryview:
        return self._part(segment.offset, segment.file_size, "segment")

    def section_data(self, section: Section) -> memoryview:
        """Raises PyxenError if the section does not lie in the file."""
        return self._part(section.offset, section.size, f"section {section.name}")

    def _part(self, offset: int, size: int, what: str) -> memoryview:
        if offset + size > len(self.data):
            raise PyxenError(
                f"ELF file is truncated: {what} ends at {offset + size}, "
                f"the file has {len(self.data)} bytes"
            )
        return self.data[offset : offset + size]


class Note(Struct, frozen=True):
    """A note: `type` has a meaning within the name space of `owner`."""

    owner: bytes
    type: int
    content: bytes


def is_elf(data: memoryview) -> bool:
    return bytes(data[:4]) == _MAGIC


def parse_elf(data: memoryview) -> ElfFile:
    """Read the headers of an ELF file.

    Raises PyxenError if it is not a 64-bit x86-64 executable, is truncated, or has a segment that
    cannot be: larger in the file than in memory, or overlapping another in physical memory.
    """
    if len(data) < _HEADER.size:
        raise PyxenError(f"ELF file of {len(data)} bytes is truncated in its header")
    header = _HEADER.unpack_from(data)
    (ident, kind, machine, _, entry, phoff, shoff) = header[:7]
    (phentsize, phnum, shentsize, shnum, shstrndx) = header[9:]
    if ident[4] == 1:
        raise PyxenError("32-bit ELF file, expected a 64-bit (x86-64) kernel")
    if ident[4] != 2 or ident[5] != 1:
        raise PyxenError(
            f"ELF file of class {ident[4]}, byte order {ident[5]}, expected class 2 (64-bit), "
            "byte order 1 (little-endian)"
        )
    if machine != _EM_X86_64:
        name = _MACHINES.get(machine, f"machine {machine}")
        raise PyxenError(f"ELF file for {name}, expected x86-64")
    if kind not in (_ET_EXEC, _ET_DYN):
        raise PyxenError(f"ELF file of type {kind}, expected 2 (executable) or 3 (relocatable)")
    segments = tuple(
        Segment(type_, flags, offset, vaddr, paddr, file_size, memory_size)
        for type_, flags, offset, vaddr, paddr, file_size, memory_size, _ in _table(
            data, "program", _PROGRAM_HEADER, phoff, phentsize, phnum
        )
    )
    headers = _table(data, "section", _SECTION_HEADER, shoff, shentsize, shnum)
    elf = ElfFile(data, entry, segments, _sections(data, headers, shstrndx))
    _check_segments(elf)
    return elf


def _table(
    data: memoryview, what: str, form: struct.Struct, offset: int, entry_size: int, count: int
) -> list[tuple[int, ...]]:
    """The entries of the program or the section header table."""
    if count == 0 or offset == 0:
        return []
    if entry_size != form.size:
        raise PyxenError(
            f"ELF file with {what} headers of {entry_size} bytes, expected {form.size}"
        )
    end = offset + count * form.size
    if end > len(data):
        raise PyxenError(
            f"ELF file is truncated: {what} headers end at {end}, the file has {len(data)} bytes"
        )
    return list(form.iter_unpack(data[offset:end]))


def _sections(
    data: memoryview, headers: list[tuple[int, ...]], names_index: int
) -> tuple[Section, ...]:
    names = b""
    if names_index < len(headers):
        offset, size = headers[names_index][4:6]
        names = bytes(data[offset : offset + size])
    return tuple(
        Section(_string(names, name), type_, flags, address, offset, size, link)
        for name, type_, flags, address, offset, size, link, _, _, _ in headers
    )


def _string(table: bytes, offset: int) -> str:
    """The zero-terminated string at an offset; empty beyond the end of the table."""
    return table[offset : max(table.find(b"\0", offset), offset)].decode("latin-1")


def _check_segments(elf: ElfFile) -> None:
    loadable = elf.loadable
    if not loadable:
        raise PyxenError("ELF file without a segment to load, expected a kernel")
    end = 0
    for segment in loadable:
        if segment.file_size > segment.memory_size:
            raise PyxenError(
                f"ELF segment at {segment.paddr:#x} has {segment.file_size} bytes in the file "
                f"but only {segment.memory_size} in memory"
            )
        if segment.paddr < end:
            raise PyxenError(
                f"ELF segment at {segment.paddr:#x} overlaps the one before, which ends at {end:#x}"
            )
        elf.segment_data(segment)
        end = segment.paddr + segment.memory_size
    if end > 1 << 64:
        raise PyxenError(f"ELF segment ends at {end:#x}, beyond the address space")


def notes_in(region: memoryview) -> Iterator[Note]:
    """The notes in a PT_NOTE segment or a SHT_NOTE section.

    Raises PyxenError if one reaches beyond the end.
    """
    position = 0
    while position + _NOTE_HEADER.size <= len(region):
        name_size, size, kind = _NOTE_HEADER.unpack_from(region, position)
        name = position + _NOTE_HEADER.size
        content = name + (name_size + 3 & ~3)
        if content + size > len(region):
            raise PyxenError(f"ELF note of {name_size} + {size} bytes reaches beyond its segment")
        owner = bytes(region[name : name + name_size]).rstrip(b"\0")
        yield Note(owner, kind, bytes(region[content : content + size]))
        position = content + (size + 3 & ~3)
