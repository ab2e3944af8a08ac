# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import struct
from pathlib import Path

import pytest
from small_kernels import (
    DATA,
    PF_R,
    PF_X,
    SHT_STRTAB,
    SHT_SYMTAB,
    TEXT,
    VIRT_BASE,
    Load,
    Sect,
    elf,
    linux_notes,
)

from pyxen.builder.elf import parse_elf
from pyxen.builder.image import KernelImage, load_kernel
from pyxen.builder.symbols import (
    SymbolTable,
    load_symbols,
    read_kallsyms,
    read_symtab,
    read_system_map,
)
from pyxen.errors import PyxenError

BASE = VIRT_BASE + TEXT

# More than two markers; one name is so long that its length takes two bytes.
SYMBOLS = [
    (BASE, "_text"),
    (BASE, "startup_64"),
    *((BASE + 0x100 + 16 * i, f"sys_call_{i}") for i in range(700)),
    (BASE + 0x4000, "long_" + "x" * 140),
    (BASE + 0x5000, "panic"),
    (BASE + 0x200000, "data"),
]
PER_CPU = [(0, "fixed_percpu_data"), (0x34000, "__per_cpu_end")]


def symtab_sections() -> list[Sect]:
    """Section 1 and 2: symbols and their names, with some that are no use."""
    names = b"\0panic\0start\0undefined\0file.c\0"
    entries = (
        (1, 0x12, 1, BASE + 0x500),  # panic, a global function
        (7, 0x10, 1, BASE),  # start, a global label
        (13, 0x10, 0, 0),  # undefined
        (23, 0x04, 0xFFF1, BASE),  # file.c
        (0, 0x03, 1, BASE),  # a section
        (9999, 0x12, 1, BASE + 8),  # a name beyond the end
    )
    table = bytes(24) + b"".join(
        struct.pack("<IBBHQQ", name, info, 0, section, value, 0)
        for name, info, section, value in entries
    )
    return [Sect(".symtab", SHT_SYMTAB, table, link=2), Sect(".strtab", SHT_STRTAB, names)]


class Kallsyms:
    """The tables of kallsyms as scripts/kallsyms.c of Linux lays them out."""

    def __init__(self, symbols: list[tuple[int, str]], absolute_per_cpu: bool) -> None:
        tokens = [bytes([byte]) if 0x21 <= byte < 0x7F else b"" for byte in range(256)]
        # Tokens that stand for more than themselves, in places that no name uses, and in that of a
        # character. As in Linux, 0x30 to 0x39 stand for themselves.
        for place, token in ((0x00, b"sys_"), (0x01, b"call_"), (0xFE, b"xx"), (0x21, b"per")):
            tokens[place] = token
        index = []
        table = b""
        for token in tokens:
            index.append(len(table))
            table += token + b"\0"
        self.token_table = self.aligned(table)
        self.token_index = struct.pack("<256H", *index)
        self.num_syms = struct.pack("<Q", len(symbols))
        names = b""
        markers = []
        for number, (address, name) in enumerate(symbols):
            if number % 256 == 0:
                markers.append(len(names))
            kind = b"A" if address < BASE else b"T"
            packed = kind + name.encode()
            for place, token in ((0, b"sys_"), (1, b"call_"), (0xFE, b"xx"), (0x21, b"per")):
                packed = packed.replace(token, bytes([place]))
            size = len(packed)
            names += bytes([size]) if size < 128 else bytes([size & 0x7F | 0x80, size >> 7])
            names += packed
        self.names = self.aligned(names)
        self.markers = self.aligned(struct.pack(f"<{len(markers)}I", *markers))
        self.wide_markers = struct.pack(f"<{len(markers)}Q", *markers)
        self.seqs_of_names = self.aligned(
            b"".join(
                (number * 7 % len(symbols)).to_bytes(3, "big") for number in range(len(symbols))
            )
        )
        if absolute_per_cpu:
            offsets = [a if a < BASE else BASE - 1 - a for a, _ in symbols]
        else:
            offsets = [address - BASE for address, _ in symbols]
        self.offsets = self.aligned(struct.pack(f"<{len(offsets)}i", *offsets))
        self.relative_base = struct.pack("<Q", BASE)

    @staticmethod
    def aligned(data: bytes) -> bytes:
        return data + bytes(-len(data) % 8)

    def layout(self, kernel: str) -> bytes:
        front = self.offsets + self.relative_base + self.num_syms + self.names
        tokens = self.token_table + self.token_index
        if kernel == "4.19":
            return front + self.wide_markers + tokens
        if kernel == "5.10":
            return front + self.markers + tokens
        if kernel == "6.2":
            return front + self.markers + self.seqs_of_names + tokens
        assert kernel == "6.4"
        return (
            self.num_syms + self.names + self.markers + tokens
            + self.offsets + self.relative_base + self.seqs_of_names
        )  # fmt: skip


def kallsyms_in(image: memoryview) -> list[tuple[int, str]] | None:
    return read_kallsyms(image, BASE, BASE + 0x300000)


def kernel_with(
    tmp_path: Path, rodata: bytes = b"", sections: list[Sect] | None = None
) -> KernelImage:
    loads = [
        Load(TEXT, b"text" * 100 + bytes(8) + rodata, memory_size=0x100000, flags=PF_R | PF_X),
        Load(DATA, b"data", memory_size=0x3000),
    ]
    (tmp_path / "kernel").write_bytes(elf(loads, linux_notes(), sections or ()))
    return load_kernel(tmp_path / "kernel")


def test_lookup() -> None:
    table = SymbolTable(
        [(0x2000, "b"), (0x1000, "a"), (0x2000, "c"), (0x9000, "d")], 0x1000, 0x3000
    )
    assert len(table) == 3
    assert table.lookup(0x0FFF) is None
    assert table.lookup(0x1000) == ("a", 0)
    assert table.lookup(0x1FFF) == ("a", 0xFFF)
    assert table.lookup(0x2010) == ("b", 0x10)
    assert table.lookup(0x3000) is None
    assert table.lookup(-1) is None
    assert table.address_of("c") == 0x2000
    assert table.address_of("d") is None


def test_the_symbol_table_of_an_elf_file() -> None:
    file = parse_elf(memoryview(elf(sections=symtab_sections())))
    assert read_symtab(file) == [(BASE + 0x500, "panic"), (BASE, "start")]
    assert read_symtab(parse_elf(memoryview(elf()))) is None


@pytest.mark.parametrize("kernel", ("4.19", "5.10", "6.2", "6.4"))
@pytest.mark.parametrize("per_cpu", (False, True))
def test_kallsyms(kernel: str, per_cpu: bool) -> None:
    symbols = PER_CPU + SYMBOLS if per_cpu else SYMBOLS
    tables = Kallsyms(symbols, absolute_per_cpu=per_cpu).layout(kernel)
    image = memoryview(bytes(4096) + b"before!!" + tables + b"behind" + bytes(4096))
    assert kallsyms_in(image) == symbols


@pytest.mark.parametrize("size", (256, 511, 512, 513))
def test_kallsyms_of_other_sizes(size: int) -> None:
    symbols = SYMBOLS[:size]
    tables = Kallsyms(symbols, absolute_per_cpu=False).layout("6.2")
    found = kallsyms_in(memoryview(bytes(4096) + tables))
    assert found == (symbols if size > 256 else None)


def test_kallsyms_behind_something_that_resembles_them() -> None:
    tables = Kallsyms(SYMBOLS, absolute_per_cpu=False)
    digits = b"".join(b"%d\0" % digit for digit in range(10))
    image = memoryview(bytes(4096) + digits + bytes(4) + tables.layout("6.4"))
    assert kallsyms_in(image) == SYMBOLS


@pytest.mark.parametrize("table", ("num_syms", "names", "markers", "token_index", "offsets"))
def test_damaged_kallsyms_are_not_taken(table: str) -> None:
    tables = Kallsyms(SYMBOLS, absolute_per_cpu=False)
    content = getattr(tables, table)
    setattr(tables, table, bytes([content[0] ^ 0x55]) + content[1:])
    assert kallsyms_in(memoryview(bytes(4096) + tables.layout("5.10"))) is None


def test_no_kallsyms() -> None:
    assert kallsyms_in(memoryview(bytes(10000))) is None


def test_a_system_map(tmp_path: Path) -> None:
    file = tmp_path / "System.map"
    file.write_text("0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\n")
    assert read_system_map(file) == [(0, "fixed_percpu_data"), (BASE, "_text")]


def test_debians_system_map_has_no_symbols(tmp_path: Path) -> None:
    file = tmp_path / "System.map"
    file.write_text(
        "ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package\n"
    )
    assert read_system_map(file) is None


def test_a_bad_system_map(tmp_path: Path) -> None:
    file = tmp_path / "System.map"
    with pytest.raises(PyxenError, match="cannot read the symbols: No such file"):
        read_system_map(file)
    file.write_text("ffffffff81000000 T _text\nhello\n")
    with pytest.raises(PyxenError, match=r"System\.map: line 2 is 'hello', expected address type"):
        read_system_map(file)


def test_the_best_source_is_taken(tmp_path: Path) -> None:
    tables = Kallsyms(PER_CPU + SYMBOLS, absolute_per_cpu=True).layout("6.2")
    system_map = tmp_path / "System.map"
    system_map.write_text("ffffffff81000000 T from_map\n")

    def name(kernel: KernelImage, system_map: Path | None = None) -> tuple[str, int] | None:
        table = load_symbols(kernel, system_map)
        assert table is not None
        return table.lookup(BASE + 2)

    with_symtab = kernel_with(tmp_path, tables, symtab_sections())
    assert name(with_symtab, system_map) == ("from_map", 2)
    assert name(with_symtab) == ("start", 2)
    stripped = kernel_with(tmp_path, tables)
    assert name(stripped) == ("_text", 2)
    system_map.write_text("ffffffffffffffff B The real System.map is in another package\n")
    assert name(stripped, system_map) == ("_text", 2)
    assert load_symbols(kernel_with(tmp_path)) is None


def test_symbols_outside_the_kernel_name_nothing(tmp_path: Path) -> None:
    tables = Kallsyms(PER_CPU + SYMBOLS, absolute_per_cpu=True).layout("6.2")
    table = load_symbols(kernel_with(tmp_path, tables))
    assert table is not None
    assert table.lookup(0x10) is None
    assert table.lookup(VIRT_BASE + DATA + 0x2FFF) == ("data", 0x2FFF)
    assert table.lookup(VIRT_BASE + DATA + 0x3000) is None
