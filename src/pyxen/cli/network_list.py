# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen network-list``: the network cards of domains, and what their front ends have told."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyxen.toolstack.control.messages import DeviceInfo


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "network-list", parents=[common], help="list the network cards of domains"
    )
    parser.add_argument("domains", nargs="+", metavar="Domain", help="number or name")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print a line for each."""
    from pyxen.toolstack.control.messages import ListDevices
    from pyxen.toolstack.domains import ask

    devices = [
        device for name in arguments.domains for device in ask(name, ListDevices("vif")).devices
    ]
    print(
        f"{'Idx':<3} {'BE':<2} {'Mac Addr.':<17} {'handle':<6} {'state':<5} {'evt-ch':<6} "
        f"{'tx-':>5}/{'rx-ring-ref':<5} {'BE-path':<30}"
    )
    for device in devices:
        print(line(device))
    return 0


def line(device: DeviceInfo) -> str:
    """A card's line."""
    port = device.number("event-channel")
    rings = f"{device.number('tx-ring-ref'):5d}/{device.number('rx-ring-ref'):<11d}"
    return (
        f"{device.devid:<3d} {0:<2d} {device.frontend.get('mac', ''):<17}{device.devid:6d} "
        f"{device.state:5d} {port:6d} {rings} {device.backend_path:<30}"
    )
