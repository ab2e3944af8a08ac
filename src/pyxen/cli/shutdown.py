# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen shutdown``: ask guests to power off; ``reboot.py`` is the same for a reboot."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pyxen.cli.list import REASONS
from pyxen.errors import PyxenError

if TYPE_CHECKING:
    from pyxen.toolstack.domains import End


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("shutdown", parents=[common], help="ask a domain to power off")
    add_arguments(parser)
    parser.set_defaults(execute=execute)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those that both verbs have."""
    parser.add_argument("domain", nargs="?", metavar="Domain", help="number or name")
    parser.add_argument("-a", "--all", action="store_true", help="all domains")
    parser.add_argument(
        *("-w", "--wait"),
        action="count",
        default=0,
        help="wait until they have done it; twice: until they have gone",
    )
    parser.add_argument(
        "-F", action="store_true", dest="fallback", help="as for xl; PV guests need no other way"
    )


def execute(arguments: argparse.Namespace) -> int:
    """Return when all have acknowledged the request, or with ``-w`` have shut down."""
    return request(arguments, "poweroff", "Shutting down domain", "shutdown")


def request(arguments: argparse.Namespace, action: str, doing: str, verb: str) -> int:
    """Make the request; 1 if one does not take it."""
    from contextlib import ExitStack

    from pyxen.toolstack.control.messages import Shutdown
    from pyxen.toolstack.domains import End, ask, find, living

    if arguments.domain is None and not arguments.all:
        raise PyxenError("You must specify -a or a domain id.")
    entries = living() if arguments.all else [find(arguments.domain)]
    status = 0
    with ExitStack() as stack:
        waits = [stack.enter_context(End(entry)) for entry in entries if arguments.wait]
        for entry in entries:
            domid = entry.record.domid
            print(f"{doing} {domid}", file=sys.stderr)
            try:
                ask(str(domid), Shutdown(action))
            except PyxenError as error:
                print(f"pyxen: {verb} failed: domain {domid}: {error}", file=sys.stderr)
                status = 1
        if arguments.wait and not status:
            print(f"Waiting for {len(waits)} domains", file=sys.stderr)
            for entry, wait in zip(entries, waits, strict=True):
                _wait(entry.record.domid, wait, for_death=arguments.wait > 1)
    return status


def _wait(domid: int, end: End, *, for_death: bool) -> None:
    """Return when the domain has shut down, or has gone under this number, and tell of it."""
    while event := end.wait_event():
        if event.event == "restarted":
            break
        reason = REASONS.index(event.reason)
        print(f"Domain {domid} has been shut down, reason code {reason}", file=sys.stderr)
        if not for_death:
            return
        print(f"Domain {domid} continue waiting for death", file=sys.stderr)
    print(f"Domain {domid} has been destroyed", file=sys.stderr)
