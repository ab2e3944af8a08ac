# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import struct

import pytest
from small_kernels import (
    DATA,
    ENTRY,
    INIT_P2M,
    SHT_NOTE,
    SHT_PROGBITS,
    TEXT,
    VIRT_BASE,
    Load,
    Sect,
    elf,
    linux_elf,
    linux_notes,
    note,
    note_region,
    text_and_data,
)

from pyxen.abi import features
from pyxen.builder.elf import ElfFile, parse_elf
from pyxen.builder.notes import PvKernel, XenNotes, check_pv, read_notes
from pyxen.errors import PyxenError


def parsed(file: bytes) -> tuple[ElfFile, XenNotes]:
    parsed_file = parse_elf(memoryview(file))
    return parsed_file, read_notes(parsed_file)


def guest_section(text: str) -> bytes:
    return elf(sections=[Sect("__xen_guest", SHT_PROGBITS, text.encode() + b"\0rest")])


def test_all_notes_of_a_linux_kernel() -> None:
    _, notes = parsed(linux_elf(HYPERCALL_PAGE=VIRT_BASE + TEXT + 0x1000, PADDR_OFFSET=0,
                                HV_START_LOW=0xFFFF800000000000, PHYS32_ENTRY=0x1000850,
                                PAE_MODE=b"yes\0"))  # fmt: skip
    assert notes == XenNotes(
        entry=ENTRY,
        virt_base=VIRT_BASE,
        paddr_offset=0,
        hypercall_page=VIRT_BASE + TEXT + 0x1000,
        init_p2m=INIT_P2M,
        hv_start_low=0xFFFF800000000000,
        phys32_entry=0x1000850,
        mod_start_pfn=True,
        suspend_cancel=True,
        features_required=1 << features.XENFEAT_writable_page_tables,
        features_supported=1 << features.XENFEAT_pae_pgdir_above_4gb | 0x8801,
        l1_mfn_valid=((1, 1),),
        guest_os="linux",
        guest_version="2.6",
        xen_version="xen-3.0",
        loader="generic",
        pae_mode="yes",
    )


def test_notes_of_sections_count_only_if_no_segment_has_any() -> None:
    section = Sect(".notes", SHT_NOTE, note(6, b"section\0"))
    assert parsed(elf(sections=[section]))[1].guest_os == "section"
    both = elf(notes=linux_notes(), sections=[section])
    assert parsed(both)[1].guest_os == "linux"


def test_defaults_with_notes() -> None:
    few = linux_notes(ENTRY=None, VIRT_BASE=None, INIT_P2M=None, MOD_START_PFN=None, FEATURES=None)
    _, notes = parsed(elf(notes=few))
    assert (notes.entry, notes.virt_base, notes.paddr_offset) == (TEXT, 0, 0)
    assert (notes.init_p2m, notes.mod_start_pfn, notes.hypercall_page) == (None, False, None)


def test_the_guest_section_of_an_old_kernel() -> None:
    _, notes = parsed(
        guest_section(
            "GUEST_OS=linux,GUEST_VER=2.6,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,"
            "ELF_PADDR_OFFSET=0x0,VIRT_ENTRY=0xffffffff81000000,HYPERCALL_PAGE=0x1001,"
            "FEATURES=writable_page_tables|!writable_descriptor_tables,LOADER=generic,BSD_SYMTAB"
        )
    )
    assert notes == XenNotes(
        entry=0xFFFFFFFF81000000,
        virt_base=VIRT_BASE,
        paddr_offset=0,
        hypercall_page=VIRT_BASE + 0x1001000,
        bsd_symtab=True,
        features_required=1 << features.XENFEAT_writable_descriptor_tables,
        features_supported=3,
        guest_os="linux",
        guest_version="2.6",
        xen_version="xen-3.0",
        loader="generic",
        legacy=True,
    )


def test_defaults_of_the_guest_section() -> None:
    _, notes = parsed(guest_section("LOADER=generic,VIRT_BASE=0xffffffff80000000"))
    assert (notes.entry, notes.paddr_offset) == (TEXT, VIRT_BASE)


@pytest.mark.parametrize("value", ("", "0x", "twelve", "0x12 ", "08", "-1", "0x1" + "0" * 16))
def test_a_bad_number_in_the_guest_section_is_refused(value: str) -> None:
    with pytest.raises(PyxenError, match=r"VIRT_BASE='.*', expected a number"):
        parsed(guest_section(f"LOADER=generic,VIRT_BASE={value}"))


def test_numbers_in_the_guest_section_may_be_octal_or_decimal() -> None:
    _, notes = parsed(guest_section("VIRT_BASE=4096,ELF_PADDR_OFFSET=010000"))
    assert (notes.virt_base, notes.paddr_offset) == (4096, 4096)


@pytest.mark.parametrize(
    ("file", "message"),
    (
        (elf(), "without Xen support"),
        (elf(notes={}), "without Xen support"),
        (linux_elf(ENTRY=b"abc"), "note ENTRY has 3 bytes, expected a number"),
        (linux_elf(VIRT_BASE=None, PADDR_OFFSET=0), "PADDR_OFFSET but none VIRT_BASE"),
        (guest_section("ELF_PADDR_OFFSET=0"), "ELF_PADDR_OFFSET but no VIRT_BASE"),
    ),
)
def test_notes_without_sense_are_refused(file: bytes, message: str) -> None:
    with pytest.raises(PyxenError, match=message):
        parsed(file)


def test_a_linux_kernel_can_start() -> None:
    # Linux requires writable_page_tables, which no PV hypervisor shows among its features.
    assert check_pv(*parsed(linux_elf()), offered_features=0) == PvKernel(
        VIRT_BASE + TEXT, VIRT_BASE + DATA + 0x3000, ENTRY
    )


def test_physical_addresses_that_are_virtual_ones() -> None:
    file = elf(
        text_and_data(base=VIRT_BASE), linux_notes(PADDR_OFFSET=VIRT_BASE), entry=VIRT_BASE + TEXT
    )
    assert check_pv(*parsed(file), offered_features=0).start == VIRT_BASE + TEXT


@pytest.mark.parametrize(
    ("changes", "message"),
    (
        ({"ENTRY": None, "PHYS32_ENTRY": 0x1000850}, "only be started as PVH"),
        ({"LOADER": None, "GUEST_OS": b"plan9\0"}, "loader '' and guest OS 'plan9'"),
        ({"XEN_VERSION": b"xen-2.0\0"}, "for Xen version 'xen-2.0', expected 'xen-3.0'"),
        ({"FEATURES": b"!dom0"}, "requires the feature dom0, which is not offered"),
        ({"FEATURES": b"a|!telepathy"}, "requires the feature telepathy"),
        ({"ENTRY": VIRT_BASE}, "ENTRY 0xffffffff80000000 lies outside"),
        ({"ENTRY": VIRT_BASE + DATA + 0x3000}, "lies outside its segments"),
        ({"INIT_P2M": VIRT_BASE + TEXT}, "INIT_P2M 0xffffffff81000000 lies within"),
        ({"HYPERCALL_PAGE": VIRT_BASE}, "HYPERCALL_PAGE 0xffffffff80000000 is not the address"),
        ({"HYPERCALL_PAGE": VIRT_BASE + TEXT + 8}, "is not the address of a page"),
        ({"PADDR_OFFSET": TEXT + 4096}, "not before VIRT_BASE"),
        ({"VIRT_BASE": (1 << 64) - 4096}, "expected within the address space"),
    ),
)
def test_a_kernel_that_cannot_start(changes: dict[str, bytes | int | None], message: str) -> None:
    file = parsed(linux_elf(**changes))
    with pytest.raises(PyxenError, match=message):
        check_pv(*file, offered_features=0)


def test_an_outlandishly_large_kernel_is_refused() -> None:
    loads = [Load(TEXT, b"text" * 64, flags=5), Load(1 << 40, b"far")]
    file = parsed(elf(loads, linux_notes(VIRT_BASE=0, ENTRY=TEXT)))
    with pytest.raises(PyxenError, match="1048576 MiB beyond VIRT_BASE"):
        check_pv(*file, offered_features=0)


def test_a_required_feature_may_be_offered() -> None:
    bit = features.XENFEAT_auto_translated_physmap
    file = parsed(linux_elf(FEATURES=b"!auto_translated_physmap"))
    with pytest.raises(PyxenError, match="auto_translated_physmap"):
        check_pv(*file, offered_features=1 << (bit + 1))
    check_pv(*file, offered_features=1 << bit)


def test_features_are_parsed_by_xens_rules() -> None:
    supported = struct.pack("<I", 1 << 20)
    _, notes = parsed(
        linux_elf(
            FEATURES=b"|pae_pgdir_above_4gb|!dom0|unknown|\0!lost", SUPPORTED_FEATURES=supported
        )
    )
    assert notes.features_required == 1 << features.XENFEAT_dom0
    assert notes.features_supported == 1 << 4 | 1 << 11 | 1 << 20
    assert notes.features_unknown == ()


def test_only_notes_of_xen_count() -> None:
    region = note_region({})
    assert region  # a note of GNU
    with pytest.raises(PyxenError, match="without Xen support"):
        parsed(elf(sections=[Sect(".notes", SHT_NOTE, region)]))
