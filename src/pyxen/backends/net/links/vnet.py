# SPDX-License-Identifier: GPL-2.0-or-later
"""The header before a frame that says what of it is unfinished, as Linux's tap devices have it
(``struct virtio_net_hdr``, ``linux/virtio_net.h``)::

    u8 flags; u8 gso_type; u16 hdr_len; u16 gso_size; u16 csum_start; u16 csum_offset;

in the order of the host's bytes. Who gets one from another guest cannot believe it.
"""

from __future__ import annotations

import struct
from typing import Final

from pyxen.backends.net.link import GSO_NONE, GSO_TCPV4, GSO_TCPV6, Frame

HEADER: Final = struct.Struct("=BBHHHH")

_NEEDS_CSUM: Final = 1
_DATA_VALID: Final = 2
_GSO_NONE, _GSO_TCPV4, _GSO_TCPV6 = 0, 1, 4
_GSO_ECN: Final = 0x80
_TO_KERNEL: Final = {GSO_NONE: _GSO_NONE, GSO_TCPV4: _GSO_TCPV4, GSO_TCPV6: _GSO_TCPV6}
_FROM_KERNEL: Final = {kernel: ours for ours, kernel in _TO_KERNEL.items()}
_ETHERNET: Final = 14
_COMPLETE: Final = HEADER.pack(0, 0, 0, 0, 0, 0)
_COMPLETE_VALID: Final = HEADER.pack(_DATA_VALID, 0, 0, 0, 0, 0)


def pack(frame: Frame) -> bytes:
    """The header for a frame."""
    _data, start, offset, valid, gso, segment_size = frame
    if not start and not gso:
        return _COMPLETE_VALID if valid else _COMPLETE
    headers = 0
    if gso and len(frame.data) > start + 12:
        headers = min(start + (frame.data[start + 12] >> 4) * 4, len(frame.data))
    flags = _NEEDS_CSUM if start else 0
    return HEADER.pack(flags, _TO_KERNEL[gso], headers, segment_size, start, offset)


def unpack(packet: bytes) -> Frame | None:
    """The frame in a packet that begins with such a header; None if they do not fit together."""
    if len(packet) < HEADER.size + _ETHERNET:
        return None
    data = packet[HEADER.size :]
    flags, kernel_gso, _, segment_size, start, offset = HEADER.unpack_from(packet)
    gso = _FROM_KERNEL.get(kernel_gso & ~_GSO_ECN)
    if not flags & _NEEDS_CSUM:
        start = offset = 0
    elif not _ETHERNET <= start <= start + offset <= len(data) - 2:
        return None
    if gso is None or (gso != GSO_NONE and not (start and segment_size)):
        return None
    valid = bool(flags & (_NEEDS_CSUM | _DATA_VALID))
    return Frame(data, start, offset, valid, gso, segment_size if gso else 0)
