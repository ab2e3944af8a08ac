# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen config-update``: another configuration for a domain, from its next restart on."""

from __future__ import annotations

import argparse
import json
import sys

from msgspec.structs import replace

from pyxen.cli.create import read_config

WARNING = (
    "WARNING: what changes while a domain runs is kept over its restarts anyway; better avoid "
    "this command"
)


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "config-update",
        parents=[common],
        help="change the configuration that a domain is restarted with",
        description="Give a running domain another configuration. It holds from the domain's next "
        "restart on, in place of all that has changed until then.",
    )
    parser.add_argument("domain", metavar="Domain", help="number or name")
    parser.add_argument(
        "words", nargs="*", metavar="FILE | NAME=VALUE", help="the configuration, and settings"
    )
    parser.add_argument("-f", "--defconfig", metavar="FILE", help="the configuration file")
    parser.add_argument("-d", action="store_true", dest="debug", help="show the configuration")
    parser.add_argument("-q", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(execute=execute, can_dry_run=True, quiet=True, usage_error=parser.error)


def execute(arguments: argparse.Namespace) -> int:
    """Hand it over; with ``-N`` only show it."""
    from pyxen.toolstack.config import to_json
    from pyxen.toolstack.control.messages import UpdateConfig
    from pyxen.toolstack.create import check_files, complete
    from pyxen.toolstack.domains import ask, find

    print(WARNING, file=sys.stderr)
    domid = find(arguments.domain).record.domid
    config = read_config(arguments)
    if arguments.debug or arguments.dry_run:
        print(json.dumps({"domid": None, "config": to_json(config)}, indent=4))
    if arguments.dry_run:
        return 0
    print(f"setting dom{domid} configuration", file=sys.stderr)
    check_files(config)
    ask(str(domid), UpdateConfig(to_json(replace(complete(config), uuid=config.uuid))))
    return 0
