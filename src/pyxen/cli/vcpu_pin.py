# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen vcpu-pin``: on which of the host's processors a vCPU may run, and likes to."""

from __future__ import annotations

import argparse

from pyxen.errors import PyxenError

_UNCHANGED = "-"


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "vcpu-pin",
        parents=[common],
        help="set on which processors a vCPU may run",
        description="Processors are given as in cpus= of xl.cfg: 0-3,^2 or all; - leaves them as "
        "they are.",
    )
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument("vcpu", metavar="VCPU", help="the vCPU's number, or all")
    parser.add_argument("hard", metavar="CPUs-hard", help="where it may run")
    parser.add_argument("soft", metavar="CPUs-soft", nargs="?", help="where it likes to run")
    parser.add_argument(
        "-f", "--force", action="store_true", help="as for xl; does nothing: none is pinned by Xen"
    )
    parser.add_argument(
        "-i",
        "--ignore-global-affinity-masks",
        action="store_true",
        help="as for xl; does nothing: there are none",
    )
    parser.set_defaults(execute=execute, can_dry_run=True)


def execute(arguments: argparse.Namespace) -> int:
    """Pin it; with ``-N`` only show what would be done."""
    from pyxen.toolstack.config.cpulist import format_cpus
    from pyxen.toolstack.control.messages import SetAffinity
    from pyxen.toolstack.domains import ask

    vcpu = _vcpu(arguments.vcpu, arguments.force)
    hard, soft = _cpus(arguments.hard), _cpus(arguments.soft or _UNCHANGED)
    if arguments.dry_run:
        shown = [_UNCHANGED if hard is None else format_cpus(hard)]
        shown += [] if soft is None else [format_cpus(soft)]
        print(f"cpumap: {' '.join(shown)}")
        return 0
    ask(arguments.domain, SetAffinity(vcpu, hard, soft))
    return 0


def _vcpu(text: str, force: bool) -> int | None:
    if text == "all":
        if force:
            raise PyxenError("Error: --force and 'all' as VCPU not allowed.")
        return None
    if not (text.isascii() and text.isdigit()):
        raise PyxenError(f"Error: Invalid argument {text} as VCPU.")
    return int(text)


def _cpus(text: str) -> int | None:
    from pyxen.toolstack.config.cpulist import parse_cpus

    return None if text == _UNCHANGED else parse_cpus(text)
