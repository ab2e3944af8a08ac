# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen block-list``: the disks of domains, and what their front ends have told."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyxen.toolstack.control.messages import DeviceInfo


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("block-list", parents=[common], help="list the disks of domains")
    parser.add_argument("domains", nargs="+", metavar="Domain", help="number or name")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print a line for each."""
    from pyxen.toolstack.control.messages import ListDevices
    from pyxen.toolstack.domains import ask, find

    lines = [
        line(find(name).record.domid, device)
        for name in arguments.domains
        for device in ask(name, ListDevices("vbd")).devices
    ]
    print(
        f"{'Vdev':<5} {'BE':<3} {'handle':<6} {'state':<5} {'evt-ch':<6} {'ring-ref':<8} "
        f"{'BE-path':<30}"
    )
    for each in lines:
        print(each)
    return 0


def line(domid: int, device: DeviceInfo) -> str:
    """A disk's line. ``handle`` is the domain's number, as xl prints it."""
    port, ring = device.number("event-channel"), device.number("ring-ref")
    return (
        f"{device.devid:<5d} {0:<3d} {domid:<6d} {device.state:<5d} {port:<6d} {ring:<8d} "
        f"{device.backend_path:<30}"
    )
