# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of xl that pyxen does not have yet, which say so."""

from __future__ import annotations

import argparse

from pyxen.errors import PyxenError

VERBS = (
    *("channel-list", "config-update", "debug-keys", "dmesg", "migrate"),
    *("migrate-receive", "remus", "restore", "resume", "save", "sched-credit"),
    *("sched-rtds", "suspend", "vm-list", "vncviewer"),
)


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare them; no help lists them."""
    for verb in VERBS:
        parser = verbs.add_parser(verb, parents=[common], add_help=False)
        parser.add_argument("words", nargs=argparse.REMAINDER)
        parser.set_defaults(execute=execute, verb=verb)


def execute(arguments: argparse.Namespace) -> int:
    """Raises PyxenError."""
    raise PyxenError(f"{arguments.verb}: pyxen cannot do this yet")
