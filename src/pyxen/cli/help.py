# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen help``: the verbs, or one of them."""

from __future__ import annotations

import argparse


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("help", parents=[common], help="show this help, or that of a verb")
    parser.add_argument("verb", nargs="?", metavar="VERB", help="as after VERB --help")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print it."""
    from pyxen.cli.main import main

    return main([arguments.verb, "--help"] if arguments.verb else ["--help"])
