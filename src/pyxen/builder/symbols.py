# SPDX-License-Identifier: GPL-2.0-or-later
"""The symbols of a guest's kernel, to give names to addresses in a crash report.

They are found in one of three places: the symbol table of the ELF file, a `System.map` file, or
the tables that Linux carries for its own crash reports, kallsyms. Distributions strip the first and
package the second apart, so the third is what remains.

kallsyms stores names compressed: of the 256 possible bytes each stands for a *token*, a short
string (one that stands for itself, or a frequent one as `_register`). The tables, as
`scripts/kallsyms.c` of Linux writes them, each aligned to 8 bytes:

- `num_syms`: how many symbols there are;
- `names`: for each its length in bytes (a second byte follows if bit 7 is set) and these bytes;
  the first character of the expanded name is the type of the symbol as in `nm`;
- `markers`: the place in `names` of each 256th symbol;
- `token_table`, `token_index`: the tokens' strings, each ended by a zero, and where each begins;
- `offsets`: the symbols' addresses as 32-bit numbers, ascending, and `relative_base`. If per-cpu
  symbols are absolute, an offset >= 0 is an address itself and a negative one means
  `relative_base - 1 - offset`; otherwise an offset is unsigned and counts from `relative_base`.

No header says where they are. `offsets` and `relative_base` come first, since Linux 6.4 they come
behind `token_index`. Linux 6.2 added `seqs_of_names` (three bytes a symbol, the order by name), at
first between `markers` and `token_table`, since 6.4 at the end; stable releases of 6.1 have it too.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from pyxen.builder.elf import SHN_UNDEF, SHT_SYMTAB, ElfFile
from pyxen.builder.files import OpenFile, open_for_reading
from pyxen.builder.image import KernelImage
from pyxen.errors import PyxenError

_SYMBOL: Final = struct.Struct("<IBBHQQ")
_STT_SECTION: Final = 3
_STT_FILE: Final = 4

_MARKER_INTERVAL: Final = 256
_MAX_NAMES_OF_MARKER: Final = _MARKER_INTERVAL * 514  # 256 symbols of 512 characters
_MAX_SYMBOLS: Final = 1 << 20
_DIGITS: Final = b"".join(b"%d\0" % digit for digit in range(10))


class SymbolTable:
    """Names of addresses from `low` up to, not including, `high`."""

    def __init__(self, symbols: Iterable[tuple[int, str]], low: int, high: int) -> None:
        # A stable sort: of several names for an address, the first stays in front.
        found = sorted((s for s in symbols if low <= s[0] < high), key=lambda symbol: symbol[0])
        self._addresses = array("Q", [address for address, _ in found])
        self._names = [name for _, name in found]
        self._high = high

    def __len__(self) -> int:
        return len(self._names)

    def lookup(self, address: int) -> tuple[str, int] | None:
        """The symbol at or before an address and the distance from it; None outside the kernel."""
        if not 0 <= address < self._high:
            return None
        index = bisect_right(self._addresses, address) - 1
        if index < 0:
            return None
        start = self._addresses[index]
        while index and self._addresses[index - 1] == start:
            index -= 1
        return self._names[index], address - start

    def address_of(self, name: str) -> int | None:
        """The address of a symbol; the first if several have the name. Slow."""
        try:
            return self._addresses[self._names.index(name)]
        except ValueError:
            return None


def load_symbols(
    kernel: KernelImage,
    system_map: Path | None = None,
    open_file: OpenFile = open_for_reading,
) -> SymbolTable | None:
    """The symbols of a kernel from the best source there is; None if there is none. `open_file`
    opens `system_map`.

    May take a second. Raises PyxenError if `system_map` is given and cannot be read.
    """
    low, high = _kernel_addresses(kernel)
    sources = (
        read_system_map(system_map, open_file) if system_map else None,
        read_symtab(kernel.elf),
        read_kallsyms(kernel.elf.data, low, high),
    )
    for symbols in sources:
        table = SymbolTable(symbols or (), low, high)
        if len(table):
            return table
    return None


def _kernel_addresses(kernel: KernelImage) -> tuple[int, int]:
    loadable = kernel.elf.loadable
    offset = kernel.notes.virt_base - kernel.notes.paddr_offset
    last = loadable[-1]
    return loadable[0].paddr + offset, last.paddr + last.memory_size + offset


def read_symtab(elf: ElfFile) -> list[tuple[int, str]] | None:
    """Address and name of each symbol of the ELF file; None if it has none (is stripped)."""
    table = next((s for s in elf.sections if s.type == SHT_SYMTAB), None)
    if table is None or table.link >= len(elf.sections):
        return None
    try:
        data = elf.section_data(table)
        names = bytes(elf.section_data(elf.sections[table.link]))
    except PyxenError:  # the file is cut off there, which does not keep it from running
        return None
    symbols = []
    whole = len(data) - len(data) % _SYMBOL.size
    for name, info, _, section, value, _ in _SYMBOL.iter_unpack(data[:whole]):
        if section != SHN_UNDEF and info & 15 not in (_STT_SECTION, _STT_FILE):
            end = names.find(b"\0", name)
            if end > name:
                symbols.append((value, names[name:end].decode("latin-1")))
    return symbols


def read_system_map(
    path: Path, open_file: OpenFile = open_for_reading
) -> list[tuple[int, str]] | None:
    """Address and name of each symbol in a System.map file.

    None for the file that Debian puts in its place, one line which says where the real one is.

    Raises PyxenError if the file cannot be read or a line is not `address type name`.
    """
    try:
        with open_file(path) as file:
            lines = file.read().decode("latin-1").splitlines()
    except OSError as error:
        raise PyxenError(f"{path}: cannot read the symbols: {error.strerror}") from None
    if len(lines) == 1 and "The real System.map is in" in lines[0]:
        return None
    symbols = []
    for number, line in enumerate(lines, 1):
        match = re.fullmatch(r"([0-9a-fA-F]{1,16}) (\S) (\S+)(?:\s+\[\w+\])?", line)
        if match is None:
            raise PyxenError(f"{path}: line {number} is {line[:60]!r}, expected address type name")
        symbols.append((int(match[1], 16), match[3]))
    return symbols


def read_kallsyms(data: memoryview, low: int, high: int) -> list[tuple[int, str]] | None:
    """Address and name of each symbol in the kallsyms tables of a Linux image; None without such.

    `data` is the whole ELF file; where the tables lie is found by their structure. The kernel lies
    at the virtual addresses from `low` to `high`.
    """
    for match in re.finditer(re.escape(_DIGITS), data):
        tokens = _read_tokens(data, match.start())
        if tokens is None:
            continue
        start, end, strings = tokens
        found = _find_names(data, start)
        if found is None:
            continue
        names, count = found
        addresses = _find_addresses(data, names - 8, end, count, range(low, high))
        if addresses is not None:
            expanded = _expand(data, names, count, strings)
            # The first character is the type.
            return [(a, name[1:]) for a, name in zip(addresses, expanded, strict=True)]
    return None


def _read_tokens(data: memoryview, digits: int) -> tuple[int, int, list[str]] | None:
    """Start of `token_table`, end of `token_index`, the tokens, if `digits` lies in the former.

    `digits` is the place of the tokens for the ten digits, which stand for themselves.
    """
    tail = bytes(data[digits : digits + 0x4000]).split(b"\0", 256 - ord("0"))
    if len(tail) <= 256 - ord("0"):
        return None
    position = digits + sum(len(token) + 1 for token in tail[:-1])
    position += -position % 8
    if position + 512 > len(data):
        return None
    index = struct.unpack_from("<256H", data, position)
    start = digits - index[ord("0")]
    if index[0] != 0 or start < 0:
        return None
    strings = bytes(data[start:position]).split(b"\0")[:256]
    if len(strings) < 256:
        return None
    place = 0
    for token, expected in zip(strings, index, strict=True):
        if place != expected:
            return None
        place += len(token) + 1
    return start, position + 512, [token.decode("latin-1") for token in strings]


def _find_names(data: memoryview, token_table: int) -> tuple[int, int] | None:
    """Start of `names` and the number of symbols."""
    for start, markers in _marker_tables(data, token_table):
        latest = start - markers[-1]
        latest -= latest % 8
        for names in range(latest, max(latest - _MAX_NAMES_OF_MARKER, 8), -8):
            (count,) = struct.unpack_from("<Q", data, names - 8)
            if -(-count // _MARKER_INTERVAL) != len(markers):
                continue
            if _names_fit(data, names, start, markers, count):
                return names, count
    return None


def _marker_tables(data: memoryview, token_table: int) -> Iterator[tuple[int, list[int]]]:
    """Where `markers` may begin, and what it then has."""
    for size, code in ((4, "<I"), (8, "<Q")):  # 8 up to Linux 4.19
        markers = _markers_before(data, token_table, size, code)
        if len(markers) > 1:
            yield token_table - _aligned(len(markers) * size), markers
    # With seqs_of_names between the two its length, so the number of symbols, has to be guessed.
    for count in range(_MARKER_INTERVAL + 1, min(_MAX_SYMBOLS, token_table // 4)):
        number = -(-count // _MARKER_INTERVAL)
        start = token_table - _aligned(count * 3) - _aligned(number * 4)
        first, second = struct.unpack_from("<II", data, start)
        if first == 0 and _MARKER_INTERVAL < second < _MAX_NAMES_OF_MARKER:
            markers = list(struct.unpack_from(f"<{number}I", data, start))
            if markers == sorted(markers):
                yield start, markers


def _aligned(size: int) -> int:
    return size + -size % 8


def _markers_before(data: memoryview, end: int, size: int, code: str) -> list[int]:
    """The numbers that ascend from a zero up to `end`, where one of padding may stand."""
    markers: list[int] = []
    position = end - size
    if position >= 0 and struct.unpack_from(code, data, position)[0] == 0:
        position -= size
    while position >= 0:
        (value,) = struct.unpack_from(code, data, position)
        if markers and value >= markers[-1]:
            return []
        markers.append(value)
        if value == 0:
            return markers[::-1]
        position -= size
    return []


def _names_fit(data: memoryview, names: int, end: int, markers: list[int], count: int) -> bool:
    """Whether `count` names fill the space before `end` and lie where the markers say."""
    position = names
    for number in range(count):
        if position >= end:
            return False
        if number % _MARKER_INTERVAL == 0 and position - names != markers[number >> 8]:
            return False
        position += _name_size(data, position)
    return _aligned(position - names) == end - names


def _name_size(data: memoryview, position: int) -> int:
    """The bytes of a compressed name, those of its length included."""
    length = data[position]
    if length & 0x80:
        return 2 + (length & 0x7F | data[position + 1] << 7)
    return 1 + length


def _expand(data: memoryview, names: int, count: int, tokens: list[str]) -> Iterator[str]:
    position = names
    for _ in range(count):
        end = position + _name_size(data, position)
        first = position + (2 if data[position] & 0x80 else 1)
        yield "".join([tokens[byte] for byte in data[first:end]])
        position = end


def _find_addresses(
    data: memoryview, num_syms: int, token_index_end: int, count: int, kernel: range
) -> list[int] | None:
    offsets_size = _aligned(count * 4)
    candidates = (
        (num_syms - 8 - offsets_size, num_syms - 8),  # before num_syms, up to Linux 6.3
        (token_index_end, token_index_end + offsets_size),  # behind token_index, since 6.4
    )
    for offsets, base in candidates:
        if offsets < 0 or base + 8 > len(data):
            continue
        (relative_base,) = struct.unpack_from("<Q", data, base)
        if relative_base not in kernel:
            continue
        signed = struct.unpack_from(f"<{count}i", data, offsets)
        if min(signed) < 0 <= signed[0] and signed[-1] < 0:
            addresses = [offset if offset >= 0 else relative_base - 1 - offset for offset in signed]
        else:
            addresses = [relative_base + (offset & 0xFFFFFFFF) for offset in signed]
        if addresses == sorted(addresses):
            return addresses
    return None
