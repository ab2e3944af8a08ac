# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen dump-core``: the memory and the vCPUs of a domain as an ELF file; the domain goes on."""

from __future__ import annotations

import argparse


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("dump-core", parents=[common], help="write a core dump of a domain")
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument("filename", help="where to write it")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Return when it is written."""
    import os

    from pyxen.toolstack.control.messages import DumpCore
    from pyxen.toolstack.domains import ask

    ask(arguments.domain, DumpCore(os.path.abspath(arguments.filename)))
    return 0
