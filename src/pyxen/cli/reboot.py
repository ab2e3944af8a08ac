# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen reboot``: ask guests to reboot."""

from __future__ import annotations

import argparse

from pyxen.cli.shutdown import add_arguments, request


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("reboot", parents=[common], help="ask a domain to reboot")
    add_arguments(parser)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Return when all have acknowledged the request, or with ``-w`` have shut down."""
    return request(arguments, "reboot", "Rebooting domain", "reboot")
