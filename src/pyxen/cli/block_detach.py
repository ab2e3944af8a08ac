# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen block-detach``: take a disk from a running domain."""

from __future__ import annotations

import argparse


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("block-detach", parents=[common], help="take a disk from a domain")
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument("device", metavar="DevId", help="the disk: xvda, or its number")
    parser.add_argument(
        "-f", "--force", action="store_true", help="do not wait for the guest to let go of it"
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Return when it has gone."""
    from pyxen.toolstack.control.messages import DetachDisk
    from pyxen.toolstack.domains import ask

    ask(arguments.domain, DetachDisk(arguments.device, arguments.force))
    return 0
