# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen debug-keys``: let the hypervisor dump what it knows, to be seen with ``dmesg``."""

from __future__ import annotations

import argparse
import sys


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "debug-keys",
        parents=[common],
        help="send debug keys to the hypervisor",
        description="Each key dumps something of all domains into the hypervisor's messages, see "
        "dmesg. The key h lists them there.",
    )
    parser.add_argument("keys", metavar="Keys", help="such as h or qe")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Send them; 1 if a domain does not take one."""
    from pyxen.toolstack.debug_keys import send_debug_keys

    problems = send_debug_keys(arguments.keys)
    for problem in problems:
        print(f"pyxen: cannot send debug keys: {problem}", file=sys.stderr)
    return 1 if problems else 0
