# SPDX-License-Identifier: GPL-2.0-or-later
"""The Linux boot image, bzImage: a compressed ELF kernel behind code that a PV domain never runs.

The file begins with 16-bit set-up code of `setup_sects` sectors after the boot sector. Inside the
boot sector, from offset 0x1f1, lies the set-up header, whose layout is Linux's boot protocol
(`Documentation/arch/x86/boot.rst`). Since protocol 2.08 it tells where the compressed kernel lies,
counted from the end of the set-up code; that is all a domain builder needs. The four last bytes of
the payload are the size of the decompressed kernel.
"""

from __future__ import annotations

import struct
from typing import Final

from pyxen.builder import payload as payloads
from pyxen.errors import PyxenError

_SECTOR: Final = 512
_SETUP_SECTS: Final = 0x1F1
_BOOT_FLAG: Final = 0x1FE
_HEADER_MAGIC: Final = 0x202
_VERSION: Final = 0x206
_PAYLOAD: Final = 0x248
_HEADER_END: Final = 0x250


def is_bzimage(data: memoryview) -> bool:
    """Whether the file claims to be a Linux boot image. One with more defects is still one."""
    return bytes(data[_HEADER_MAGIC : _HEADER_MAGIC + 4]) == b"HdrS"


def extract_kernel(data: memoryview) -> bytes:
    """The decompressed kernel inside a boot image.

    Raises PyxenError if a field of the set-up header is wrong or the payload is damaged.
    """
    if len(data) < _HEADER_END:
        raise PyxenError(f"bzImage of {len(data)} bytes is truncated in its set-up header")
    (boot_flag,) = struct.unpack_from("<H", data, _BOOT_FLAG)
    if boot_flag != 0xAA55:
        raise PyxenError(f"bzImage with boot_flag {boot_flag:#x}, expected 0xaa55")
    (version,) = struct.unpack_from("<H", data, _VERSION)
    if version < 0x208:
        raise PyxenError(
            f"bzImage of boot protocol {version >> 8}.{version & 0xFF:02}, expected at least 2.08"
        )
    offset, length = struct.unpack_from("<II", data, _PAYLOAD)
    # The boot protocol: 0 stands for 4.
    setup_size = ((data[_SETUP_SECTS] or 4) + 1) * _SECTOR
    start = setup_size + offset
    if length <= 4:
        raise PyxenError(f"bzImage with payload_length {length}, expected more")
    if start + length > len(data):
        raise PyxenError(
            f"bzImage is truncated: its payload ends at {start + length}, "
            f"the file has {len(data)} bytes"
        )
    payload = data[start : start + length]
    (size,) = struct.unpack_from("<I", payload, length - 4)
    if size > payloads.MAX_IMAGE_SIZE:
        raise PyxenError(
            f"bzImage whose kernel has {size} bytes, "
            f"expected at most {payloads.MAX_IMAGE_SIZE} ({payloads.MAX_IMAGE_SIZE >> 20} MiB)"
        )
    kernel = payloads.decompress(payload, limit=size)
    if len(kernel) != size:
        raise PyxenError(f"bzImage whose kernel has {len(kernel)} bytes, its header says {size}")
    return kernel
