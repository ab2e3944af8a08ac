# SPDX-License-Identifier: GPL-2.0-or-later
"""The command ``pyxen``: finds the verb, and turns what went wrong into one line and a status.

Each verb is a module with ``add_parser(verbs, common)``, which declares its arguments (``common``
are those that all have) and sets ``execute``: the function that takes the parsed arguments, runs
the verb and returns the exit status; and ``can_dry_run``, if it heeds ``-N``. Whatever is slow to
import is imported in ``execute``: the start-up time is felt at every call.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import sys
from collections.abc import Sequence

from pyxen import __version__
from pyxen.errors import PyxenError

LOG_LEVELS = ("debug", "info", "warning", "error")
VERBS = (
    *("run", "create", "list", "console", "shutdown", "reboot", "destroy", "pause", "unpause"),
    *("rename", "config-update", "top", "uptime", "domid", "domname", "vm-list", "sysrq"),
    *("trigger", "dump-core", "vcpu-list", "vcpu-set", "vcpu-pin", "sched-credit2"),
    *("mem-set", "mem-max", "claims", "block-attach", "block-detach", "block-list"),
    *("network-attach", "network-detach", "network-list", "channel-list"),
    *("info", "dmesg", "debug-keys", "metrics", "image", "xenstored", "completion", "help"),
)
"""In the order of the help. The module has the verb's name."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments without the program's name; those of the process by default.

    Returns:
        The exit status. Errors of usage leave through ``SystemExit`` with status 2.
    """
    _open_standard_descriptors()
    arguments = _parse(argv)
    _set_up_log(arguments.log_level)
    try:
        if arguments.dry_run and not arguments.can_dry_run:
            raise PyxenError("command does not implement -N (dryrun) option")
        status: int = arguments.execute(arguments)
        sys.stdout.flush()
        return status
    except PyxenError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        _forget_standard_output()
        return 128 + signal.SIGPIPE
    except Exception as error:
        if arguments.log_level == "debug":
            raise
        return _fail(
            f"this is a bug in pyxen ({type(error).__name__}: {_one_line(error)}); "
            "--log-level debug shows where"
        )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    words = sys.argv[1:] if argv is None else argv
    # The verb that is called alone, as to declare all of them takes longer than most verbs do.
    called = next((word for word in words if not word.startswith("-")), "")
    parser = make_parser((called,) if called in VERBS else (*VERBS, "missing"))
    if called and called not in VERBS:
        from pyxen.cli import missing

        if called not in missing.VERBS:
            parser.error(f"there is no verb {called}; `pyxen help` lists those that there are")
    arguments, rest = parser.parse_known_args(words)
    # argparse does not see words again that come behind an option.
    if rest and (not hasattr(arguments, "words") or any(word[0] == "-" for word in rest if word)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.words += rest
    return arguments


def make_parser(names: Sequence[str]) -> argparse.ArgumentParser:
    """What parses these verbs."""
    parser = argparse.ArgumentParser(
        prog="pyxen",
        description="Run unmodified Xen guests without the Xen hypervisor.",
    )
    parser.add_argument("--version", action="version", version=f"pyxen {__version__}")
    parser.add_argument(
        "-N", action="store_true", dest="dry_run", help="show what would be done, and do nothing"
    )
    for option in ("-v", "-f", "-t", "-T"):
        parser.add_argument(option, action="store_true", help=argparse.SUPPRESS, dest="of_xl")
    parser.set_defaults(can_dry_run=False)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--log-level",
        choices=LOG_LEVELS,
        default="warning",
        help="what to report on standard error (default: %(default)s)",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for name in names:
        module = importlib.import_module(f"pyxen.cli.{name.replace('-', '_')}")
        module.add_parser(verbs, common)
    return parser


def _set_up_log(level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("pyxen: %(levelname)s: %(message)s"))
    if sys.stderr.isatty():
        # The console's raw mode makes a bare line feed go down without going back.
        handler.terminator = "\r\n"
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _open_standard_descriptors() -> None:
    """Open /dev/null for each of the descriptors 0, 1 and 2 that we were started without.

    Else a file opened later, the guest's memory perhaps, would get the number and the output.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _forget_standard_output() -> None:
    """Keep the interpreter from complaining at its end about the pipe that has no reader."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    print(f"pyxen: {message}", file=sys.stderr)
    return 1


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
