# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from fake_domain import PAGE, FakeDomain, FakeMemory
from small_kernels import (
    DATA,
    ENTRY,
    INIT_P2M,
    PF_R,
    PF_X,
    SHT_PROGBITS,
    TEXT,
    VIRT_BASE,
    Load,
    Sect,
    elf,
    linux_elf,
    linux_notes,
    text_and_data,
)

from pyxen.abi import xen
from pyxen.builder.elf import SHF_EXECINSTR
from pyxen.builder.image import load_kernel
from pyxen.builder.pv import PvStart, build_pv
from pyxen.errors import PyxenError

MIB = 1 << 20
KERNEL_PAGES = (DATA + 0x3000) // PAGE
RAMDISK = b"ramdisk!" * 1000
PRESENT, RW, USER, ACCESSED, DIRTY, NX = 1, 2, 4, 0x20, 0x40, 1 << 63


@dataclass
class Built:
    """A domain after build_pv, seen with the eyes of its guest."""

    domain: FakeDomain
    start: PvStart

    @property
    def memory(self) -> FakeMemory:
        return self.domain.memory

    def entry(self, address: int) -> int:
        """The L1 entry that maps an address, 0 if none does."""
        table = self.start.l4_mfn
        for shift in (39, 30, 21):
            entry = self.memory.words[table * 512 + (address >> shift & 511)]
            if not entry & PRESENT:
                return 0
            assert entry & 0xFFF | entry & NX == PRESENT | RW | ACCESSED | DIRTY
            table = entry >> 12 & (1 << 40) - 1
        return self.memory.words[table * 512 + (address >> 12 & 511)]

    def pfn_at(self, address: int) -> int:
        mfn = self.entry(address) >> 12 & (1 << 40) - 1
        return self.memory.p2m.index(mfn)

    def read(self, address: int, size: int) -> bytes:
        found = b""
        while len(found) < size:
            page = self.memory.page(self.pfn_at(address + len(found)))
            found += page[(address + len(found)) % PAGE :]
        return found[:size]

    def start_info(self) -> dict[str, int | bytes]:
        page = self.read(self.start.start_info_address, xen.START_INFO.size)
        return dict(zip(xen.START_INFO.offsets, xen.START_INFO.unpack(page), strict=True))

    def mapped(self, start: int) -> int:
        """How many pages are mapped one after the other from an address on."""
        count = 0
        while start + count * PAGE < 1 << 64 and self.entry(start + count * PAGE):
            count += 1
        return count


def build(
    tmp_path: Path,
    kernel: bytes | None = None,
    ramdisk: bytes | None = RAMDISK,
    mib: int = 32,
    command_line: str = "console=hvc0",
) -> Built:
    (tmp_path / "kernel").write_bytes(linux_elf() if kernel is None else kernel)
    if ramdisk is not None:
        (tmp_path / "ramdisk").write_bytes(ramdisk)
    domain = FakeDomain(mib)
    start = build_pv(
        domain,
        load_kernel(tmp_path / "kernel"),
        tmp_path / "ramdisk" if ramdisk is not None else None,
        command_line,
        console_port=2,
        store_port=1,
        offered_features=0,
    )
    return Built(domain, start)


def test_the_vcpu_begins_at_the_entry(tmp_path: Path) -> None:
    built = build(tmp_path)
    assert built.start.entry == ENTRY
    tables = built.start.page_table_pfns
    assert built.start.stack_pointer == VIRT_BASE + (tables.stop + 1) * PAGE
    assert built.domain.l4_mfns == [built.start.l4_mfn] == [built.memory.p2m[tables[0]]]


def test_elements_follow_in_xens_order(tmp_path: Path) -> None:
    start = build(tmp_path).start
    assert start.start_info_address == VIRT_BASE + KERNEL_PAGES * PAGE
    assert start.store_pfn == KERNEL_PAGES + 1
    assert start.console_pfn == KERNEL_PAGES + 2
    assert start.page_table_pfns.start == KERNEL_PAGES + 3


def test_segments_are_loaded(tmp_path: Path) -> None:
    built = build(tmp_path)
    assert built.read(VIRT_BASE + TEXT, 8192) == b"text" * 2048
    assert built.read(VIRT_BASE + DATA, 0x3000) == (b"data" * 1025).ljust(0x3000, b"\0")


def test_segments_that_do_not_begin_with_a_page(tmp_path: Path) -> None:
    loads = [Load(TEXT + 0x10, b"text" * 2000, flags=PF_R | PF_X), Load(DATA + 0xFF8, b"data" * 50)]
    built = build(tmp_path, elf(loads, linux_notes()))
    assert built.read(VIRT_BASE + TEXT + 0x10, 8000) == b"text" * 2000
    assert built.read(VIRT_BASE + DATA + 0xFF8, 200) == b"data" * 50


def test_start_info_of_a_modern_kernel(tmp_path: Path) -> None:
    built = build(tmp_path)
    tables = built.start.page_table_pfns
    mapped = built.mapped(VIRT_BASE)
    ramdisk_pages = 2
    p2m_pages = 32 * 256 * 8 // PAGE
    assert built.start_info() == {
        "magic": b"xen-3.0-x86_64".ljust(32, b"\0"),
        "nr_pages": 32 * 256,
        "shared_info": built.memory.shared_info_mfn << 12,
        "flags": xen.SIF_MOD_START_PFN | xen.SIF_VIRT_P2M_4TOOLS,
        "store_mfn": built.memory.p2m[built.start.store_pfn],
        "store_evtchn": 1,
        "console.domU.mfn": built.memory.p2m[built.start.console_pfn],
        "console.domU.evtchn": 2,
        "pt_base": VIRT_BASE + tables.start * PAGE,
        "nr_pt_frames": len(tables),
        "mfn_list": INIT_P2M,
        "mod_start": mapped,
        "mod_len": len(RAMDISK),
        "cmd_line": b"console=hvc0".ljust(1024, b"\0"),
        "first_p2m_pfn": mapped + ramdisk_pages,
        "nr_p2m_frames": p2m_pages + 3,
    }
    assert built.start.store_mfn == built.memory.p2m[built.start.store_pfn]
    assert built.start.console_mfn == built.memory.p2m[built.start.console_pfn]


def test_start_info_of_a_kernel_with_everything_in_the_mapping(tmp_path: Path) -> None:
    built = build(tmp_path, linux_elf(INIT_P2M=None, MOD_START_PFN=None))
    info = built.start_info()
    assert info["flags"] == xen.SIF_VIRT_P2M_4TOOLS
    assert info["mod_start"] == VIRT_BASE + KERNEL_PAGES * PAGE
    assert built.read(VIRT_BASE + KERNEL_PAGES * PAGE, len(RAMDISK)) == RAMDISK
    assert info["mfn_list"] == VIRT_BASE + (KERNEL_PAGES + 2) * PAGE
    assert built.start.start_info_address == VIRT_BASE + (KERNEL_PAGES + 2 + 16) * PAGE
    assert (info["first_p2m_pfn"], info["nr_p2m_frames"]) == (0, 0)


def test_no_ramdisk(tmp_path: Path) -> None:
    info = build(tmp_path, ramdisk=None).start_info()
    assert (info["flags"], info["mod_start"], info["mod_len"]) == (xen.SIF_VIRT_P2M_4TOOLS, 0, 0)


def test_an_unmapped_ramdisk_lies_behind_the_mapping(tmp_path: Path) -> None:
    built = build(tmp_path)
    pfn = built.start_info()["mod_start"]
    assert isinstance(pfn, int)
    content = b"".join(built.memory.page(pfn + i) for i in range(2))
    assert content == RAMDISK.ljust(2 * PAGE, b"\0")


@pytest.mark.parametrize("init_p2m", (INIT_P2M, None, VIRT_BASE + (1 << 30), INIT_P2M + 8))
def test_the_p2m_lists_all_machine_frames(tmp_path: Path, init_p2m: int | None) -> None:
    """An INIT_P2M above VIRT_BASE or not aligned is ignored, as Xen does."""
    built = build(tmp_path, linux_elf(INIT_P2M=init_p2m))
    address = built.start_info()["mfn_list"]
    assert isinstance(address, int)
    assert (address == INIT_P2M) == (init_p2m == INIT_P2M)
    assert built.read(address, 32 * 256 * 8) == built.memory.p2m.tobytes()


def test_a_p2m_in_the_same_gigabyte_as_the_kernel_shares_its_tables(tmp_path: Path) -> None:
    base = VIRT_BASE + (512 << 20)
    kernel = linux_elf(VIRT_BASE=base, INIT_P2M=VIRT_BASE, ENTRY=base + TEXT)
    built = build(tmp_path, kernel)
    assert built.read(VIRT_BASE, 32 * 256 * 8) == built.memory.p2m.tobytes()
    assert built.start_info()["nr_p2m_frames"] == 16 + 1
    assert built.read(base + TEXT, 4) == b"text"


def test_the_mapping_is_one_to_one_and_ends_at_4_mib(tmp_path: Path) -> None:
    built = build(tmp_path)
    count = built.mapped(VIRT_BASE)
    assert (VIRT_BASE + count * PAGE) % (4 * MIB) == 0
    padding = VIRT_BASE + count * PAGE - built.start.stack_pointer
    assert 512 << 10 <= padding < (512 << 10) + 4 * MIB
    assert [built.pfn_at(VIRT_BASE + i * PAGE) for i in range(0, count, 97)] == list(
        range(0, count, 97)
    )


@pytest.mark.parametrize("pages", range(900, 911))
def test_padding_of_a_kernel_near_a_4_mib_boundary(tmp_path: Path, pages: int) -> None:
    loads = [Load(TEXT, b"text", memory_size=pages * PAGE, flags=PF_R | PF_X)]
    built = build(tmp_path, elf(loads, linux_notes()))
    count = built.mapped(VIRT_BASE)
    padding = count - (built.start.stack_pointer - VIRT_BASE) // PAGE
    assert count % 1024 == 0
    assert 128 <= padding <= 128 + 1024
    # start_info, two rings, tables, stack and padding: the boundary is crossed when they must.
    needed = pages + 3 + len(built.start.page_table_pfns) + 1 + 128
    assert (count - TEXT // PAGE) == (needed // 1024 + 1) * 1024


def test_page_tables_are_read_only(tmp_path: Path) -> None:
    built = build(tmp_path)
    tables = built.start.page_table_pfns
    for pfn in range(KERNEL_PAGES, tables.stop + 2):
        writable = bool(built.entry(VIRT_BASE + pfn * PAGE) & RW)
        assert writable == (pfn not in tables), pfn


def test_only_executable_segments_are_executable(tmp_path: Path) -> None:
    built = build(tmp_path)
    executable = [
        pfn
        for pfn in range(built.mapped(VIRT_BASE))
        if not built.entry(VIRT_BASE + pfn * PAGE) & NX
    ]
    assert executable == [TEXT // PAGE, TEXT // PAGE + 1]
    assert built.entry(INIT_P2M) & NX


def test_executable_sections_are_executable_in_any_segment(tmp_path: Path) -> None:
    # As in Linux 7.2, whose first code is in the segment of its data.
    code = Sect(
        ".init.text", SHT_PROGBITS, bytes(8), flags=SHF_EXECINSTR, address=VIRT_BASE + DATA + PAGE
    )
    kernel = elf(text_and_data(), linux_notes(), [code])
    built = build(tmp_path, kernel)
    executable = [
        pfn
        for pfn in range(built.mapped(VIRT_BASE))
        if not built.entry(VIRT_BASE + pfn * PAGE) & NX
    ]
    assert executable == [TEXT // PAGE, TEXT // PAGE + 1, DATA // PAGE + 1]


def test_no_page_is_open_to_user_mode(tmp_path: Path) -> None:
    built = build(tmp_path)
    for pfn in range(0, built.mapped(VIRT_BASE), 13):
        entry = built.entry(VIRT_BASE + pfn * PAGE)
        assert entry & 0xFFD == PRESENT | ACCESSED | DIRTY


def test_the_hypercall_page_is_filled_and_executable(tmp_path: Path) -> None:
    page = VIRT_BASE + DATA + 0x1000
    built = build(tmp_path, linux_elf(HYPERCALL_PAGE=page))
    pfn = (DATA + 0x1000) // PAGE
    assert built.domain.hypercall_pages == [built.memory.p2m[pfn]]
    assert not built.entry(page) & NX
    assert build(tmp_path).domain.hypercall_pages == []


def test_an_old_kernel_with_virtual_physical_addresses(tmp_path: Path) -> None:
    text = f"GUEST_OS=linux,XEN_VER=xen-3.0,VIRT_BASE={VIRT_BASE:#x},HYPERCALL_PAGE=0x1001"
    section = Sect("__xen_guest", SHT_PROGBITS, text.encode() + b"\0")
    kernel = elf(text_and_data(VIRT_BASE), sections=[section], entry=VIRT_BASE + TEXT)
    built = build(tmp_path, kernel)
    assert built.start.entry == VIRT_BASE + TEXT
    assert built.read(VIRT_BASE + DATA, 4) == b"data"
    assert built.domain.hypercall_pages == [built.memory.p2m[0x1001]]


def test_a_kernel_mapped_at_zero(tmp_path: Path) -> None:
    kernel = linux_elf(VIRT_BASE=0, ENTRY=TEXT, INIT_P2M=None)
    built = build(tmp_path, kernel)
    assert built.read(TEXT, 4) == b"text"


def test_the_longest_command_line(tmp_path: Path) -> None:
    assert build(tmp_path, command_line="x" * 1023).start_info()["cmd_line"] == b"x" * 1023 + b"\0"


@pytest.mark.parametrize(
    ("command_line", "message"),
    (
        ("x" * 1024, "command line has 1024 bytes, expected at most 1023"),
        ("\u00e4" * 512, "command line has 1024 bytes"),
        ("a\0b", "zero byte"),
    ),
)
def test_a_bad_command_line(tmp_path: Path, command_line: str, message: str) -> None:
    with pytest.raises(PyxenError, match=message):
        build(tmp_path, command_line=command_line)


@pytest.mark.parametrize("notes", ({}, {"INIT_P2M": None, "MOD_START_PFN": None}))
def test_too_little_memory_says_how_much_is_needed(tmp_path: Path, notes: dict[str, None]) -> None:
    kernel = linux_elf(**notes)
    with pytest.raises(PyxenError, match=r"kernel needs at least \d+ MiB .* has 8$") as caught:
        build(tmp_path, kernel, mib=8)
    needed = int(str(caught.value).split(" MiB")[0].split()[-1])
    build(tmp_path, kernel, mib=needed)
    with pytest.raises(PyxenError, match=f"at least {needed} MiB"):
        build(tmp_path, kernel, mib=needed - 1)


def test_a_ramdisk_too_large_says_how_much_is_needed(tmp_path: Path) -> None:
    with pytest.raises(PyxenError, match=r"kernel: kernel and its ramdisk .* of 20 MiB need at "
                                         "least 41 MiB of memory, the domain has 32"):  # fmt: skip
        build(tmp_path, ramdisk=bytes(20 * MIB))
    build(tmp_path, ramdisk=bytes(20 * MIB), mib=41)
    with pytest.raises(PyxenError, match="ramdisk is larger than the domain's memory of 32 MiB"):
        build(tmp_path, ramdisk=bytes(32 * MIB + 1))


def test_a_ramdisk_that_is_empty_or_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(PyxenError, match="ramdisk: ramdisk is empty"):
        build(tmp_path, ramdisk=b"")
    (tmp_path / "ramdisk").unlink()
    (tmp_path / "ramdisk").mkdir()
    kernel = load_kernel(tmp_path / "kernel")
    with pytest.raises(PyxenError, match="cannot read the ramdisk: Is a directory"):
        build_pv(
            FakeDomain(32), kernel, tmp_path / "ramdisk", "",
            console_port=2, store_port=1, offered_features=0,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("notes", "message"),
    (
        ({"VIRT_BASE": VIRT_BASE + 8}, "expected multiples of 4096"),
        ({"INIT_P2M": 0xFFFF800000000000}, "P2M would lie at .* Xen's or not canonical"),
        ({"INIT_P2M": VIRT_BASE - 4096}, "into the initial mapping at"),
        ({"VIRT_BASE": 0xFFFF800000000000}, "initial mapping would lie at .* Xen's"),
        ({"VIRT_BASE": (1 << 64) - DATA - 0x3000}, "addresses beyond 64 bits"),
        ({"FEATURES": b"!dom0"}, "kernel: kernel requires the feature dom0"),
    ),
)
def test_notes_that_name_impossible_addresses(
    tmp_path: Path, notes: dict[str, int | bytes], message: str
) -> None:
    base = notes.get("VIRT_BASE", VIRT_BASE)
    assert isinstance(base, int)
    with pytest.raises(PyxenError, match=message):
        build(tmp_path, linux_elf(**{"ENTRY": base + TEXT, **notes}))
