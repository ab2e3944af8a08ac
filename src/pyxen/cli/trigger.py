# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen trigger``: an interrupt from outside; PV guests know ``nmi`` only."""

from __future__ import annotations

import argparse

from pyxen.errors import PyxenError

TRIGGERS = ("nmi", "reset", "init", "power", "sleep", "s3resume")


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("trigger", parents=[common], help="send a trigger (nmi) to a domain")
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument("trigger", metavar="|".join(TRIGGERS))
    parser.add_argument("vcpu", nargs="?", type=int, default=0, help="default: 0")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Send it."""
    from pyxen.toolstack.control.messages import Trigger
    from pyxen.toolstack.domains import ask

    if arguments.trigger not in TRIGGERS:
        raise PyxenError(f'Invalid trigger "{arguments.trigger}"')
    ask(arguments.domain, Trigger(arguments.trigger, arguments.vcpu))
    return 0
