# SPDX-License-Identifier: GPL-2.0-or-later
"""What a domain is to be: the one form in which the tool stack hands a configuration on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from pyxen.errors import PyxenError
from pyxen.hypervisor.cpuid_names import Place
from pyxen.hypervisor.run_queue import DEFAULT_WEIGHT
from pyxen.toolstack.console_log import ConsoleLogConfig
from pyxen.toolstack.devices.channel import ChannelConfig
from pyxen.toolstack.devices.disk import DiskConfig
from pyxen.toolstack.devices.nic import NicConfig

ACTIONS: Final = (
    "destroy",
    "restart",
    "rename-restart",
    "preserve",
    "coredump-destroy",
    "coredump-restart",
)
"""What to do when a domain has ended."""
MAX_VCPUS: Final = 128
"""More take turns on one CPU without sense: each has a 128th of the time."""
DEFAULT_MEMORY_MIB: Final = 256
MAX_WEIGHT: Final = 65535
ENGINES: Final = ("auto", "emulator")


class DomainConfig(Struct, frozen=True):
    """A domain's configuration. Memory is in MiB, ``cap`` in percent of one processor (0: none).

    ``max_memory_mib`` and ``max_vcpus`` are what the domain may grow to; None for no more than it
    starts with. ``hard_affinity`` and ``soft_affinity`` have a mask of the host's processors for
    each vCPU, as far as given. ``uuid`` is empty for a new one at each start. ``cpuid`` is what
    ``cpuid_config.parse_cpuid`` makes of its option. ``system_map`` names the addresses in a crash
    report, if the kernel itself does not. Raises PyxenError for what contradicts itself.
    """

    kernel: Path
    ramdisk: Path | None = None
    command_line: str = ""
    name: str = "pyxen"
    uuid: str = ""
    memory_mib: int = DEFAULT_MEMORY_MIB
    max_memory_mib: int | None = None
    vcpus: int = 1
    max_vcpus: int | None = None
    weight: int = DEFAULT_WEIGHT
    cap: int = 0
    hard_affinity: tuple[int, ...] = ()
    soft_affinity: tuple[int, ...] = ()
    cpuid: Mapping[Place, str] = field(default_factory=dict)
    disks: tuple[DiskConfig, ...] = ()
    nics: tuple[NicConfig, ...] = ()
    channels: tuple[ChannelConfig, ...] = ()
    console_log: ConsoleLogConfig | None = None
    on_poweroff: str = "destroy"
    on_reboot: str = "restart"
    on_crash: str = "destroy"
    on_watchdog: str = "destroy"
    max_grant_frames: int = 64
    max_maptrack_frames: int = 1024
    max_grant_version: int = 2
    max_event_channels: int = 1023
    engine: str = "auto"
    system_map: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.top_vcpus <= MAX_VCPUS:
            raise PyxenError(f"vcpus: {self.top_vcpus} asked for, expected 1 to {MAX_VCPUS}")
        if not 1 <= self.vcpus <= self.top_vcpus:
            raise PyxenError(f"maxvcpus: {self.top_vcpus} is less than vcpus, {self.vcpus}")
        if self.memory_mib < 1:
            raise PyxenError(f"memory: {self.memory_mib} MiB asked for, expected 1 or more")
        if self.top_memory_mib < self.memory_mib:
            raise PyxenError(
                f"maxmem: {self.top_memory_mib} MiB is less than memory, {self.memory_mib}"
            )
        numbers = [disk.number for disk in self.disks]
        for disk in self.disks:
            if numbers.count(disk.number) > 1:
                raise PyxenError(f"disk: there are several disks {disk.vdev}")

    @property
    def top_memory_mib(self) -> int:
        """What the domain may have at most."""
        return self.memory_mib if self.max_memory_mib is None else self.max_memory_mib

    @property
    def top_vcpus(self) -> int:
        """The same of its CPUs."""
        return self.vcpus if self.max_vcpus is None else self.max_vcpus

    def action(self, reason: str) -> str:
        """What is to be done when the domain has ended for this reason; "destroy" for those that
        have no option."""
        actions = {
            "poweroff": self.on_poweroff,
            "reboot": self.on_reboot,
            "crash": self.on_crash,
            "watchdog": self.on_watchdog,
        }
        return actions.get(reason, "destroy")
