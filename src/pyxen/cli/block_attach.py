# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen block-attach``: give a running domain another disk."""

from __future__ import annotations

import argparse


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("block-attach", parents=[common], help="add a disk to a domain")
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument(
        "spec", nargs="+", metavar="disk-spec-component", help="as in the option disk of xl.cfg"
    )
    parser.set_defaults(execute=execute, can_dry_run=True)


def execute(arguments: argparse.Namespace) -> int:
    """Add it; with ``-N`` only show it."""
    from pyxen.toolstack.config.writer import format_disk
    from pyxen.toolstack.control.messages import AttachDisk
    from pyxen.toolstack.create import absolute_disk
    from pyxen.toolstack.devices.disk import parse_disk
    from pyxen.toolstack.domains import ask, find

    entry = find(arguments.domain)
    disk = absolute_disk(parse_disk(",".join(arguments.spec)))
    if arguments.dry_run:
        import json

        from pyxen.toolstack.config.json_form import disk_to_json

        print(f"disk: {json.dumps(disk_to_json(disk), indent=4)}")
        return 0
    ask(str(entry.record.domid), AttachDisk(format_disk(disk)))
    return 0
