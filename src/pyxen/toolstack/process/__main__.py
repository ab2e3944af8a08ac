# SPDX-License-Identifier: GPL-2.0-or-later
"""The beginning of a domain's process.

It is started by ``create.spawn`` with an order on its standard input and a pipe for its report,
whose descriptor is its argument. It has a session of its own, and leaves its starter at once, so
that nobody has to wait for its end. What it writes to standard error goes to the domain's log.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys

from pyxen.errors import PyxenError
from pyxen.toolstack.config import from_json
from pyxen.toolstack.process.report import Report


def main() -> int:
    if os.fork():
        os._exit(0)  # whoever waits for this process waits no more
    report = Report(int(sys.argv[1]))
    try:
        order = json.load(sys.stdin)
    except ValueError:  # whoever wanted the domain was killed before that was said
        return 1
    os.dup2(os.open(os.devnull, os.O_RDWR), 0)
    logging.basicConfig(
        level=order["log_level"].upper(),
        format="%(asctime)s %(levelname)s: %(message)s",
        stream=sys.stderr,
    )
    log = logging.getLogger("pyxen")
    try:
        # All that is slow to load is loaded behind the fork. Collections would make that a quarter
        # slower and find nothing. What is loaded stays: later ones need not look at it, and what is
        # not looked at stays memory that the broker shares.
        gc.disable()
        from pyxen.toolstack.broker.process import start_broker
        from pyxen.toolstack.process.domain_process import DomainProcess

        gc.freeze()
        gc.enable()
        config = from_json(order["config"])
        broker = start_broker(config, [report.fd])
        DomainProcess(
            config, broker, report, paused=order["paused"], restarted=order["restarted"]
        ).run()
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


if __name__ == "__main__":
    sys.exit(main())
