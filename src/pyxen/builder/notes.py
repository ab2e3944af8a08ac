# SPDX-License-Identifier: GPL-2.0-or-later
"""What a kernel tells Xen about itself.

A kernel that can run on Xen carries notes of the owner "Xen" (`xen/include/public/elfnote.h`):
where it wants to be mapped, where it begins, what it needs. Xen looks for them in PT_NOTE segments,
and only if there are none in SHT_NOTE sections. Kernels from before 2006 have instead one string in
a section `__xen_guest`, as `GUEST_OS=linux,VIRT_BASE=0xffffffff80000000,...`. Its names differ from
those of the notes, its HYPERCALL_PAGE is a page number counted from VIRT_BASE, and its
ELF_PADDR_OFFSET defaults to VIRT_BASE and not to 0. The rules are those of Xen's
`common/libelf/libelf-dominfo.c`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from pyxen.abi import elfnote, features
from pyxen.builder import elf as elf_format
from pyxen.builder.elf import ElfFile
from pyxen.errors import PyxenError

_FEATURE_BITS: Final = {name: bit for bit, name in features.XENFEAT_NAMES.items()}

# Linux requires writable_page_tables of every Xen and means that Xen emulates its writes to page
# tables. A PV hypervisor always does, although XENVER_get_features does not show the bit, which
# there means that writes need no emulation.
_ALWAYS_OFFERED: Final = 1 << features.XENFEAT_writable_page_tables


# Far more than any kernel takes; the initial mapping has to hold it.
_MAX_EXTENT: Final = 4 << 30


class XenNotes(Struct, frozen=True, kw_only=True):
    """The notes of a kernel; None where a kernel has no such note.

    Addresses are virtual ones. `features_required` and `features_supported` are masks of
    `1 << XENFEAT_*`; what is required is in both. `features_unknown` are the names of required
    features that Xen's headers do not have. `l1_mfn_valid` has pairs of mask and value.
    `legacy` says that they came from a `__xen_guest` string.
    """

    entry: int | None
    virt_base: int
    paddr_offset: int
    hypercall_page: int | None = None
    init_p2m: int | None = None
    hv_start_low: int | None = None
    phys32_entry: int | None = None
    mod_start_pfn: bool = False
    suspend_cancel: bool = False
    bsd_symtab: bool = False
    features_required: int = 0
    features_supported: int = 0
    features_unknown: tuple[str, ...] = ()
    l1_mfn_valid: tuple[tuple[int, int], ...] = ()
    guest_os: str = ""
    guest_version: str = ""
    xen_version: str = ""
    loader: str = ""
    pae_mode: str = ""
    legacy: bool = False


class PvKernel(Struct, frozen=True):
    """Where the segments of a PV kernel will lie, and where it begins.

    Virtual addresses, `end` exclusive.
    """

    start: int
    end: int
    entry: int


def read_notes(elf: ElfFile) -> XenNotes:
    """Find and read the notes of a kernel.

    Raises PyxenError if there are none, or one has no sense.
    """
    contents = _segment_notes(elf) or _section_notes(elf)
    if contents:
        return _from_notes(elf, contents)
    for section in elf.sections:
        if section.name == "__xen_guest":
            return _from_guest_section(elf, bytes(elf.section_data(section)))
    raise PyxenError(
        "kernel without Xen support, expected ELF notes of Xen or a section __xen_guest"
    )


def check_pv(elf: ElfFile, notes: XenNotes, offered_features: int) -> PvKernel:
    """Check that the kernel can be started as a 64-bit PV domain.

    `offered_features` is what the hypervisor answers to XENVER_get_features, as a mask.

    Raises PyxenError if the kernel has no PV entry, is for another version or loader, requires a
    feature that is not offered, or names addresses that do not fit together.
    """
    if notes.entry is None:
        raise PyxenError("kernel can only be started as PVH (no note ENTRY), expected PV support")
    if not (notes.loader.startswith("generic") or notes.guest_os.startswith("linux")):
        raise PyxenError(
            f"kernel for loader {notes.loader!r} and guest OS {notes.guest_os!r}, "
            "expected loader 'generic' or guest OS 'linux'"
        )
    if not notes.xen_version.startswith("xen-3.0"):
        raise PyxenError(f"kernel for Xen version {notes.xen_version!r}, expected 'xen-3.0'")
    missing = notes.features_required & ~(offered_features | _ALWAYS_OFFERED)
    lacking = [name for name, bit in _FEATURE_BITS.items() if missing >> bit & 1]
    lacking.extend(notes.features_unknown)
    if lacking:
        raise PyxenError(f"kernel requires the feature {', '.join(lacking)}, which is not offered")
    return _place(elf, notes, notes.entry)


def _place(elf: ElfFile, notes: XenNotes, entry: int) -> PvKernel:
    loadable = elf.loadable
    offset = notes.virt_base - notes.paddr_offset
    start = loadable[0].paddr + offset
    end = loadable[-1].paddr + loadable[-1].memory_size + offset
    if not notes.virt_base <= start < end <= 1 << 64:
        raise PyxenError(
            f"kernel's segments lie at {start:#x} to {end:#x} by the notes VIRT_BASE "
            f"{notes.virt_base:#x} and PADDR_OFFSET {notes.paddr_offset:#x}, "
            "expected within the address space and not before VIRT_BASE"
        )
    if end - notes.virt_base > _MAX_EXTENT:
        raise PyxenError(
            f"kernel's segments reach {(end - notes.virt_base) >> 20} MiB beyond VIRT_BASE "
            f"{notes.virt_base:#x}, expected at most {_MAX_EXTENT >> 20}"
        )
    if not start <= entry < end:
        raise PyxenError(
            f"kernel's ENTRY {entry:#x} lies outside its segments at {start:#x} to {end:#x}"
        )
    if notes.init_p2m is not None and start <= notes.init_p2m < end:
        raise PyxenError(
            f"kernel's INIT_P2M {notes.init_p2m:#x} lies within its segments "
            f"at {start:#x} to {end:#x}"
        )
    page = notes.hypercall_page
    if page is not None and (page % 4096 or not start <= page <= end - 4096):
        raise PyxenError(
            f"kernel's HYPERCALL_PAGE {page:#x} is not the address of a page in its segments "
            f"at {start:#x} to {end:#x}"
        )
    return PvKernel(start, end, entry)


def _segment_notes(elf: ElfFile) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for segment in elf.segments:
        # Some versions of binutils left the offset of note segments at 0.
        if segment.type == elf_format.PT_NOTE and segment.offset:
            found.update(_xen_notes(elf.segment_data(segment)))
    return found


def _section_notes(elf: ElfFile) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    for section in elf.sections:
        if section.type == elf_format.SHT_NOTE:
            found.update(_xen_notes(elf.section_data(section)))
    return found


def _xen_notes(region: memoryview) -> dict[int, bytes]:
    return {n.type: n.content for n in elf_format.notes_in(region) if n.owner == b"Xen"}


def _from_notes(elf: ElfFile, contents: Mapping[int, bytes]) -> XenNotes:
    def number(kind: int) -> int | None:
        content = contents.get(kind)
        if content is None:
            return None
        if len(content) not in (1, 2, 4, 8):
            raise PyxenError(
                f"Xen note {elfnote.XEN_ELFNOTE_NAMES[kind]} has {len(content)} bytes, "
                "expected a number of 4 or 8"
            )
        return int.from_bytes(content, "little")

    def string(kind: int) -> str:
        return contents.get(kind, b"").split(b"\0", 1)[0].decode("ascii", "replace")

    entry = number(elfnote.XEN_ELFNOTE_ENTRY)
    phys32_entry = number(elfnote.XEN_ELFNOTE_PHYS32_ENTRY)
    if entry is None and phys32_entry is None:
        entry = elf.entry
    virt_base = number(elfnote.XEN_ELFNOTE_VIRT_BASE)
    paddr_offset = number(elfnote.XEN_ELFNOTE_PADDR_OFFSET)
    if virt_base is None and paddr_offset is not None:
        raise PyxenError("kernel with a Xen note PADDR_OFFSET but none VIRT_BASE, expected both")
    supported, required, unknown = _parse_features(string(elfnote.XEN_ELFNOTE_FEATURES))
    supported |= int.from_bytes(
        contents.get(elfnote.XEN_ELFNOTE_SUPPORTED_FEATURES, b"")[:4], "little"
    )
    pairs = contents.get(elfnote.XEN_ELFNOTE_L1_MFN_VALID, b"")
    words = [int.from_bytes(pairs[i : i + 8], "little") for i in range(0, len(pairs) & ~15, 8)]
    return XenNotes(
        entry=entry,
        virt_base=virt_base or 0,
        paddr_offset=paddr_offset or 0,
        hypercall_page=number(elfnote.XEN_ELFNOTE_HYPERCALL_PAGE),
        init_p2m=number(elfnote.XEN_ELFNOTE_INIT_P2M),
        hv_start_low=number(elfnote.XEN_ELFNOTE_HV_START_LOW),
        phys32_entry=phys32_entry,
        mod_start_pfn=bool(number(elfnote.XEN_ELFNOTE_MOD_START_PFN)),
        suspend_cancel=bool(number(elfnote.XEN_ELFNOTE_SUSPEND_CANCEL)),
        bsd_symtab=string(elfnote.XEN_ELFNOTE_BSD_SYMTAB) == "yes",
        features_required=required,
        features_supported=supported,
        features_unknown=unknown,
        l1_mfn_valid=tuple(zip(words[::2], words[1::2], strict=True)),
        guest_os=string(elfnote.XEN_ELFNOTE_GUEST_OS),
        guest_version=string(elfnote.XEN_ELFNOTE_GUEST_VERSION),
        xen_version=string(elfnote.XEN_ELFNOTE_XEN_VERSION),
        loader=string(elfnote.XEN_ELFNOTE_LOADER),
        pae_mode=string(elfnote.XEN_ELFNOTE_PAE_MODE),
    )


def _from_guest_section(elf: ElfFile, content: bytes) -> XenNotes:
    text = content.split(b"\0", 1)[0].decode("ascii", "replace")
    pairs: dict[str, str] = {}
    for item in text.split(","):
        name, _, value = item.partition("=")
        pairs[name] = value

    def number(name: str) -> int | None:
        if name not in pairs:
            return None
        value = pairs[name]
        # As strtoull(value, NULL, 0) reads it, but nothing else may follow.
        if not re.fullmatch(r"0[xX][0-9a-fA-F]{1,16}|0[0-7]{0,22}|[1-9][0-9]{0,19}", value):
            raise PyxenError(f"__xen_guest with {name}={value!r}, expected a number of 64 bits")
        octal = value.startswith("0") and value.isdigit()
        return int(value, 8 if octal else 0) & (1 << 64) - 1

    virt_base = number("VIRT_BASE")
    paddr_offset = number("ELF_PADDR_OFFSET")
    if virt_base is None and paddr_offset is not None:
        raise PyxenError("__xen_guest with ELF_PADDR_OFFSET but no VIRT_BASE, expected both")
    entry = number("VIRT_ENTRY")
    hypercall_page = number("HYPERCALL_PAGE")
    if hypercall_page is not None:
        hypercall_page = (hypercall_page << 12) + (virt_base or 0)
    supported, required, unknown = _parse_features(pairs.get("FEATURES", ""))
    return XenNotes(
        entry=elf.entry if entry is None else entry,
        virt_base=virt_base or 0,
        paddr_offset=(virt_base or 0) if paddr_offset is None else paddr_offset,
        hypercall_page=hypercall_page,
        bsd_symtab="BSD_SYMTAB" in pairs,
        features_required=required,
        features_supported=supported,
        features_unknown=unknown,
        guest_os=pairs.get("GUEST_OS", ""),
        guest_version=pairs.get("GUEST_VER", ""),
        xen_version=pairs.get("XEN_VER", ""),
        loader=pairs.get("LOADER", ""),
        pae_mode=pairs.get("PAE", ""),
        legacy=True,
    )


def _parse_features(text: str) -> tuple[int, int, tuple[str, ...]]:
    """Masks of the supported and the required features, and the names of unknown required ones."""
    supported = required = 0
    unknown = []
    for name in text.split("|"):
        needed = name.startswith("!")
        bit = _FEATURE_BITS.get(name.removeprefix("!"))
        if bit is not None:
            supported |= 1 << bit
            required |= needed << bit
        elif needed:
            unknown.append(name[1:])
    return supported, required, tuple(unknown)
