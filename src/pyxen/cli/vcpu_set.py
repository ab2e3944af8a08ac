# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen vcpu-set``: how many vCPUs the guest is to use."""

from __future__ import annotations

import argparse


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "vcpu-set", parents=[common], help="set the number of active vCPUs of a domain"
    )
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument("count", metavar="vCPUs", type=int)
    parser.add_argument(
        "-i", "--ignore-host", action="store_true", help="more vCPUs than the host has CPUs"
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Ask the guest for it."""
    import os

    from pyxen.errors import PyxenError
    from pyxen.toolstack.control.messages import GetInfo, SetVcpus
    from pyxen.toolstack.domains import ask

    if not arguments.ignore_host:
        online, host = ask(arguments.domain, GetInfo()).online, os.cpu_count() or 1
        if arguments.count > online and arguments.count > host:
            raise PyxenError(
                f"the host has {host} CPUs and you want {arguments.count} vCPUs; "
                "use --ignore-host to continue"
            )
    ask(arguments.domain, SetVcpus(arguments.count))
    return 0
