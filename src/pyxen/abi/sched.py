# SPDX-License-Identifier: GPL-2.0-or-later
"""Scheduler operations (public/sched.h).

By sched_op a vCPU gives up the processor for a moment (yield), sleeps until an event arrives
(block, which also unmasks events, so that none is missed in between) or until one of some ports
has an event or a time has come (poll). The domain ends itself by shutdown, with a reason for the
tools; a watchdog ends it if it does not come back in time.
"""

from __future__ import annotations

from typing import Final

from pyxen.abi.layout import Layout
from pyxen.abi.names import names_of

SCHEDOP_yield: Final = 0
SCHEDOP_block: Final = 1
SCHEDOP_shutdown: Final = 2
SCHEDOP_poll: Final = 3
SCHEDOP_remote_shutdown: Final = 4
SCHEDOP_shutdown_code: Final = 5
SCHEDOP_watchdog: Final = 6
SCHEDOP_pin_override: Final = 7

SCHEDOP_NAMES: Final[dict[int, str]] = names_of(globals(), "SCHEDOP_")

SHUTDOWN_poweroff: Final = 0
SHUTDOWN_reboot: Final = 1
SHUTDOWN_suspend: Final = 2
SHUTDOWN_crash: Final = 3
SHUTDOWN_watchdog: Final = 4
SHUTDOWN_soft_reset: Final = 5

SHUTDOWN_NAMES: Final[dict[int, str]] = names_of(globals(), "SHUTDOWN_")

SHUTDOWN_MAX: Final = SHUTDOWN_soft_reset

SCHED_SHUTDOWN: Final = Layout("sched_shutdown_t", ("reason", "I"))

# ports: address of nr_ports ports. timeout: system time in nanoseconds, 0 for none.
SCHED_POLL: Final = Layout(
    "sched_poll_t",
    ("ports", "Q"),
    ("nr_ports", "I"),
    ("timeout", "Q"),
)
SCHED_REMOTE_SHUTDOWN: Final = Layout(
    "sched_remote_shutdown_t",
    ("domain_id", "H"),
    ("reason", "I"),
)

# timeout in seconds.
SCHED_WATCHDOG: Final = Layout("sched_watchdog_t", ("id", "I"), ("timeout", "I"))
SCHED_PIN_OVERRIDE: Final = Layout("sched_pin_override_t", ("pcpu", "i"))
