# SPDX-License-Identifier: GPL-2.0-or-later
"""Making a domain that outlives its maker: a process is started, which tells when the domain is
ready to run, or why there is none. Then nothing of it is left."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Final
from uuid import uuid4

from msgspec.structs import replace

from pyxen.errors import PyxenError
from pyxen.toolstack.config import DomainConfig, to_json
from pyxen.toolstack.devices.disk import DiskConfig
from pyxen.toolstack.devices.nic import NicConfig, stable_mac
from pyxen.toolstack.domains import tidy
from pyxen.toolstack.folders import log_folder, make_private
from pyxen.toolstack.process.start import NewProcess

log = logging.getLogger("pyxen")

_MIB: Final = 1 << 20
_MEMINFO: Final = Path("/proc/meminfo")


def create(config: DomainConfig, process: NewProcess, *, paused: bool = False) -> int:
    """Start a domain in this process; returns its number when it is about to run. Raises
    PyxenError."""
    config = complete(config)
    for entry in tidy():
        log.warning("%s; what it has left is removed", entry.reason)
    check_host_memory(config.memory_mib)
    return begin(process, config, paused=paused)


def complete(config: DomainConfig) -> DomainConfig:
    """What is to stay the same over restarts, whatever the domain is called then; and all files by
    absolute paths, as the domain's process lives in ``/``."""
    return replace(
        config,
        uuid=config.uuid or str(uuid4()),
        kernel=config.kernel.absolute(),
        ramdisk=config.ramdisk and config.ramdisk.absolute(),
        system_map=config.system_map and config.system_map.absolute(),
        disks=tuple(map(absolute_disk, config.disks)),
        nics=tuple(_named_nics(config)),
        channels=tuple(
            replace(each, path=each.path and os.path.abspath(each.path)) for each in config.channels
        ),
        console_log=config.console_log
        and replace(config.console_log, path=config.console_log.path.absolute()),
    )


def absolute_disk(disk: DiskConfig) -> DiskConfig:
    """The same disk for a process in another folder."""
    return replace(disk, target=disk.target and os.path.abspath(disk.target))


def absolute_nic(nic: NicConfig) -> NicConfig:
    """The same card."""
    return replace(nic, pcap=nic.pcap and os.path.abspath(nic.pcap))


def _named_nics(config: DomainConfig) -> Iterator[NicConfig]:
    """Each with its number and address."""
    used = {nic.devid for nic in config.nics}
    free = (number for number in count() if number not in used)
    for nic in map(absolute_nic, config.nics):
        devid = nic.devid if nic.devid is not None else next(free)
        yield replace(nic, devid=devid, mac=nic.mac or stable_mac(config.name, devid))


def check_files(config: DomainConfig) -> None:
    """Raises PyxenError if a file from which the domain is built cannot be used."""
    from pyxen.builder.image import load_kernel

    load_kernel(config.kernel)
    for path in (config.ramdisk, config.system_map):
        if path is not None:
            try:
                path.open("rb").close()
            except OSError as error:
                raise PyxenError(f"{path}: {error.strerror}") from None


def check_host_memory(memory_mib: int) -> None:
    """Raises PyxenError if the host does not have so much to give. It is taken only when the guest
    uses it, so that too many domains can still be too much."""
    text = _MEMINFO.read_text()
    free = sum(
        int(match[1]) << 10
        for name in ("MemAvailable", "SwapFree")
        if (match := re.search(rf"^{name}:\s*(\d+) kB$", text, re.MULTILINE))
    )
    if memory_mib * _MIB > free:
        raise PyxenError(f"memory: {memory_mib} MiB asked for, and the host has {free // _MIB}")


def spawn(config: DomainConfig, *, paused: bool = False, restarted: float | None = None) -> int:
    """Start the process of a domain, and wait until it has reported."""
    with NewProcess() as process:
        return begin(process, config, paused=paused, restarted=restarted)


def begin(
    process: NewProcess,
    config: DomainConfig,
    *,
    paused: bool = False,
    restarted: float | None = None,
) -> int:
    """Tell a process what its domain is to be, and wait until it has reported."""
    return process.begin(
        {
            "config": to_json(config),
            "paused": paused,
            "restarted": restarted,
            "log": str(make_private(log_folder()) / f"{config.name}.log"),
            "log_level": logging.getLevelName(min(logging.getLogger().level or 30, logging.INFO)),
        }
    )
