# SPDX-License-Identifier: GPL-2.0-or-later
"""Making a domain that outlives its maker: a process is started, which tells when the domain is
ready to run, or why there is none. Then nothing of it is left."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Final
from uuid import uuid4

from pyxen.errors import PyxenError
from pyxen.toolstack.config import DomainConfig, to_json
from pyxen.toolstack.devices.disk import DiskConfig
from pyxen.toolstack.devices.nic import NicConfig, stable_mac
from pyxen.toolstack.domains import tidy
from pyxen.toolstack.folders import log_folder, make_private

log = logging.getLogger("pyxen")

_MIB: Final = 1 << 20
_MEMINFO: Final = Path("/proc/meminfo")
_CHUNK: Final = 64 * 1024


def create(config: DomainConfig, *, paused: bool = False) -> int:
    """Start a domain; returns its number when it is about to run. Raises PyxenError."""
    config = complete(config)
    for entry in tidy():
        log.warning("%s; what it has left is removed", entry.reason)
    check_host_memory(config.memory_mib)
    return spawn(config, paused=paused)


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
    log_file = make_private(log_folder()) / f"{config.name}.log"
    order = {
        "config": to_json(config),
        "paused": paused,
        "restarted": restarted,
        "log_level": logging.getLevelName(min(logging.getLogger().level or 30, logging.INFO)),
    }
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            _start(order, writer, log_file)
        finally:
            os.close(writer)
        said = b""
        while data := os.read(reader, _CHUNK):
            said += data
    finally:
        os.close(reader)
    if not said:
        raise PyxenError(
            f"the process of domain {config.name} ended before it could say why; see {log_file}"
        )
    report = json.loads(said)
    if "error" in report:
        raise PyxenError(report["error"])
    return int(report["domid"])


def _start(order: object, writer: int, log_file: Path) -> None:
    """Returns when the process has the order."""
    command = [sys.executable, "-P", "-m", "pyxen.toolstack.process", str(writer)]
    try:
        with open(log_file, "ab", opener=_open_private) as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                pass_fds=(writer,),
                start_new_session=True,
                cwd="/",
                env=_environment(),
            )
    except OSError as error:
        raise PyxenError(f"{error.filename or log_file}: {error.strerror}") from None
    process.communicate(json.dumps(order).encode())


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _environment() -> dict[str, str]:
    """The same modules are to be found from another working directory."""
    environment = dict(os.environ)
    places = environment.get("PYTHONPATH", "")
    if places:
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, places.split(os.pathsep)))
    return environment
