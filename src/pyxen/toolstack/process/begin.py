# SPDX-License-Identifier: GPL-2.0-or-later
"""The order of a domain's process, and what it makes of it."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import sys
from typing import Any, Final

from pyxen.errors import PyxenError
from pyxen.toolstack.broker.process import start_broker
from pyxen.toolstack.config import from_json
from pyxen.toolstack.process.domain_process import DomainProcess
from pyxen.toolstack.process.report import Report

log = logging.getLogger("pyxen")

_FIRST_FREE: Final = 3
"""Descriptors below are standard input, output and error."""


def begin() -> int:
    """Wait for the order, and do it. Returns the exit status of the process."""
    report = Report(fcntl.fcntl(1, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE))
    try:
        order = json.load(sys.stdin)
    except ValueError:  # there is none: whoever wanted the domain wants it no more, or was killed
        return 1
    try:
        _set_up_log(order)
    except PyxenError as error:  # there is nothing yet in which it could be noted as well
        report.failed(str(error))
        return 1
    try:
        _live(order, report)
    except PyxenError as error:
        log.error("%s", error)
        report.failed(str(error))
        return 1
    except Exception as error:
        log.exception("the domain's process failed")
        text = " ".join(str(error).split())
        report.failed(f"this is a bug in pyxen ({type(error).__name__}: {text})")
        return 1
    return 0


def _set_up_log(order: dict[str, Any]) -> None:
    """From now on nothing is read from its starter's terminal or written there."""
    path = order["log"]
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PyxenError(f"{path}: {error.strerror}") from None
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for source, target in ((nothing, 0), (file, 1), (file, 2)):
        os.dup2(source, target)
        os.set_inheritable(target, True)  # dup2 does nothing where they are the same
    for fd in (nothing, file):
        if fd >= _FIRST_FREE:  # a starter without standard error has left 2 to one of them
            os.close(fd)
    sys.stderr = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    logging.basicConfig(
        level=order["log_level"].upper(),
        format="%(asctime)s %(levelname)s: %(message)s",
        stream=sys.stderr,
    )


def _live(order: dict[str, Any], report: Report) -> None:
    config = from_json(order["config"])
    broker = start_broker(config, [report.fd])
    DomainProcess(
        config, broker, report, paused=order["paused"], restarted=order["restarted"]
    ).run()
