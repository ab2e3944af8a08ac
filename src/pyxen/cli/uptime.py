# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen uptime``: how long domains have run."""

from __future__ import annotations

import argparse
import time

_DAY = 86400


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser("uptime", parents=[common], help="print how long domains have run")
    parser.add_argument("domains", nargs="*", metavar="Domain", help="number or name")
    parser.add_argument("-s", action="store_true", dest="short", help="in the form of uptime(1)")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print a line for each."""
    from pyxen.toolstack.domains import list_domains

    listed = [each for name in arguments.domains or [None] for each in list_domains(name)]
    now = time.time()
    if not arguments.short:
        print(f"{'Name':<33} {'ID':>4} Uptime")
    for each in listed:
        info = each.info
        passed = duration(max(0, int(now - info.started)), short=arguments.short)
        if arguments.short:
            print(f" {time.strftime('%H:%M:%S')} up {passed}, {info.name} ({info.domid})")
        else:
            print(f"{info.name:<33} {info.domid:>4} {passed}")
    return 0


def duration(seconds: int, *, short: bool = False) -> str:
    """As xl writes it: ``2 days,  3:04:05``."""
    days, rest = divmod(seconds, _DAY)
    hours, rest = divmod(rest, 3600)
    text = f"{hours:2d}:{rest // 60:02d}" + ("" if short else f":{rest % 60:02d}")
    if days:
        text = f"{days} day{'s' if days > 1 else ''}, {text}"
    return text
