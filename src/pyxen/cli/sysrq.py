# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen sysrq``: a magic key for the guest's kernel, by the xenstore."""

from __future__ import annotations

import argparse

from pyxen.errors import PyxenError


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("sysrq", parents=[common], help="send a magic SysRq key to a domain")
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument("letter", help="the key, such as s or m")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Send it."""
    from pyxen.toolstack.control.messages import Sysrq
    from pyxen.toolstack.domains import ask

    if len(arguments.letter) != 1:
        raise PyxenError("Invalid sysrq.")
    ask(arguments.domain, Sysrq(arguments.letter))
    return 0
