# SPDX-License-Identifier: GPL-2.0-or-later
"""From a disk's configuration to its image and its back end."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pyxen.backends.block import (
    Allowance,
    BlockBackend,
    Image,
    Limits,
    RawImage,
    StorageDaemonImage,
)
from pyxen.backends.block.images import open_raw
from pyxen.backends.block.storage_daemon import start_daemon
from pyxen.backends.doors import Doors
from pyxen.backends.opened import Opened
from pyxen.errors import PyxenError
from pyxen.toolstack.devices.disk import DiskConfig

_MICROSECONDS: Final = 1e-6


def open_vbd(config: DiskConfig, domid: int) -> Opened:
    """The image of such a disk. Raises PyxenError if it cannot be opened, or is in use."""
    if config.image_format == "empty":
        raise PyxenError(f"disk {config.vdev}: a drive without a medium is of no use to PV guests")
    path = Path(config.target)
    if config.image_format == "raw":
        return open_raw(
            path,
            readonly=config.readonly,
            sector_size=config.sector_size,
            direct=config.direct_io_safe,
        )
    return start_daemon(
        path,
        config.image_format,
        readonly=config.readonly,
        writethrough=config.writethrough,
        direct=config.direct_io_safe,
    )


def make_vbd(
    doors: Doors, backend_path: str, frontend_path: str, config: DiskConfig, opened: Opened
) -> BlockBackend:
    """Raises PyxenError if the image is none of its format."""
    return BlockBackend(
        doors,
        backend_path,
        frontend_path,
        _image(config, opened),
        _limits(config),
        cdrom=config.cdrom,
        persistent=config.persistent,
    )


def _limits(config: DiskConfig) -> Limits:
    operations = transferred = None
    if config.iops is not None:
        # Of a tenth of a second at once, or one.
        amount = max(1, config.iops // 10)
        operations = Allowance(amount, amount / config.iops)
    if config.rate is not None:
        rate = config.rate
        transferred = Allowance(rate.bytes_per_interval, rate.interval_us * _MICROSECONDS)
    return Limits(operations, transferred)


def _image(config: DiskConfig, opened: Opened) -> Image:
    path = Path(config.target)
    if config.image_format == "raw":
        return RawImage(
            path,
            opened,
            readonly=config.readonly,
            sector_size=config.sector_size,
            discards=config.discard,
            writethrough=config.writethrough,
            direct=config.direct_io_safe,
        )
    return StorageDaemonImage(
        path,
        opened,
        readonly=config.readonly,
        sector_size=config.sector_size,
        discards=config.discard,
        writethrough=config.writethrough,
    )
