# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen vcpu-list``: the vCPUs of domains. They take turns in their domain's thread: the column
``CPU`` is where that thread runs, or did last."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyxen.toolstack.control.messages import DomainInfo, VcpuInfo


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("vcpu-list", parents=[common], help="list the vCPUs of domains")
    parser.add_argument("domains", nargs="*", metavar="Domain", help="number or name")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print a line for each vCPU."""
    from pyxen.toolstack.domains import list_domains

    listed = [each for name in arguments.domains or [None] for each in list_domains(name)]
    print(
        f"{'Name':<32} {'ID':>5} {'VCPU':>5} {'CPU':>5} {'State':>5} {'Time(s)':>9} "
        "Affinity (Hard / Soft)"
    )
    for each in listed:
        for vcpu in each.info.vcpus:
            print(line(each.info, vcpu))
    return 0


def line(info: DomainInfo, vcpu: VcpuInfo) -> str:
    """A vCPU's line."""
    from pyxen.toolstack.config.cpulist import format_cpus

    if vcpu.online:
        where = f"{vcpu.cpu:5d} {'r' if vcpu.running else '-':>3}{'b' if vcpu.blocked else '-'}- "
    else:
        where = f"{'-':>5} {'-':>3}-p "
    affinity = f"{format_cpus(vcpu.hard_affinity)} / {format_cpus(vcpu.soft_affinity)}"
    spent = f"{vcpu.cpu_ns / 1e9:9.1f}"
    return f"{info.name:<32} {info.domid:5d} {vcpu.index:5d}{where}{spent}  {affinity}"
