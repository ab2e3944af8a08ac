# SPDX-License-Identifier: GPL-2.0-or-later
"""Small kernel files for tests, made of the parts that a test names."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from pyxen.abi import elfnote

VIRT_BASE = 0xFFFFFFFF80000000
TEXT = 0x1000000
DATA = 0x1200000
ENTRY = VIRT_BASE + TEXT + 0x10
INIT_P2M = 0x8000000000

PT_LOAD, PT_NOTE = 1, 4
PF_X, PF_W, PF_R = 1, 2, 4
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_NOTE = 1, 2, 3, 7


@dataclass
class Load:
    """A PT_LOAD segment."""

    paddr: int
    content: bytes
    memory_size: int = 0
    flags: int = PF_R
    vaddr: int | None = None


@dataclass
class Sect:
    """A section; its content is put behind the segments."""

    name: str
    type: int
    content: bytes
    link: int = 0
    flags: int = 0
    address: int = 0


def text_and_data(base: int = 0) -> list[Load]:
    """Two segments: 8 KiB executable, and a page and a bit of data with 12 KiB in memory."""
    return [
        Load(base + TEXT, b"text" * 2048, flags=PF_R | PF_X),
        Load(base + DATA, b"data" * 1025, memory_size=0x3000, flags=PF_R | PF_W),
    ]


def linux_notes(**changes: bytes | int | None) -> dict[int, bytes]:
    """The notes of a Linux kernel. Changes by name: None leaves one out."""
    notes: dict[str, bytes | int | None] = {
        "ENTRY": ENTRY,
        "VIRT_BASE": VIRT_BASE,
        "INIT_P2M": INIT_P2M,
        "MOD_START_PFN": 1,
        "XEN_VERSION": b"xen-3.0\0",
        "GUEST_OS": b"linux\0",
        "GUEST_VERSION": b"2.6\0",
        "LOADER": b"generic\0",
        "FEATURES": b"!writable_page_tables|pae_pgdir_above_4gb",
        "SUPPORTED_FEATURES": struct.pack("<I", 0x8801),
        "SUSPEND_CANCEL": struct.pack("<I", 1),
        "L1_MFN_VALID": struct.pack("<QQ", 1, 1),
    }
    notes.update(changes)
    return {
        getattr(elfnote, f"XEN_ELFNOTE_{name}"): (
            struct.pack("<Q", value) if isinstance(value, int) else value
        )
        for name, value in notes.items()
        if value is not None
    }


def note(kind: int, content: bytes, owner: bytes = b"Xen\0") -> bytes:
    def padded(data: bytes) -> bytes:
        return data + bytes(-len(data) % 4)

    return struct.pack("<III", len(owner), len(content), kind) + padded(owner) + padded(content)


def note_region(notes: dict[int, bytes]) -> bytes:
    other = note(3, b"build id", b"GNU\0")
    return other + b"".join(note(kind, content) for kind, content in notes.items())


def elf(
    loads: Sequence[Load] = (),
    notes: dict[int, bytes] | None = None,
    sections: Sequence[Sect] = (),
    entry: int = TEXT,
    elf_class: int = 2,
    machine: int = 62,
    kind: int = 2,
) -> bytes:
    """An ELF file: headers, segments, notes, sections, section headers."""
    loads = list(loads) or text_and_data()
    count = len(loads) + (notes is not None)
    body = bytearray(64 + 56 * count)
    program = []
    for load in loads:
        vaddr = VIRT_BASE + load.paddr if load.vaddr is None else load.vaddr
        memory_size = load.memory_size or len(load.content)
        program.append(
            struct.pack(
                "<IIQQQQQQ",
                PT_LOAD,
                load.flags,
                len(body),
                vaddr & (1 << 64) - 1,
                load.paddr,
                len(load.content),
                memory_size,
                4096,
            )
        )
        body += load.content
    if notes is not None:
        region = note_region(notes)
        program.append(
            struct.pack("<IIQQQQQQ", PT_NOTE, PF_R, len(body), 0, 0, len(region), len(region), 4)
        )
        body += region
    headers = b""
    names = b"\0"
    if sections:
        headers = bytes(64)
        for section in [*sections, Sect(".shstrtab", SHT_STRTAB, b"")]:
            name = len(names)
            names += section.name.encode() + b"\0"
            content = section.content if section.name != ".shstrtab" else names
            headers += struct.pack(
                "<IIQQQQIIQQ",
                name,
                section.type,
                section.flags,
                section.address,
                len(body),
                len(content),
                section.link,
                0,
                1,
                0,
            )
            body += content
    body += bytes(-len(body) % 8)
    shoff = len(body) if sections else 0
    ident = b"\x7fELF" + bytes([elf_class, 1, 1]) + bytes(9)
    body[:64] = struct.pack(
        "<16sHHIQQQIHHHHHH",
        ident,
        kind,
        machine,
        1,
        entry,
        64,
        shoff,
        0,
        64,
        56,
        count,
        64,
        len(headers) // 64,
        max(len(headers) // 64 - 1, 0),
    )
    body[64 : 64 + 56 * count] = b"".join(program)
    return bytes(body) + headers


def linux_elf(**changes: bytes | int | None) -> bytes:
    return elf(notes=linux_notes(**changes))


def gzip_compressed(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=31)
    return packer.compress(data) + packer.flush()


def bzimage(payload: bytes, setup_sects: int = 2, version: int = 0x20F) -> bytes:
    """A boot image around a payload, which ends with its uncompressed size."""
    start = ((setup_sects or 4) + 1) * 512
    image = bytearray(start + 64)
    image[0x1F1] = setup_sects
    image[0x1FE:0x200] = b"\x55\xaa"
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, version)
    struct.pack_into("<II", image, 0x248, 64, len(payload))
    return bytes(image) + payload + b"behind"
