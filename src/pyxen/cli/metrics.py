# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen metrics``: what domains use, for Prometheus."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from pyxen.errors import PyxenError

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

_LAST_PORT = 65535


def add_parser(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Declare the verb and its arguments."""
    parser = verbs.add_parser(
        "metrics",
        parents=[common],
        help="tell Prometheus what domains use",
        description="Write the metrics of all domains into a file, for the textfile collector of "
        "node_exporter, or serve them on the loopback interface until interrupted.",
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--file", metavar="FILE", help="write them once; the name ends in .prom")
    where.add_argument(
        "--port", type=_port, metavar="PORT", help="serve them on 127.0.0.1; 0 takes a free port"
    )
    parser.set_defaults(execute=execute)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= _LAST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r}: expected a number from 0 to {_LAST_PORT}")
    return int(text)


def execute(arguments: argparse.Namespace) -> int:
    """Write the file, or serve until SIGINT or SIGTERM."""
    from prometheus_client import CollectorRegistry, write_to_textfile

    from pyxen.toolstack.metrics import DomainCollector

    registry = CollectorRegistry()
    registry.register(DomainCollector())
    if arguments.port is not None:
        _serve(arguments.port, registry)
        return 0
    try:
        write_to_textfile(arguments.file, registry)
    except OSError as error:
        raise PyxenError(f"{arguments.file}: {error.strerror}") from None
    return 0


def _serve(port: int, registry: CollectorRegistry) -> None:
    import signal

    from prometheus_client import start_http_server

    ends = (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, ends)  # in all threads: they are waited for
    try:
        server, thread = start_http_server(port, "127.0.0.1", registry)
    except OSError as error:
        raise PyxenError(f"metrics: port {port}: {error.strerror}") from None
    print(f"http://127.0.0.1:{server.server_port}/metrics", flush=True)
    signal.sigwait(ends)
    server.shutdown()
    thread.join()
    server.server_close()
