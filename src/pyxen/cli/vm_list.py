# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen vm-list``: the domains by their UUIDs, without domain 0."""

from __future__ import annotations

import argparse


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb; it has no arguments of its own."""
    parser = verbs.add_parser("vm-list", parents=[common], help="list the domains by their UUIDs")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print the list."""
    from pyxen.toolstack.domains import living

    print("UUID                                  ID    name")
    for entry in living():
        record = entry.record
        print(f"{record.uuid}  {record.domid}    {record.name:<30}")
    return 0
