# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen info``: the host and the Xen that guests see, as xl prints it, and what pyxen is."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyxen import __version__

if TYPE_CHECKING:
    from pyxen.engine import EngineInfo
    from pyxen.toolstack.sandbox import Mechanism

SCHEDULER: Final = "credit2"


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "info",
        parents=[common],
        help="show the host, the Xen version presented and the engines",
        description="Show the host and the Xen that guests see, as xl does; then pyxen's version, "
        "its engines and why each is or is not usable.",
    )
    parser.add_argument(
        "name", nargs="?", help="show only the value of what begins with this, such as xen_version"
    )
    parser.add_argument("-n", "--numa", action="store_true", help="processors and NUMA nodes, too")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print what is known; 0 always: a host without a usable engine is no error of this verb."""
    name = arguments.name if not arguments.numa else None
    _print(_host(), name)
    _print(_machine(), name)
    if arguments.numa:
        _print_topology()
    _print(_xen(), name)
    _print(_pyxen(), name)
    return 0


def _print(values: dict[str, object], name: str | None) -> None:
    for key, value in values.items():
        if name is None:
            print(f"{key:<23}: {value}")
        elif key.startswith(name):
            print(value)


def _host() -> dict[str, object]:
    system = os.uname()
    return {
        "host": system.nodename,
        "release": system.release,
        "version": system.version,
        "machine": system.machine,
    }


def _machine() -> dict[str, object]:
    from pyxen.toolstack.physinfo import physinfo

    info = physinfo()
    return {
        "nr_cpus": info.nr_cpus,
        "max_cpu_id": info.max_cpu_id,
        "nr_nodes": info.nr_nodes,
        "cores_per_socket": info.cores_per_socket,
        "threads_per_core": info.threads_per_core,
        "cpu_mhz": f"{info.cpu_khz // 1000}.{info.cpu_khz % 1000:03d}",
        "hw_caps": ":".join(f"{word:08x}" for word in info.hw_caps),
        "virt_caps": "pv gnttab-v1 gnttab-v2",
        "total_memory": info.total_memory,
        "free_memory": info.free_memory,
        # Domains share no pages and claim none, and no processor is outside of the one pool.
        "sharing_freed_memory": 0,
        "sharing_used_memory": 0,
        "outstanding_claims": 0,
        "free_cpus": 0,
    }


def _print_topology() -> None:
    from pyxen.toolstack.physinfo import cpu_topology, numa_nodes, pci_nodes

    print(f"{'cpu_topology':<23}:\ncpu:    core    socket     node")
    for cpu in cpu_topology():
        print(f"{cpu.cpu:3d}:    {cpu.core:4d}     {cpu.socket:4d}     {cpu.node:4d}")
    print(f"{'device topology':<23}:\ndevice           node")
    devices = pci_nodes()
    for address, number in devices:
        print(f"{address}      {number}")
    if not devices:
        print("No device topology data available")
    print(f"{'numa_info':<23}:\nnode:    memsize    memfree    distances")
    for node in numa_nodes():
        distances = ",".join(map(str, node.distances))
        print(f"{node.node:4d}:    {node.size:6d}     {node.free:6d}      {distances}")


def _xen() -> dict[str, object]:
    from pyxen.abi.arch_x86_64 import HYPERVISOR_VIRT_START
    from pyxen.hypervisor import version
    from pyxen.hypervisor.page_flags import PAGE_SIZE

    return {
        "xen_major": version.XEN_MAJOR,
        "xen_minor": version.XEN_MINOR,
        "xen_extra": version.EXTRA_VERSION,
        "xen_version": f"{version.XEN_MAJOR}.{version.XEN_MINOR}{version.EXTRA_VERSION}",
        "xen_caps": version.CAPABILITIES,
        "xen_scheduler": SCHEDULER,
        "xen_pagesize": PAGE_SIZE,
        "platform_params": f"virt_start={HYPERVISOR_VIRT_START:#x}",
        "xen_changeset": version.CHANGESET,
        "xen_commandline": "",
        "cc_compiler": version.COMPILER,
        "cc_compile_by": version.COMPILE_BY,
        "cc_compile_domain": version.COMPILE_DOMAIN,
        "cc_compile_date": version.COMPILE_DATE,
        "build_id": "",
        "xend_config_format": 4,
    }


def _pyxen() -> dict[str, object]:
    from pyxen import engine
    from pyxen.toolstack import sandbox

    values: dict[str, object] = {
        "pyxen_version": __version__,
        "python": platform.python_version(),
        "/dev/kvm": _kvm(Path("/dev/kvm"), Path("/sys/module/kvm_pvm")),
    }
    values |= {f"engine_{found.name}": _usable(found) for found in engine.probe()}
    values |= {f"sandbox_{found.name}": _usable(found) for found in sandbox.mechanisms()}
    return values


def _usable(found: EngineInfo | Mechanism) -> str:
    state = "usable" if found.usable else "not usable"
    return f"{state}: {found.reason}" if found.reason else state


def _kvm(device: Path, software_kvm: Path) -> str:
    """What /dev/kvm is here. No engine uses it yet, whatever it is."""
    if not device.exists():
        return "absent"
    if software_kvm.exists():
        return "present, but it is kvm_pvm, a software KVM that cannot run whole guests"
    return "present; pyxen has no engine for it yet"
