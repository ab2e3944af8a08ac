# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen block-list``: the disks of domains, and what their front ends have told."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from pyxen.cli.device_list import add_list_parser

if TYPE_CHECKING:
    from pyxen.toolstack.control.messages import DeviceInfo

_HEADER: Final = f"Vdev  BE  handle state evt-ch ring-ref {'BE-path':<30}"


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    add_list_parser(verbs, common, "block-list", "list the disks of domains", "vbd", _HEADER, line)


def line(domid: int, device: DeviceInfo) -> str:
    """A disk's line. ``handle`` is the domain's number, as xl prints it."""
    port, ring = device.number("event-channel"), device.number("ring-ref")
    return (
        f"{device.devid:<5d} {0:<3d} {domid:<6d} {device.state:<5d} {port:<6d} {ring:<8d} "
        f"{device.backend_path:<30}"
    )
