# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen domid``: the number of a domain by its name."""

from __future__ import annotations

import argparse


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("domid", parents=[common], help="print the number of a domain")
    parser.add_argument("name", metavar="DomainName")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print it."""
    from pyxen.errors import PyxenError
    from pyxen.toolstack.domains import list_domains

    for listed in list_domains():
        if listed.info.name == arguments.name:
            print(listed.info.domid)
            return 0
    raise PyxenError(
        f"Can't get domid of domain name '{arguments.name}', maybe this domain does not exist."
    )
