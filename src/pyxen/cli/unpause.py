# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen unpause``: what ``pause`` and ``create -p`` have stopped goes on."""

from __future__ import annotations

import argparse


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("unpause", parents=[common], help="let a paused domain go on")
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Let it go on."""
    from pyxen.toolstack.control.messages import Unpause
    from pyxen.toolstack.domains import ask

    ask(arguments.domain, Unpause())
    return 0
