# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import bz2
import lzma
import struct
import sys
import zlib

import lz4.block
import lz4.frame
import lzallright
import pytest
from small_kernels import gzip_compressed

from pyxen.builder.payload import compression_of, decompress
from pyxen.errors import PyxenError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# More than one lzo block of 256 KiB.
CONTENT = b"".join(b"%d bottles of beer on the wall\n" % number for number in range(10_000))


def lz4_legacy(data: bytes) -> bytes:
    packed = b"\x02\x21\x4c\x18"
    for start in range(0, len(data), 8 << 20):
        block = lz4.block.compress(data[start : start + (8 << 20)], store_size=False)
        packed += struct.pack("<I", len(block)) + block
    return packed


def lzop(data: bytes, flags: int = 0x303) -> bytes:
    """A file as lzop makes it, with the checksums that the flags name."""
    packed = b"\x89LZO\x00\r\n\x1a\n" + struct.pack(">HHHBBIIII", 0x1030, 0x20A0, 0x940, 1, 5,
                                                    flags, 0o644, 0, 0)  # fmt: skip
    packed += b"\x03abc" + bytes(4)
    for start in range(0, len(data), 256 << 10):
        block = data[start : start + (256 << 10)]
        small = lzallright.LZOCompressor().compress(block)
        stored = len(small) >= len(block)
        small = block if stored else small
        packed += struct.pack(">II", len(block), len(small))
        packed += struct.pack(">I", zlib.adler32(block)) if flags & 1 else b""
        packed += struct.pack(">I", zlib.crc32(block)) if flags & 0x100 else b""
        if not stored:
            packed += struct.pack(">I", zlib.adler32(small)) if flags & 2 else b""
            packed += struct.pack(">I", zlib.crc32(small)) if flags & 0x200 else b""
        packed += small
    return packed + bytes(4)


COMPRESSORS = {
    "gzip": gzip_compressed,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "zstd": lambda data: zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}),
    "lz4": lz4_legacy,
    "lz4 frame": lambda data: lz4.frame.compress(data, content_checksum=True),
    "lzo": lzop,
}


@pytest.fixture(scope="module")
def packed() -> dict[str, memoryview]:
    return {name: memoryview(pack(CONTENT)) for name, pack in COMPRESSORS.items()}


@pytest.mark.parametrize("name", COMPRESSORS)
def test_each_format_is_named_and_decompressed(name: str, packed: dict[str, memoryview]) -> None:
    assert compression_of(packed[name]) == name
    assert decompress(packed[name]) == CONTENT


@pytest.mark.parametrize("name", COMPRESSORS)
def test_what_follows_the_stream_is_ignored(name: str, packed: dict[str, memoryview]) -> None:
    size = struct.pack("<I", len(CONTENT))
    assert decompress(memoryview(bytes(packed[name]) + size)) == CONTENT


@pytest.mark.parametrize("name", COMPRESSORS)
def test_more_output_than_the_limit_is_refused(name: str, packed: dict[str, memoryview]) -> None:
    assert decompress(packed[name], limit=len(CONTENT)) == CONTENT
    with pytest.raises(PyxenError, match=f"{name} payload expands to more than the"):
        decompress(packed[name], limit=len(CONTENT) - 1)


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_truncated_stream_is_refused(name: str, packed: dict[str, memoryview]) -> None:
    for size in (10, 40, len(packed[name]) // 2, len(packed[name]) - 5):
        with pytest.raises(PyxenError, match=f"{name} payload is damaged"):
            decompress(packed[name][:size])


@pytest.mark.parametrize("name", COMPRESSORS)
def test_a_damaged_stream_is_refused(name: str, packed: dict[str, memoryview]) -> None:
    damaged = bytearray(packed[name])
    middle = len(damaged) // 2
    damaged[middle : middle + 64] = b"\xff" * 64
    # lz4's legacy format has no checksum: only what breaks its structure can be noticed.
    if name == "lz4":
        damaged[4:8] = struct.pack("<I", 100)
    with pytest.raises(PyxenError, match=f"{name} payload"):
        decompress(memoryview(damaged))


def test_lz4_of_several_blocks_and_streams() -> None:
    content = CONTENT * 30
    assert len(content) > 8 << 20
    assert decompress(memoryview(lz4_legacy(content) + lz4_legacy(b"more"))) == content + b"more"


@pytest.mark.parametrize("flags", (0, 1, 2, 0x100, 0x200, 0x303))
def test_lzo_with_any_checksums(flags: int) -> None:
    content = CONTENT[: 300 << 10] + bytes(range(256))
    assert decompress(memoryview(lzop(content, flags))) == content


def test_lzo_with_a_wrong_checksum_is_refused() -> None:
    file = bytearray(lzop(b"kernel" * 100, flags=1))
    place = file.index(struct.pack(">I", zlib.adler32(b"kernel" * 100)))
    file[place] ^= 1
    with pytest.raises(PyxenError, match="wrong checksum"):
        decompress(memoryview(file))


@pytest.mark.parametrize("content", (b"", b"MZ" + bytes(100)))
def test_an_unknown_format_names_what_was_expected(content: bytes) -> None:
    assert compression_of(memoryview(content)) is None
    with pytest.raises(PyxenError, match=r"payload begins with .*expected one of gzip, .*zstd"):
        decompress(memoryview(content))
