# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen xenstored``: a xenstore of its own on a unix socket, in the foreground."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "xenstored",
        parents=[common],
        help="run a xenstore alone, on a unix socket",
        description="Run a xenstore without a machine around it, until it is interrupted. "
        "Programs that use xenstore find it by the variable XENSTORED_PATH.",
    )
    parser.add_argument(
        "--socket",
        type=Path,
        metavar="PATH",
        help="where to listen (default: $XENSTORED_PATH, else $XENSTORED_RUNDIR/socket, else "
        "/run/xenstored/socket for root and pyxen/xenstored/socket in $XDG_RUNTIME_DIR for others)",
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; 0 then."""
    import asyncio

    from pyxen.errors import PyxenError
    from pyxen.xenstore.address import default_socket

    path: Path = arguments.socket or default_socket()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PyxenError(f"{path.parent}: {error.strerror or error}") from None
    asyncio.run(_serve(path))
    return 0


async def _serve(path: Path) -> None:
    import asyncio
    import signal

    from pyxen.xenstore import SocketServer, Xenstored

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server = SocketServer(Xenstored(), path)
    await server.start()
    try:
        print(f"XENSTORED_PATH={path}", flush=True)
        await stopped.wait()
    finally:
        await server.close()
