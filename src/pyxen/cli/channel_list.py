# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen channel-list``: the extra consoles of domains, and where they can be read."""

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
        "channel-list", parents=[common], help="list the extra consoles of domains"
    )
    parser.add_argument("domains", nargs="+", metavar="Domain", help="number or name")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print a line for each."""
    from pyxen.toolstack.control.messages import ListDevices
    from pyxen.toolstack.domains import ask

    devices = [
        device for name in arguments.domains for device in ask(name, ListDevices("console")).devices
    ]
    print(
        f"{'Idx':<3} {'BE':<2} {'state':<5} {'evt-ch':<6} {'ring-ref':>8} {'connection':<10} "
        f"{'':<30}"
    )
    for device in devices:
        print(line(device))
    return 0


def line(device: DeviceInfo) -> str:
    """A console's line; that of a pseudo-terminal has its path."""
    is_pty = device.frontend.get("output") == "pty"
    text = (
        f"{device.devid:<3d} {0:<2d} {device.state:<5d} {device.number('port'):<6d} "
        f"{device.number('ring-ref'):<8d} {'pty' if is_pty else 'socket':<10} "
    )
    return text + f"{device.frontend.get('tty', ''):<30} " if is_pty else text
