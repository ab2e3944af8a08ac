# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen domname``: the name of a domain by its number."""

from __future__ import annotations

import argparse
import re


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("domname", parents=[common], help="print the name of a domain")
    parser.add_argument("domid", metavar="DomainId")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print it."""
    from pyxen.errors import PyxenError
    from pyxen.toolstack.domains import list_domains

    if re.match("[0-9]", arguments.domid) is None:
        raise PyxenError("Invalid domain id.")
    for listed in list_domains():
        if str(listed.info.domid) == arguments.domid:
            print(listed.info.name)
            return 0
    raise PyxenError(
        f"Can't get domain name of domain id '{arguments.domid}', maybe this domain does not exist."
    )
