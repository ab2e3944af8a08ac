# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen console``: the user's terminal at a domain's console, from its first byte."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from pyxen.errors import PyxenError


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "console",
        parents=[common],
        help="connect to a domain's console",
        description="Show what the domain has printed so far and all that follows; what is typed "
        "goes to the domain. Ctrl-] leaves, and the domain goes on.",
    )
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument("-t", choices=("pv", "serial", "vuart"), default="pv", dest="kind")
    parser.add_argument("-n", type=int, default=0, dest="number", help="which console; default: 0")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Show the console until the user leaves or the domain has gone."""
    if arguments.kind != "pv" or arguments.number != 0:
        raise PyxenError("console: PV guests have a console of type pv, number 0")
    return show(arguments.domain)


def show(qualifier: str, connected: Callable[[], None] = lambda: None) -> int:
    """The exit status: 0, or that of the signal that has ended it."""
    from pyxen.cli.console_client import NOTICE, attach
    from pyxen.cli.terminal import Terminal
    from pyxen.toolstack.domains import console_socket, find

    entry = find(qualifier)
    with console_socket(entry) as path, Terminal(notice=NOTICE) as terminal:
        attach(path, terminal, connected)
    terminal.check()
    return 0 if terminal.ended_by is None else 128 + terminal.ended_by
