# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen network-list``: the network cards of domains, and what their front ends have told."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from pyxen.cli.device_list import add_list_parser

if TYPE_CHECKING:
    from pyxen.toolstack.control.messages import DeviceInfo

_HEADER: Final = (
    f"{'Idx':<3} {'BE':<2} {'Mac Addr.':<17} {'handle':<6} {'state':<5} {'evt-ch':<6} "
    f"{'tx-':>5}/{'rx-ring-ref':<5} {'BE-path':<30}"
)


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    add_list_parser(
        verbs, common, "network-list", "list the network cards of domains", "vif", _HEADER, line
    )


def line(domid: int, device: DeviceInfo) -> str:
    """A card's line."""
    port = device.number("event-channel")
    rings = f"{device.number('tx-ring-ref'):5d}/{device.number('rx-ring-ref'):<11d}"
    return (
        f"{device.devid:<3d} {0:<2d} {device.frontend.get('mac', ''):<17}{device.devid:6d} "
        f"{device.state:5d} {port:6d} {rings} {device.backend_path:<30}"
    )
