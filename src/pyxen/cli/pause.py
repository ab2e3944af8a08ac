# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen pause``: its vCPUs stop where they are."""

from __future__ import annotations

import argparse


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("pause", parents=[common], help="stop the vCPUs of a domain")
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Stop it."""
    from pyxen.toolstack.control.messages import Pause
    from pyxen.toolstack.domains import ask

    ask(arguments.domain, Pause())
    return 0
