# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen network-attach``: give a running domain another network card."""

from __future__ import annotations

import argparse


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "network-attach", parents=[common], help="add a network card to a domain"
    )
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument(
        "spec", nargs="*", metavar="NAME=VALUE", help="as in the option vif of xl.cfg"
    )
    parser.set_defaults(execute=execute, can_dry_run=True)


def execute(arguments: argparse.Namespace) -> int:
    """Add it; with ``-N`` only show it."""
    from pyxen.toolstack.config.writer import format_nic
    from pyxen.toolstack.control.messages import AttachNic
    from pyxen.toolstack.create import absolute_nic
    from pyxen.toolstack.devices.nic import parse_nic
    from pyxen.toolstack.domains import ask, find

    entry = find(arguments.domain)
    nic = absolute_nic(parse_nic(",".join(arguments.spec)))
    if arguments.dry_run:
        import json

        from pyxen.toolstack.config.json_form import nic_to_json

        print(f"vif: {json.dumps(nic_to_json(nic), indent=4)}")
        return 0
    ask(str(entry.record.domid), AttachNic(format_nic(nic)))
    return 0
