# SPDX-License-Identifier: GPL-2.0-or-later
"""Decompression of kernel payloads.

Linux can be built with any of seven compressors (`CONFIG_KERNEL_GZIP` and so on). Nothing but the
first bytes of the payload says which one was used. Each payload is one stream of that compressor's
own file format, except that lz4 comes as the "legacy" format of the kernel (blocks of 8 MiB, each
after its length, no end mark), and lzo as a file of the `lzop` program.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import sys
import zlib
from collections.abc import Callable
from typing import Final

from pyxen.errors import PyxenError

MAX_IMAGE_SIZE: Final = 1 << 30
"""No kernel is larger than this; what expands further is a decompression bomb."""

_LZ4_LEGACY_MAGIC: Final = b"\x02\x21\x4c\x18"
_LZ4_LEGACY_BLOCK: Final = 8 << 20

_LZOP_MAGIC: Final = b"\x89LZO\x00\r\n\x1a\n"
_LZOP_MAX_BLOCK: Final = 256 << 10  # what lzop writes and the only size that Linux reads
_LZOP_ADLER32_DATA: Final = 0x001
_LZOP_ADLER32_COMPRESSED: Final = 0x002
_LZOP_EXTRA_FIELD: Final = 0x040
_LZOP_CRC32_DATA: Final = 0x100
_LZOP_CRC32_COMPRESSED: Final = 0x200
_LZOP_FILTER: Final = 0x800


class _TooLarge(Exception):
    """The output exceeds the limit."""


class _Damaged(Exception):
    """The input is not what its format demands; the argument says in a few words what is wrong."""


def compression_of(payload: memoryview) -> str | None:
    """The name of the format that the payload's first bytes show, None for an unknown one."""
    start = bytes(payload[: len(_LZOP_MAGIC)])
    for magic, name, _ in _FORMATS:
        if start.startswith(magic):
            return name
    return None


def decompress(payload: memoryview, limit: int = MAX_IMAGE_SIZE) -> bytes:
    """The decompressed payload. Bytes after the end of the compressed stream are ignored.

    Raises PyxenError if the format is unknown, the stream is damaged or incomplete, or the result
    would have more than `limit` bytes.
    """
    start = bytes(payload[: len(_LZOP_MAGIC)])
    for magic, name, decompressor in _FORMATS:
        if start.startswith(magic):
            try:
                return decompressor(payload, limit)
            except _TooLarge:
                raise PyxenError(
                    f"{name} payload expands to more than the {limit} bytes expected"
                ) from None
            except _Damaged as error:
                raise PyxenError(f"{name} payload is damaged: {error}") from None
    raise PyxenError(
        f"payload begins with {start[:6].hex(' ') or 'nothing'}, "
        f"expected one of {', '.join(name for _, name, _ in _FORMATS)}"
    )


def _gzip(payload: memoryview, limit: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    try:
        output = stream.decompress(payload, limit + 1)
    except zlib.error as error:
        raise _Damaged(error) from None
    return _complete(output, stream.eof, limit)


def _bzip2(payload: memoryview, limit: int) -> bytes:
    stream = bz2.BZ2Decompressor()
    try:
        output = stream.decompress(payload, limit + 1)
    except (OSError, ValueError) as error:
        raise _Damaged(error) from None
    return _complete(output, stream.eof, limit)


def _xz(payload: memoryview, limit: int) -> bytes:
    return _liblzma(payload, limit, lzma.FORMAT_XZ)


def _lzma(payload: memoryview, limit: int) -> bytes:
    return _liblzma(payload, limit, lzma.FORMAT_ALONE)


def _liblzma(payload: memoryview, limit: int, form: int) -> bytes:
    stream = lzma.LZMADecompressor(format=form, memlimit=MAX_IMAGE_SIZE)
    try:
        output = stream.decompress(payload, limit + 1)
    except lzma.LZMAError as error:
        raise _Damaged(error) from None
    return _complete(output, stream.eof, limit)


def _zstd(payload: memoryview, limit: int) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd

    stream = zstd.ZstdDecompressor()
    try:
        output = stream.decompress(payload, limit + 1)
    except zstd.ZstdError as error:
        raise _Damaged(error) from None
    return _complete(output, stream.eof, limit)


def _lz4_frame(payload: memoryview, limit: int) -> bytes:
    import lz4.frame

    stream = lz4.frame.LZ4FrameDecompressor()
    try:
        output: bytes = stream.decompress(bytes(payload), limit + 1)
    except RuntimeError as error:
        raise _Damaged(error) from None
    return _complete(output, stream.eof, limit)


def _lz4_legacy(payload: memoryview, limit: int) -> bytes:
    import lz4.block

    output = bytearray()
    reader = _Reader(payload[len(_LZ4_LEGACY_MAGIC) :], "<")
    # The format has no end mark. Linux appends the uncompressed length, in four bytes, which is
    # too little for one more block.
    while reader.remaining > 4:
        if reader.peek(4) == _LZ4_LEGACY_MAGIC:
            reader.take(4)  # a second stream, appended to the first
            continue
        block = reader.take(reader.number("I"))
        try:
            output += lz4.block.decompress(block, uncompressed_size=_LZ4_LEGACY_BLOCK)
        except lz4.block.LZ4BlockError as error:
            raise _Damaged(error) from None
        if len(output) > limit:
            raise _TooLarge
    return bytes(output)


def _lzo(payload: memoryview, limit: int) -> bytes:
    import lzallright

    reader = _Reader(payload[len(_LZOP_MAGIC) :], ">")
    flags = _read_lzop_header(reader)
    output = bytearray()
    while size := reader.number("I"):
        packed_size = reader.number("I")
        if size > _LZOP_MAX_BLOCK or packed_size > size:
            raise _Damaged(f"a block of {packed_size} bytes for {size}")
        if len(output) + size > limit:
            raise _TooLarge
        adler32 = reader.number("I") if flags & _LZOP_ADLER32_DATA else None
        crc32 = reader.number("I") if flags & _LZOP_CRC32_DATA else None
        if packed_size < size:
            reader.take(4 if flags & _LZOP_ADLER32_COMPRESSED else 0)
            reader.take(4 if flags & _LZOP_CRC32_COMPRESSED else 0)
        block = bytes(reader.take(packed_size))
        if packed_size < size:
            try:
                block = lzallright.LZOCompressor.decompress(block, output_size_hint=size)
            except lzallright.LZOError as error:
                raise _Damaged(error) from None
        if len(block) != size:
            raise _Damaged(f"a block of {len(block)} bytes where {size} were announced")
        if adler32 not in (None, zlib.adler32(block)) or crc32 not in (None, zlib.crc32(block)):
            raise _Damaged("wrong checksum")
        output += block
    return bytes(output)


def _read_lzop_header(reader: _Reader) -> int:
    """Read up to the first block. The flags, which say what stands before each block's data."""
    version = reader.number("H")
    reader.take(2)  # version of the library
    if version >= 0x940:
        reader.take(2)  # version needed to extract
    reader.take(1)  # method
    if version >= 0x940:
        reader.take(1)  # level
    flags = reader.number("I")
    if flags & _LZOP_FILTER:
        raise _Damaged("it uses a filter, which a kernel never does")
    reader.take(8)  # mode, time
    if version >= 0x940:
        reader.take(4)  # upper half of the time
    reader.take(reader.number("B"))  # file name
    reader.take(4)  # checksum of the header
    if flags & _LZOP_EXTRA_FIELD:
        reader.take(reader.number("I") + 4)
    return flags


def _complete(output: bytes, end_reached: bool, limit: int) -> bytes:
    if len(output) > limit:
        raise _TooLarge
    if not end_reached:
        raise _Damaged("it ends too early")
    return output


class _Reader:
    """Reads a buffer from front to back; raises _Damaged at its end."""

    def __init__(self, data: memoryview, byte_order: str) -> None:
        self._data = data
        self._byte_order = byte_order
        self._position = 0

    @property
    def remaining(self) -> int:
        return len(self._data) - self._position

    def peek(self, size: int) -> bytes:
        return bytes(self._data[self._position : self._position + size])

    def take(self, size: int) -> memoryview:
        if size > self.remaining:
            raise _Damaged("it ends too early")
        part = self._data[self._position : self._position + size]
        self._position += size
        return part

    def number(self, code: str) -> int:
        form = self._byte_order + code
        value: int = struct.unpack(form, self.take(struct.calcsize(form)))[0]
        return value


_FORMATS: Final[tuple[tuple[bytes, str, Callable[[memoryview, int], bytes]], ...]] = (
    (b"\x1f\x8b", "gzip", _gzip),
    (b"BZh", "bzip2", _bzip2),
    (b"\xfd7zXZ\x00", "xz", _xz),
    (b"\x5d\x00\x00", "lzma", _lzma),
    (b"\x28\xb5\x2f\xfd", "zstd", _zstd),
    (_LZ4_LEGACY_MAGIC, "lz4", _lz4_legacy),
    (b"\x04\x22\x4d\x18", "lz4 frame", _lz4_frame),
    (_LZOP_MAGIC, "lzo", _lzo),
)
