# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory and the vCPUs of a domain in a file, as ``xl dump-core`` writes it.

The file is in ELF, but without program headers: its parts are sections. ``.note.Xen`` has notes
that say how many vCPUs and pages there are, which Xen it was and which version of this format it
is; ``.xen_prstatus`` has a ``vcpu_guest_context`` for each vCPU, ``.xen_shared_info`` the page of
that name. ``.xen_pages`` has all pages of the domain one after the other, in the order of their
pfns, and ``.xen_p2m`` says of each of them its pfn and its mfn: page tables in the dump name mfns.
``crash``, for instance, reads such files.

Reference: docs/misc/dump-core-format.txt.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from pyxen.abi import elfnote, version
from pyxen.abi.arch_x86_64 import HYPERVISOR_VIRT_START, VCPU_GUEST_CONTEXT
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.hypervisor.vcpu_context import get_context
from pyxen.hypervisor.version import (
    CAPABILITIES,
    CHANGESET,
    COMPILE_INFO,
    EXTRA_VERSION,
    XEN_MAJOR,
    XEN_MINOR,
)

_XC_CORE_MAGIC: Final = 0xF00FEBED
_FORMAT_VERSION: Final = 1  # 0 in the upper half, 1 in the lower

_IDENT: Final = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
_ET_CORE: Final = 4
_EM_X86_64: Final = 62
_ELF_HEADER: Final = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION_HEADER: Final = struct.Struct("<IIQQQQIIQQ")
_SHT_PROGBITS: Final = 1
_SHT_STRTAB: Final = 3
_SHT_NOTE: Final = 7
_STRING_TABLE: Final = ".shstrtab"
_STRING_TABLE_INDEX: Final = 1
_PAGES_AT_ONCE: Final = 256
_OWNER_ONLY: Final = 0o600


class _Section(NamedTuple):
    name: str
    kind: int
    size: int
    alignment: int = 0
    entry_size: int = 0


class CoreFile:
    """A file that replaces the one of its name when it is whole, and leaves no part of it behind
    otherwise. Raises OSError. ``file`` is its descriptor, for ``write_core`` to close."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unfinished = path.with_name(f".{path.name}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.file = os.open(self._unfinished, flags, _OWNER_ONLY)

    def finish(self, whole: bool) -> None:
        if whole:
            self._unfinished.replace(self._path)
        else:
            self._unfinished.unlink()


def dump_core(domain: Domain, path: Path) -> None:
    """Write the file, in the thread of the vCPUs: none of them runs meanwhile. Raises OSError."""
    core = CoreFile(path)
    whole = False
    try:
        write_core(domain, core.file)
        whole = True
    finally:
        core.finish(whole)


def write_core(domain: Domain, file: int) -> None:
    """The content of such a file, which is closed then. Raises OSError."""
    with open(file, "wb") as core:
        for part in _parts(domain):
            core.write(part)


def _parts(domain: Domain) -> Iterator[bytes | memoryview]:
    """What the file consists of, from its beginning to its end."""
    memory = domain.memory
    contexts = [get_context(vcpu) for vcpu in domain.vcpus if vcpu.initialised]
    p2m = _p2m(domain)
    pages = len(p2m) // 2
    notes = _notes(len(contexts), pages)
    sections = (
        _Section(".note.Xen", _SHT_NOTE, len(notes)),
        _Section(
            ".xen_prstatus",
            _SHT_PROGBITS,
            VCPU_GUEST_CONTEXT.size * len(contexts),
            VCPU_GUEST_CONTEXT.alignment,
            VCPU_GUEST_CONTEXT.size,
        ),
        _Section(".xen_shared_info", _SHT_PROGBITS, PAGE_SIZE, 8, PAGE_SIZE),
        _Section(".xen_pages", _SHT_PROGBITS, pages * PAGE_SIZE, PAGE_SIZE, PAGE_SIZE),
        _Section(".xen_p2m", _SHT_PROGBITS, p2m.itemsize * len(p2m), 8, 16),
    )
    strings, headers, padding = _lay_out(sections)
    yield _elf_header(2 + len(sections))
    yield headers
    yield notes
    yield from contexts
    yield _frames(domain, memory.shared_info_mfn, 1)
    yield padding
    yield from _pages(domain, p2m)
    yield p2m.tobytes()
    yield strings


def _p2m(domain: Domain) -> array[int]:
    """Pairs of pfn and mfn, in the order of the pfns.

    By the M2P, which is the hypervisor's: the guest's own list may say anything.
    """
    memory = domain.memory
    places = sorted(
        (pfn, mfn)
        for mfn, pfn in enumerate(memory.m2p)
        if memory.is_domains(mfn) and pfn < memory.frames
    )
    return array("Q", (number for place in places for number in place))


def _pages(domain: Domain, p2m: array[int]) -> Iterator[memoryview]:
    """The contents, frames that lie in a row together."""
    mfns = p2m[1::2]
    first = 0
    for place in range(1, len(mfns) + 1):
        length = place - first
        if place == len(mfns) or mfns[place] != mfns[first] + length or length == _PAGES_AT_ONCE:
            yield _frames(domain, mfns[first], length)
            first = place


def _frames(domain: Domain, mfn: int, count: int) -> memoryview:
    return domain.memory.bytes[mfn * PAGE_SIZE : (mfn + count) * PAGE_SIZE]


def _notes(vcpus: int, pages: int) -> bytes:
    header = struct.pack("<4Q", _XC_CORE_MAGIC, vcpus, pages, PAGE_SIZE)
    xen = struct.pack(
        f"<2Q{version.XEN_EXTRAVERSION_LEN}s{version.XEN_COMPILE_INFO.size}s"
        f"{version.XEN_CAPABILITIES_INFO_LEN}s{version.XEN_CHANGESET_INFO_LEN}s2Q",
        XEN_MAJOR,
        XEN_MINOR,
        EXTRA_VERSION.encode(),
        COMPILE_INFO,
        CAPABILITIES.encode(),
        CHANGESET.encode(),
        HYPERVISOR_VIRT_START,
        PAGE_SIZE,
    )
    return b"".join(
        struct.pack("<III4s", len(b"Xen\0"), len(content), kind, b"Xen") + content
        for kind, content in (
            (elfnote.XEN_ELFNOTE_DUMPCORE_NONE, b""),
            (elfnote.XEN_ELFNOTE_DUMPCORE_HEADER, header),
            (elfnote.XEN_ELFNOTE_DUMPCORE_XEN_VERSION, xen),
            (elfnote.XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION, struct.pack("<Q", _FORMAT_VERSION)),
        )
    )


def _lay_out(sections: Sequence[_Section]) -> tuple[bytes, bytes, bytes]:
    """The table of names, the section headers, and what lies between the page of shared info and
    the pages, which begin at a multiple of the page size."""
    strings = b"\0"
    names: list[int] = []
    for name in (_STRING_TABLE, *(section.name for section in sections)):
        names.append(len(strings))
        strings += name.encode() + b"\0"
    offset = _ELF_HEADER.size + _SECTION_HEADER.size * (2 + len(sections))
    padding = b""
    headers = []
    for place, section in zip(names[1:], sections, strict=True):
        if section.alignment == PAGE_SIZE:
            padding = bytes(-offset % PAGE_SIZE)
            offset += len(padding)
        headers.append(_section_header(place, section, offset))
        offset += section.size
    table = _Section(_STRING_TABLE, _SHT_STRTAB, len(strings))
    headers[:0] = [bytes(_SECTION_HEADER.size), _section_header(names[0], table, offset)]
    return strings, b"".join(headers), padding


def _section_header(name: int, section: _Section, offset: int) -> bytes:
    return _SECTION_HEADER.pack(
        name,
        section.kind,
        0,
        0,
        offset,
        section.size,
        0,
        0,
        section.alignment,
        section.entry_size,
    )


def _elf_header(sections: int) -> bytes:
    return _ELF_HEADER.pack(
        _IDENT,
        _ET_CORE,
        _EM_X86_64,
        1,
        0,
        0,
        _ELF_HEADER.size,
        0,
        _ELF_HEADER.size,
        0,
        0,
        _SECTION_HEADER.size,
        sections,
        _STRING_TABLE_INDEX,
    )
