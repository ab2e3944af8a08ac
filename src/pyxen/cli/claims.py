# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen claims``: the list with the memory that is claimed and not yet given, which is none."""

from __future__ import annotations

import argparse

from pyxen.cli.list import HEADER, line


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb; it has no arguments of its own."""
    parser = verbs.add_parser("claims", parents=[common], help="list memory that is claimed: none")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print the list."""
    from pyxen.toolstack.domains import list_domains

    print(f"{HEADER}  Claimed")
    for each in list_domains():
        print(f"{line(each.info)} {0:5d}")
    return 0
