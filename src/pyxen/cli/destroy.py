# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen destroy``: end a domain at once, as if its power were cut."""

from __future__ import annotations

import argparse

from pyxen.errors import PyxenError


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("destroy", parents=[common], help="end a domain at once")
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument("-f", action="store_true", dest="force", help="as for xl; does nothing")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Return when it has gone."""
    from pyxen.toolstack.domains import DOMAIN_0, destroy

    if arguments.domain in ("0", DOMAIN_0):
        raise PyxenError("Not destroying domain 0: it is the host")
    destroy(arguments.domain)
    return 0
