# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen network-detach``: take a network card from a running domain."""

from __future__ import annotations

import argparse


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "network-detach", parents=[common], help="take a network card from a domain"
    )
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument("device", metavar="DevId|mac", help="the card")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Return when it has gone."""
    from pyxen.toolstack.control.messages import DetachNic
    from pyxen.toolstack.domains import ask

    ask(arguments.domain, DetachNic(arguments.device))
    return 0
