# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen xenstored``: a xenstore of its own on a unix socket."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
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
    parser.add_argument(
        "--idle-exit",
        type=float,
        metavar="SECONDS",
        help="end when nobody has been connected for so long",
    )
    parser.add_argument(
        "--detach",
        type=Path,
        metavar="LOG",
        help="return when it listens, and go on in the background; messages go to this file",
    )
    parser.add_argument(
        "-U",
        "--live-update",
        action="store_true",
        help="go on with the state and the sockets of a server that has called this program",
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
    ready: Callable[[Path], None] = _print_path
    if arguments.live_update:
        ready = lambda path: None  # noqa: E731
    elif arguments.detach is not None:
        detached = _detach(arguments.detach)
        if isinstance(detached, int):
            return detached
        ready = detached
    asyncio.run(_serve(path.absolute(), arguments.live_update, arguments.idle_exit, ready))
    return 0


def _print_path(path: Path) -> None:
    print(f"XENSTORED_PATH={path}", flush=True)


def _detach(log_file: Path) -> int | Callable[[Path], None]:
    """Go on in the background. There, returns what is to be called when the socket is ready; in
    the process that was called, which waits for it, the exit status."""
    from pyxen.errors import PyxenError

    try:
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PyxenError(f"{log_file}: {error.strerror}") from None
    reading, writing = os.pipe()
    child = os.fork()
    if child:
        os.close(writing)
        with os.fdopen(reading) as file:
            if file.read():
                return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(reading)
    os.setsid()
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(log, 1)

    def ready(path: Path) -> None:
        os.dup2(log, 2)
        os.write(writing, b"ready")
        os.close(writing)
        os.close(log)

    return ready


async def _serve(
    path: Path, updated: bool, idle_exit: float | None, ready: Callable[[Path], None]
) -> None:
    import asyncio
    import signal

    from pyxen.xenstore import SocketServer, Xenstored

    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    server = SocketServer(Xenstored(), path)
    if updated:
        server.resume()
    else:
        await server.start()
    try:
        ready(path)
        if idle_exit is not None:
            idle = asyncio.create_task(server.close_when_idle(idle_exit))
            idle.add_done_callback(lambda _: stopped.set())
        await stopped.wait()
    finally:
        await server.close()
