# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen rename``: give a domain another name."""

from __future__ import annotations

import argparse


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("rename", parents=[common], help="rename a domain")
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument("name", metavar="NewDomainName")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Rename it."""
    from pyxen.toolstack.control.messages import Rename
    from pyxen.toolstack.domains import ask

    ask(arguments.domain, Rename(arguments.name))
    return 0
