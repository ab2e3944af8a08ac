# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen channel-list``: the extra consoles of domains, and where they can be read."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from pyxen.cli.device_list import add_list_parser

if TYPE_CHECKING:
    from pyxen.toolstack.control.messages import DeviceInfo

_HEADER: Final = (
    f"{'Idx':<3} {'BE':<2} {'state':<5} {'evt-ch':<6} {'ring-ref':>8} {'connection':<10} {'':<30}"
)


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    add_list_parser(
        verbs,
        common,
        "channel-list",
        "list the extra consoles of domains",
        "console",
        _HEADER,
        line,
    )


def line(domid: int, device: DeviceInfo) -> str:
    """A console's line; that of a pseudo-terminal has its path."""
    is_pty = device.frontend.get("output") == "pty"
    text = (
        f"{device.devid:<3d} {0:<2d} {device.state:<5d} {device.number('port'):<6d} "
        f"{device.number('ring-ref'):<8d} {'pty' if is_pty else 'socket':<10} "
    )
    return text + f"{device.frontend.get('tty', ''):<30} " if is_pty else text
