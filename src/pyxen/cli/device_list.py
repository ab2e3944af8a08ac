# SPDX-License-Identifier: GPL-2.0-or-later
"""What the verbs that list devices have in common: a line for each device of some domains."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyxen.toolstack.control.messages import DeviceInfo


def add_list_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
    verb: str,
    help_text: str,
    kind: str,
    header: str,
    line: Callable[[int, DeviceInfo], str],
) -> None:
    """Declare such a verb. It prints the header, and of each device of the kind the line that is
    made of the domain's number and what is known of the device."""

    def execute(arguments: argparse.Namespace) -> int:
        from pyxen.toolstack.control.messages import ListDevices
        from pyxen.toolstack.domains import ask, find

        lines = []
        for name in arguments.domains:
            domid = find(name).record.domid
            devices = ask(str(domid), ListDevices(kind)).devices
            lines += [line(domid, device) for device in devices]
        print(header, *lines, sep="\n")
        return 0

    parser = verbs.add_parser(verb, parents=[common], help=help_text)
    parser.add_argument("domains", nargs="+", metavar="Domain", help="number or name")
    parser.set_defaults(execute=execute)
