# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen mem-set``: the target of the guest's balloon."""

from __future__ import annotations

import argparse

from pyxen.cli.sizes import memory_kib


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "mem-set", parents=[common], help="set how much memory a domain is to use"
    )
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument(
        "memory", metavar="MemMB", type=memory_kib, help="in MiB, or with b, k, m, g, t"
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Set it."""
    from pyxen.toolstack.control.messages import SetMemory
    from pyxen.toolstack.domains import ask

    ask(arguments.domain, SetMemory(arguments.memory))
    return 0
