# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest's clocks beside the host's."""

from __future__ import annotations

import re
import time

import pytest
from guest import StartGuest

pytestmark = [pytest.mark.guest, pytest.mark.slow]


def test_time_passes_as_on_the_host(start_cloud: StartGuest) -> None:
    guest = start_cloud()
    guest.open_shell()

    # A clock that runs fast ends the sleep early; one that runs slow cannot be told from a busy
    # machine unless it is far off.
    begin = time.monotonic()
    guest.check("sleep 3")
    assert 2.97 <= time.monotonic() - begin < 6

    # The uptime that the guest saw pass lies between what passed inside and around the two reads.
    outer, first, inner = (
        time.monotonic(),
        _uptime(guest.check("cat /proc/uptime")),
        time.monotonic(),
    )
    time.sleep(3)
    least = time.monotonic() - inner
    second = _uptime(guest.check("cat /proc/uptime"))
    most = time.monotonic() - outer
    # /proc/uptime has hundredths.
    assert least - 0.02 <= second - first <= most + 0.02

    # Linux loses ticks until it has switched to Xen's clock, a second after it has set its date:
    # a few tenths here, more on a busy machine.
    before = time.time()
    date = guest.check("adjtimex | grep time.tv")
    after = time.time()
    seconds, microseconds = map(int, re.findall(r": +(\d+)", date))
    assert before - 2 <= seconds + microseconds / 1e6 <= after + 0.05


def _uptime(text: str) -> float:
    return float(text.split(maxsplit=1)[0])
