# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen completion``: scripts that teach a shell our verbs, their options and arguments.

The scripts hold all that stays the same. What they ask for at a key is the names of domains, which
are read from the folders of domains: no domain is waited for.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shtab import CompleteType

SHELLS = ("bash", "zsh", "fish")
_DOMAINS = "domains"


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "completion",
        parents=[common],
        help="print what teaches a shell to complete",
        description="Print a script with which a shell completes verbs, options and the names of "
        "domains and files: eval \"$(pyxen completion bash)\". With 'domains', print the names of "
        "domains, which is what the scripts call.",
    )
    parser.add_argument("shell", choices=(*SHELLS, _DOMAINS))
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Print it."""
    if arguments.shell == _DOMAINS:
        from pyxen.toolstack.registry import Registry

        for entry in Registry().entries():
            print(entry.record.name)
        return 0
    import shtab

    from pyxen.cli.main import VERBS, make_parser

    parser = make_parser(VERBS)
    completed_by = _completions()
    for action in _actions(parser):
        if action.metavar in completed_by:
            action.complete = completed_by[action.metavar]  # type: ignore[attr-defined]
    print(shtab.complete(parser, arguments.shell))
    return 0


def _completions() -> dict[Any, CompleteType]:
    """How to complete an argument, by what it is called in the help."""
    import shtab

    domains = shtab.cmd(f"pyxen completion {_DOMAINS} 2>/dev/null")
    names = ("FILE", "FILE | NAME=VALUE", "PATH", "LOG")
    return {"Domain": domains, "DomainName": domains, **dict.fromkeys(names, shtab.FILE)}


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
