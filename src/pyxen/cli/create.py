# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen create``: start a domain that outlives this command."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from pyxen.errors import PyxenError

if TYPE_CHECKING:
    from pyxen.toolstack.config import DomainConfig

EPILOG = """\
Settings are as in the file, quotes included, and come after it: memory=512 'name="web"'. The
configuration is that of xl, see xl.cfg(5); the file /dev/null is empty.
"""


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "create",
        parents=[common],
        help="start a domain in the background",
        description="Start a domain from a configuration file, in a process of its own.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "words", nargs="*", metavar="FILE | NAME=VALUE", help="the configuration, and settings"
    )
    parser.add_argument("-f", "--defconfig", metavar="FILE", help="the configuration file")
    parser.add_argument(
        "-c", action="store_true", dest="console", help="connect to the domain's console"
    )
    parser.add_argument("-p", action="store_true", dest="paused", help="leave it paused")
    parser.add_argument(
        "-n",
        "--dryrun",
        action="store_true",
        dest="dry_run",
        default=argparse.SUPPRESS,
        help="print the configuration as JSON and start nothing",
    )
    parser.add_argument("-q", "--quiet", action="store_true", help="do not tell which file is read")
    parser.add_argument(
        "-F", action="store_true", dest="foreground", help="wait until the domain has gone"
    )
    parser.add_argument(
        "-e", action="store_true", help="as for xl; does nothing: no process waits for the domain"
    )
    parser.add_argument("-d", action="store_true", dest="debug", help="show the configuration")
    parser.add_argument(
        *("-i", "--ignore-global-affinity-masks"), action="store_true", help=argparse.SUPPRESS
    )
    for option in (("-V", "--vncviewer"), ("-A", "--vncviewer-autopass")):
        parser.add_argument(*option, action="store_true", dest="vnc", help=argparse.SUPPRESS)
    parser.set_defaults(execute=execute, can_dry_run=True, usage_error=parser.error)


def execute(arguments: argparse.Namespace) -> int:
    """Start the domain; 0 when it runs, and with ``-F`` when it has gone."""
    from pyxen.toolstack.process.start import NewProcess

    if arguments.vnc:
        raise PyxenError("create: pyxen has no graphical displays, and so no VNC viewer")
    if arguments.dry_run:
        _show(read_config(arguments), sys.stdout)
        return 0
    waits = arguments.console or arguments.foreground
    with NewProcess() as process:  # it loads while we do
        from pyxen.toolstack.create import create

        config = read_config(arguments)
        if arguments.debug:
            _show(config, sys.stderr)
        domid = str(create(config, process, paused=arguments.paused or waits))
    return _follow(arguments, domid) if waits else 0


def _follow(arguments: argparse.Namespace, domid: str) -> int:
    """Show the console, or wait until the domain has gone."""
    from pyxen.toolstack.control.messages import Unpause
    from pyxen.toolstack.domains import End, ask, find

    def begin() -> None:
        if not arguments.paused:
            ask(domid, Unpause())

    if arguments.console:
        from pyxen.cli.console import show

        return show(domid, begin)
    with End(find(domid)) as end:
        begin()
        end.wait_gone()
    return 0


def read_config(arguments: argparse.Namespace) -> DomainConfig:
    """The configuration that is given by ``words`` and ``defconfig``; its notes are told."""
    from pyxen.toolstack.config import read_file

    files = [word for word in arguments.words if "=" not in word]
    files += [arguments.defconfig] if arguments.defconfig is not None else []
    if len(files) > 1:
        arguments.usage_error(f"there are several configuration files: {', '.join(files)}")
    if not files:
        raise PyxenError("no configuration file is given")
    if not arguments.quiet:
        print(f"Parsing config from {files[0]}", file=sys.stderr)
    settings = [word for word in arguments.words if "=" in word]
    reading = read_file(Path(files[0]), settings)
    for note in reading.notes:
        print(f"pyxen: {note}", file=sys.stderr)
    return reading.config


def _show(config: DomainConfig, output: TextIO) -> None:
    import json

    from pyxen.toolstack.config import to_json

    print(json.dumps(to_json(config), indent=4), file=output)
