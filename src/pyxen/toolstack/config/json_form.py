# SPDX-License-Identifier: GPL-2.0-or-later
"""A ``DomainConfig`` as JSON, in the shape in which libxl shows one (``xl list -l``).

``c_info`` is what is needed to make a domain, ``b_info`` what is needed to build it; then devices,
and what to do at its end. Memory is in KiB. What libxl has no name for stands beside its names,
under those of pyxen's options.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from pyxen.errors import PyxenError
from pyxen.toolstack.config.cpulist import affinity, cpu_numbers
from pyxen.toolstack.config.domain import DomainConfig
from pyxen.toolstack.config.writer import format_cpuid
from pyxen.toolstack.console_log import parse_console_log
from pyxen.toolstack.devices.channel import CONNECTIONS, ChannelConfig
from pyxen.toolstack.devices.disk import DiskConfig, virtual_device_number
from pyxen.toolstack.devices.nic import Forward, NicConfig
from pyxen.toolstack.devices.rate import RateLimit

_KIB_PER_MIB: Final = 1024
_ACTIONS: Final = {
    "rename-restart": "restart_rename",
    "coredump-destroy": "coredump_destroy",
    "coredump-restart": "coredump_restart",
}
_ACTIONS_BACK: Final = {value: key for key, value in _ACTIONS.items()}
_REASONS: Final = ("poweroff", "reboot", "watchdog", "crash")


def to_json(config: DomainConfig) -> dict[str, Any]:
    """What ``json.dumps`` takes."""
    build: dict[str, Any] = {
        "max_vcpus": config.top_vcpus,
        "avail_vcpus": list(range(config.vcpus)),
        "max_memkb": config.top_memory_mib * _KIB_PER_MIB,
        "target_memkb": config.memory_mib * _KIB_PER_MIB,
        "sched_params": {"weight": config.weight, "cap": config.cap},
        "kernel": str(config.kernel),
        "cmdline": config.command_line,
        "max_grant_frames": config.max_grant_frames,
        "max_maptrack_frames": config.max_maptrack_frames,
        "max_grant_version": config.max_grant_version,
        "event_channels": config.max_event_channels,
        "engine": config.engine,
        "type.pv": {},
    }
    if config.ramdisk is not None:
        build["ramdisk"] = str(config.ramdisk)
    if config.system_map is not None:
        build["system_map"] = str(config.system_map)
    if config.cpuid:
        build["cpuid"] = format_cpuid(config.cpuid)
    if config.hard_affinity:
        build["vcpu_hard_affinity"] = [cpu_numbers(mask) for mask in config.hard_affinity]
    if config.soft_affinity:
        build["vcpu_soft_affinity"] = [cpu_numbers(mask) for mask in config.soft_affinity]
    create = {"type": "pv", "name": config.name}
    if config.uuid:
        create["uuid"] = config.uuid
    shown: dict[str, Any] = {"c_info": create, "b_info": build}
    if config.disks:
        shown["disks"] = [disk_to_json(disk) for disk in config.disks]
    if config.nics:
        shown["nics"] = [nic_to_json(nic) for nic in config.nics]
    if config.channels:
        shown["channels"] = [_channel_to_json(channel) for channel in config.channels]
    if config.console_log is not None:
        shown["console_log"] = str(config.console_log)
    for reason in _REASONS:
        action = config.action(reason)
        shown[f"on_{reason}"] = _ACTIONS.get(action, action)
    return shown


def from_json(shown: Any) -> DomainConfig:
    """The way back. Raises PyxenError for what ``to_json`` does not make."""
    try:
        return _from_json(shown)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PyxenError(
            f"configuration in JSON: {type(error).__name__}: {' '.join(str(error).split())}"
        ) from None


def _from_json(shown: Any) -> DomainConfig:
    create, build = shown["c_info"], shown["b_info"]
    memory, vcpus = build["target_memkb"] // _KIB_PER_MIB, len(build["avail_vcpus"])
    max_memory, max_vcpus = build["max_memkb"] // _KIB_PER_MIB, build["max_vcpus"]
    cpuid = {}
    if "cpuid" in build:
        from pyxen.toolstack.cpuid_config import parse_cpuid

        cpuid = parse_cpuid(build["cpuid"])
    actions = {}
    for reason in _REASONS:
        action = shown[f"on_{reason}"]
        actions[f"on_{reason}"] = _ACTIONS_BACK.get(action, action)
    return DomainConfig(
        kernel=Path(build["kernel"]),
        ramdisk=Path(build["ramdisk"]) if "ramdisk" in build else None,
        command_line=build["cmdline"],
        name=create["name"],
        uuid=create.get("uuid", ""),
        memory_mib=memory,
        max_memory_mib=max_memory if max_memory != memory else None,
        vcpus=vcpus,
        max_vcpus=max_vcpus if max_vcpus != vcpus else None,
        weight=build["sched_params"]["weight"],
        cap=build["sched_params"]["cap"],
        hard_affinity=tuple(map(affinity, build.get("vcpu_hard_affinity", ()))),
        soft_affinity=tuple(map(affinity, build.get("vcpu_soft_affinity", ()))),
        cpuid=cpuid,
        disks=tuple(_disk_from_json(disk) for disk in shown.get("disks", ())),
        nics=tuple(_nic_from_json(nic) for nic in shown.get("nics", ())),
        channels=tuple(_channel_from_json(each) for each in shown.get("channels", ())),
        console_log=parse_console_log(shown["console_log"]) if "console_log" in shown else None,
        max_grant_frames=build["max_grant_frames"],
        max_maptrack_frames=build["max_maptrack_frames"],
        max_grant_version=build["max_grant_version"],
        max_event_channels=build["event_channels"],
        engine=build["engine"],
        system_map=Path(build["system_map"]) if "system_map" in build else None,
        **actions,
    )


def disk_to_json(disk: DiskConfig) -> dict[str, Any]:
    """A disk in libxl's shape."""
    shown: dict[str, Any] = {
        "pdev_path": disk.target,
        "vdev": disk.vdev,
        "backend": "qdisk",
        "format": disk.image_format,
        "removable": int(disk.cdrom),
        "readwrite": int(not disk.readonly),
        "is_cdrom": int(disk.cdrom),
        "direct_io_safe": disk.direct_io_safe,
        "discard_enable": disk.discard,
        "specification": "xen",
        "trusted": disk.trusted,
        "cache": "writethrough" if disk.writethrough else "writeback",
        "sector_size": disk.sector_size,
        "persistent_grants": disk.persistent,
    }
    if disk.iops is not None:
        shown["iops"] = disk.iops
    return shown | _rate_to_json(disk.rate)


def _disk_from_json(shown: Any) -> DiskConfig:
    return DiskConfig(
        target=shown["pdev_path"],
        image_format=shown["format"],
        vdev=shown["vdev"],
        number=virtual_device_number(shown["vdev"]),
        readonly=not shown["readwrite"],
        cdrom=bool(shown["is_cdrom"]),
        discard=shown["discard_enable"],
        trusted=shown["trusted"],
        direct_io_safe=shown["direct_io_safe"],
        writethrough=shown["cache"] == "writethrough",
        sector_size=shown["sector_size"],
        persistent=shown["persistent_grants"],
        rate=_rate_from_json(shown),
        iops=shown.get("iops"),
    )


def nic_to_json(nic: NicConfig) -> dict[str, Any]:
    """A network card in libxl's shape."""
    shown: dict[str, Any] = {"nictype": "vif", "mtu": nic.mtu, "trusted": nic.trusted}
    if nic.devid is not None:
        shown["devid"] = nic.devid
    # What a card is connected to: libxl knows bridges alone.
    texts = {"mac": nic.mac, "ip": nic.ip, "pcap": nic.pcap, "mode": nic.mode, "peer": nic.peer}
    names = {"gatewaydev": "gatewaydev", "vifname": "ifname"}
    texts |= {name: nic.extra.get(key, "") for key, name in names.items()}
    if nic.mode == "bridge":
        texts["bridge"] = nic.peer
    shown |= {name: text for name, text in texts.items() if text}
    if nic.forwards:
        shown["hostfwd"] = [
            [each.protocol, each.host_address, each.host_port, each.guest_port]
            for each in nic.forwards
        ]
    if nic.host_loopback:
        shown["host_loopback"] = True
    return shown | _rate_to_json(nic.rate)


def _nic_from_json(shown: Any) -> NicConfig:
    extra = {"gatewaydev": shown.get("gatewaydev", ""), "vifname": shown.get("ifname", "")}
    return NicConfig(
        mode=shown["mode"],
        peer=shown.get("peer", ""),
        mac=shown.get("mac", ""),
        devid=shown.get("devid"),
        mtu=shown["mtu"],
        rate=_rate_from_json(shown),
        forwards=tuple(
            Forward(protocol, host_port, guest_port, address)
            for protocol, address, host_port, guest_port in shown.get("hostfwd", ())
        ),
        host_loopback=shown.get("host_loopback", False),
        pcap=shown.get("pcap", ""),
        trusted=shown["trusted"],
        ip=shown.get("ip", ""),
        extra={name: value for name, value in extra.items() if value},
    )


def _channel_to_json(channel: ChannelConfig) -> dict[str, Any]:
    connection: dict[str, Any] = {"path": channel.path} if channel.path else {}
    shown: dict[str, Any] = {"name": channel.name, f"connection.{channel.connection}": connection}
    shown |= {"limit": channel.limit, "overflow": channel.overflow}
    if channel.devid is not None:
        shown["devid"] = channel.devid
    return shown


def _channel_from_json(shown: Any) -> ChannelConfig:
    (connection,) = (each for each in CONNECTIONS if f"connection.{each}" in shown)
    return ChannelConfig(
        name=shown["name"],
        connection=connection,
        path=shown[f"connection.{connection}"].get("path", ""),
        limit=shown["limit"],
        overflow=shown["overflow"],
        devid=shown.get("devid"),
    )


def _rate_to_json(rate: RateLimit | None) -> dict[str, Any]:
    if rate is None:
        return {}
    return {
        "rate_bytes_per_interval": rate.bytes_per_interval,
        "rate_interval_usecs": rate.interval_us,
    }


def _rate_from_json(shown: Any) -> RateLimit | None:
    if "rate_bytes_per_interval" not in shown:
        return None
    return RateLimit(shown["rate_bytes_per_interval"], shown["rate_interval_usecs"])
