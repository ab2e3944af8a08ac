# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen info``: the host, the engines and why each is or is not usable, the Xen presented."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from pyxen import __version__


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb; it has no arguments of its own."""
    parser = verbs.add_parser(
        "info",
        parents=[common],
        help="show the host, the engines and the Xen version presented",
        description="Show the host, the engines and why each is or is not usable, and the version "
        "of Xen that guests see.",
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print what is known; 0 always: a host without a usable engine is no error of this verb."""
    from pyxen import engine
    from pyxen.hypervisor import version

    _line("pyxen", __version__)
    _line("python", platform.python_version())
    _line("kernel", f"{platform.system()} {platform.release()} {platform.machine()}")
    _line("cpu", _cpu_model(Path("/proc/cpuinfo")))
    _line("cores", str(len(os.sched_getaffinity(0))))
    _line("memory", _memory(Path("/proc/meminfo")))
    _line("/dev/kvm", _kvm(Path("/dev/kvm"), Path("/sys/module/kvm_pvm")))
    xen = f"{version.XEN_MAJOR}.{version.XEN_MINOR}{version.EXTRA_VERSION}"
    _line("xen version", f"{xen} ({version.CAPABILITIES.strip()})")
    for found in engine.probe():
        state = "usable" if found.usable else "not usable"
        _line(f"engine {found.name}", f"{state}: {found.reason}" if found.reason else state)
    return 0


def _kvm(device: Path, software_kvm: Path) -> str:
    """What /dev/kvm is here. No engine uses it yet, whatever it is."""
    if not device.exists():
        return "absent"
    if software_kvm.exists():
        return "present, but it is kvm_pvm, a software KVM that cannot run whole guests"
    return "present; pyxen has no engine for it yet"


def _cpu_model(cpuinfo: Path) -> str:
    return _field(cpuinfo, "model name") or "unknown"


def _memory(meminfo: Path) -> str:
    total, available = _field(meminfo, "MemTotal"), _field(meminfo, "MemAvailable")
    return f"{_mebibytes(total)}, {_mebibytes(available)} available"


def _mebibytes(field: str) -> str:
    """``"8052056 kB"`` as MiB; the kernel's kB are 1024 bytes."""
    number = field.removesuffix(" kB")
    return f"{int(number) // 1024} MiB" if number.isdigit() else "unknown"


def _field(path: Path, name: str) -> str:
    """The first ``name: value`` of a file of /proc; empty if there is none."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _line(name: str, value: str) -> None:
    print(f"{name:18}{value}")
