# SPDX-License-Identifier: GPL-2.0-or-later
"""A ``DomainConfig`` as text of xl.cfg, which read again gives the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pyxen.backends.console.buffer import DEFAULT_LIMIT
from pyxen.toolstack.config.cpulist import format_cpus
from pyxen.toolstack.config.domain import DomainConfig
from pyxen.toolstack.config.syntax import format_setting
from pyxen.toolstack.devices.channel import OVERFLOWS, ChannelConfig
from pyxen.toolstack.devices.disk import DiskConfig
from pyxen.toolstack.devices.nic import Forward, NicConfig
from pyxen.toolstack.devices.rate import RateLimit

if TYPE_CHECKING:
    from pyxen.hypervisor.cpuid_names import Place

_REGISTERS: Final = ("eax", "ebx", "ecx", "edx")
_DEFAULT_MTU: Final = 1500
_FACTORS: Final = ((1, ""), (10**3, "K"), (10**6, "M"), (10**9, "G"))
_UINT32_MAX: Final = 0xFFFF_FFFF


def format_config(config: DomainConfig) -> str:
    """All that is not as by default, a line each."""
    settings: dict[str, str | int | list[str] | None] = {
        "name": config.name,
        "uuid": config.uuid or None,
        "type": "pv",
        "kernel": str(config.kernel),
        "ramdisk": str(config.ramdisk) if config.ramdisk is not None else None,
        "cmdline": config.command_line or None,
        "memory": config.memory_mib,
        "maxmem": config.max_memory_mib,
        "vcpus": config.vcpus,
        "maxvcpus": config.max_vcpus,
        "cpu_weight": config.weight,
        "cap": config.cap,
        "cpus": [format_cpus(mask) for mask in config.hard_affinity] or None,
        "cpus_soft": [format_cpus(mask) for mask in config.soft_affinity] or None,
        "cpuid": format_cpuid(config.cpuid) or None,
        "disk": [format_disk(disk) for disk in config.disks] or None,
        "vif": [format_nic(nic) for nic in config.nics] or None,
        "channel": [format_channel(channel) for channel in config.channels] or None,
        "console_log": str(config.console_log) if config.console_log is not None else None,
        "on_poweroff": config.on_poweroff,
        "on_reboot": config.on_reboot,
        "on_crash": config.on_crash,
        "on_watchdog": config.on_watchdog,
        "max_grant_frames": config.max_grant_frames,
        "max_maptrack_frames": config.max_maptrack_frames,
        "max_grant_version": config.max_grant_version,
        "max_event_channels": config.max_event_channels,
        "engine": config.engine,
        "system_map": str(config.system_map) if config.system_map is not None else None,
    }
    return "".join(
        format_setting(name, value) for name, value in settings.items() if value is not None
    )


def format_cpuid(cpuid: Mapping[Place, str]) -> list[str]:
    """One item for each register, in xend's form."""
    items = []
    for (leaf, subleaf, register), bits in cpuid.items():
        place = f"{leaf:#x}" if subleaf is None else f"{leaf:#x},{subleaf:#x}"
        items.append(f"{place}:{_REGISTERS[register]}={bits}")
    return items


def format_disk(disk: DiskConfig) -> str:
    """As ``parse_disk`` reads it. The target comes last, as it may have commas in it."""
    parts = [f"vdev={disk.vdev}", f"access={'ro' if disk.readonly else 'rw'}"]
    if disk.image_format != "empty":
        parts.append(f"format={disk.image_format}")
    flags = {
        "devtype=cdrom": disk.cdrom,
        "no-discard": not disk.discard,
        "untrusted": not disk.trusted,
        "direct-io-safe": disk.direct_io_safe,
        "cache=writethrough": disk.writethrough,
        "persistent-grants=1": disk.persistent,
    }
    parts += [flag for flag, is_set in flags.items() if is_set]
    if disk.sector_size != 512:
        parts.append(f"sector-size={disk.sector_size}")
    if disk.rate is not None:
        parts.append(f"rate={format_rate(disk.rate)}")
    if disk.iops is not None:
        parts.append(f"iops={disk.iops}")
    if disk.target:
        parts.append(f"target={disk.target}")
    return ",".join(parts)


def format_nic(nic: NicConfig) -> str:
    """As ``parse_nic`` reads it."""
    parts = [f"{nic.mode}={nic.peer}" if nic.peer else nic.mode]
    values = {
        "mac": nic.mac,
        "devid": "" if nic.devid is None else str(nic.devid),
        "mtu": "" if nic.mtu == _DEFAULT_MTU else str(nic.mtu),
        "rate": "" if nic.rate is None else format_rate(nic.rate),
        "ip": nic.ip,
        "pcap": nic.pcap,
        **nic.extra,
    }
    parts += [f"{key}={value}" for key, value in values.items() if value]
    parts += [_format_forward(forward) for forward in nic.forwards]
    parts += [
        *(["host-loopback"] if nic.host_loopback else []),
        *([] if nic.trusted else ["untrusted"]),
    ]
    return ",".join(parts)


def format_channel(channel: ChannelConfig) -> str:
    """As ``parse_channel`` reads it."""
    parts = [f"name={channel.name}", f"connection={channel.connection}"]
    if channel.path:
        parts.append(f"path={channel.path}")
    if channel.limit != DEFAULT_LIMIT:
        parts.append(f"limit={channel.limit}")
    if channel.overflow != OVERFLOWS[0]:
        parts.append(f"overflow={channel.overflow}")
    return ",".join(parts)


def _format_forward(forward: Forward) -> str:
    address = forward.host_address
    shown = f"[{address}]" if ":" in address else address
    return f"hostfwd={forward.protocol}:{shown}:{forward.host_port}:{forward.guest_port}"


def format_rate(rate: RateLimit) -> str:
    """As ``parse_rate`` reads it: bytes in a second, such that it comes to the same again."""
    per_second = -(-rate.bytes_per_interval * 10**6 // rate.interval_us)
    fitting = ((-(-per_second // factor), letter) for factor, letter in _FACTORS)
    number, letter = next(each for each in fitting if each[0] <= _UINT32_MAX)
    return f"{number}{letter}B/s@{rate.interval_us}us"
