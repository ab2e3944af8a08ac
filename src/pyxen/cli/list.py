# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen list``: the domains of this host, in xl's columns or as JSON."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyxen.toolstack.control.messages import DomainInfo
    from pyxen.toolstack.domains import Listed

REASONS = ("poweroff", "reboot", "suspend", "crash", "watchdog", "soft_reset")
"""In the order of Xen's numbers."""
_LETTERS = "-rscwS"
HEADER = "Name                                        ID   Mem VCPUs\tState\tTime(s)"


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "list",
        parents=[common],
        help="list the domains",
        description="List all domains, or one. State: running, blocked, paused, shut down; then "
        "why it has shut down (- poweroff, r reboot, s suspend, c crash, w watchdog); dying.",
    )
    parser.add_argument("domain", nargs="?", metavar="Domain", help="number or name")
    parser.add_argument("-l", "--long", action="store_true", help="all details, as JSON")
    parser.add_argument("-v", "--verbose", action="store_true", help="UUID and reason code, too")
    parser.add_argument("-Z", "--context", action="store_true", help="security labels, too: none")
    parser.add_argument("-c", "--cpupool", action="store_true", help="the pool of CPUs, too")
    parser.add_argument("-n", "--numa", action="store_true", help="the NUMA nodes, too")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print the list; what has to be said of a domain goes to standard error."""
    from pyxen.toolstack.domains import list_domains

    listed = list_domains(arguments.domain)
    if arguments.long:
        _print_json(listed)
    else:
        header = HEADER
        if arguments.verbose:
            header += "   UUID                            Reason-Code\tSecurity Label"
        elif arguments.context:
            header += "   Security Label"
        # There is one pool, and nothing keeps a domain to a node.
        extra = ""
        if arguments.cpupool:
            header += "         Cpupool"
            extra += f"{'Pool-0':>16}"
        if arguments.numa:
            header += " NODE Affinity"
            extra += " all"
        print(header)
        for each in listed:
            text = line(each.info, verbose=arguments.verbose, context=arguments.context)
            print(text + extra)
    for each in listed:
        if each.note:
            print(f"pyxen: {each.note}", file=sys.stderr)
    return 0


def line(info: DomainInfo, *, verbose: bool = False, context: bool = False) -> str:
    """A domain's line."""
    reason = REASONS.index(info.shutdown_reason) if info.shutdown_reason in REASONS else 0
    state = "".join(
        letter if is_set else "-"
        for letter, is_set in (
            ("r", info.running),
            ("b", info.blocked),
            ("p", info.paused),
            ("s", bool(info.shutdown_reason)),
        )
    )
    text = (
        f"{info.name:<40} {info.domid:5d} {info.memory_kib // 1024:5d} {info.online:5d}     "
        f"{state}{_LETTERS[reason]}-  {info.cpu_ns / 1e9:8.1f}"
    )
    if verbose:
        text += f" {info.uuid} {format(reason, '8x') if info.shutdown_reason else '-':>8}"
    if verbose or context:
        text += f" {'-':>16}"
    return text


def _print_json(listed: list[Listed]) -> None:
    import json

    from pyxen.toolstack.domains import configuration

    shown = [{"domid": each.info.domid, "config": configuration(each.info)} for each in listed]
    print(json.dumps(shown, indent=4))
