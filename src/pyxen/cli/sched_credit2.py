# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen sched-credit2``: how domains share the processors of the host."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pyxen.errors import PyxenError

if TYPE_CHECKING:
    from pyxen.toolstack.control.messages import DomainInfo

_POOLS = (None, "Pool-0", "0")
"""There is one pool, of all processors."""


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "sched-credit2",
        parents=[common],
        help="get or set a domain's share of the processors",
        description="Without options list all domains. A domain with twice the weight of another "
        "one gets twice as much where both want more than there is; a cap is what a domain gets at "
        "most, in percent of a processor.",
    )
    parser.add_argument("-d", "--domain", metavar="DOMAIN", help="number or name")
    parser.add_argument("-w", "--weight", type=int, help="1 to 65535; 256 if none is given")
    parser.add_argument("-c", "--cap", type=int, help="in percent of a processor; 0: none")
    parser.add_argument("-p", "--cpupool", metavar="CPUPOOL", help="the pool: Pool-0")
    parser.add_argument("-s", "--schedparam", action="store_true", help="what holds for all")
    parser.add_argument(
        "-r",
        "--ratelimit_us",
        type=int,
        metavar="RLIMIT",
        help="with -s: how long a domain runs at least, in microseconds",
    )
    parser.set_defaults(execute=execute, usage_error=parser.error)


def execute(arguments: argparse.Namespace) -> int:
    """Print what is asked for, or change it."""
    from pyxen.toolstack.control.messages import SetScheduling
    from pyxen.toolstack.domains import ask, list_domains

    changes = arguments.weight is not None or arguments.cap is not None
    if arguments.cpupool is not None and (arguments.domain is not None or changes):
        arguments.usage_error("Specifying a cpupool is not allowed with other options.")
    if arguments.domain is None and changes:
        arguments.usage_error("Must specify a domain.")
    if arguments.cpupool not in _POOLS:
        raise PyxenError(f"unknown cpupool '{arguments.cpupool}'")
    if arguments.schedparam:
        _rate_limit(arguments.ratelimit_us)
    elif changes:
        ask(arguments.domain, SetScheduling(arguments.weight, arguments.cap))
    else:
        if arguments.domain is None:
            _rate_limit(None)
        print(f"{'Name':<33} {'ID':>4} {'Weight':>6} {'Cap':>4}")
        for each in list_domains(arguments.domain):
            print(line(each.info))
    return 0


def line(info: DomainInfo) -> str:
    """A domain's line."""
    return f"{info.name:<33} {info.domid:4d} {info.weight:6d} {info.cap:4d}"


def _rate_limit(value: int | None) -> None:
    """Print the limit, or set it."""
    from pyxen.toolstack.domains import get_rate_limit, set_rate_limit

    if value is None:
        print(f"Cpupool Pool-0: ratelimit={get_rate_limit()}us")
    else:
        set_rate_limit(value)
