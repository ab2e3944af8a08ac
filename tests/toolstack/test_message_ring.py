# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypervisor's messages: what is appended, dropped, cleared, and by several processes."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pyxen.errors import PyxenError
from pyxen.toolstack.message_ring import LIMIT, MessageRing, RingHandler

WRITER = """
import sys
from pathlib import Path
from pyxen.toolstack.message_ring import MessageRing
ring = MessageRing(Path(sys.argv[1]))
for number in range(2500):
    ring.append([f"{sys.argv[2]} {number} {'x' * 50}", "second"])
"""


def test_lines_as_xen_shows_them(tmp_path: Path) -> None:
    ring = MessageRing(tmp_path)
    assert ring.read() == ""
    ring.append(["one", "two\x1b[2J"])
    first, second = ring.read().splitlines()
    assert re.fullmatch(r"\(XEN\) \[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\] one", first)
    assert second.endswith(r"] two\x1b[2J")
    assert ring.path.stat().st_mode & 0o777 == 0o600


def test_cleared_behind_reading(tmp_path: Path) -> None:
    ring = MessageRing(tmp_path)
    ring.append(["one"])
    assert ring.read(clear=True).endswith("] one\n")
    assert ring.read() == ""
    ring.append(["two"])
    assert len(ring.read().splitlines()) == 1


def test_the_oldest_give_way_to_several_writers(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), name]) for name in "ab"
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0]
    ring = MessageRing(tmp_path)
    lines = ring.read().splitlines()
    assert LIMIT // 2 < ring.path.stat().st_size <= LIMIT
    # What belongs together stands together, and of each writer there are the newest, in order.
    pattern = re.compile(r"\(XEN\) \[[-: \d]{19}\] (?:([ab]) (\d+) x{50}|second)")
    matches = [pattern.fullmatch(line) for line in lines]
    assert all(matches), lines
    assert [
        line for line, match in zip(lines[1:], matches, strict=False) if match and match[1]
    ] == [line for line in lines[1:] if line.endswith("second")]
    for name in "ab":
        numbers = [int(match[2]) for match in matches if match and match[1] == name]
        if numbers:
            assert numbers == list(range(numbers[0], 2500))


def test_what_is_logged(tmp_path: Path) -> None:
    ring, domid = MessageRing(tmp_path), 3
    logger = logging.Logger("of this test")
    logger.addHandler(RingHandler(ring, lambda: domid))
    logger.debug("nothing")
    logger.info("first")
    domid = 4
    logger.error("report\n  of two lines")
    assert [line.partition("] ")[2] for line in ring.read().splitlines()] == [
        "d3 first",
        "d4 report",
        "d4   of two lines",
    ]


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "dmesg").mkdir()
    with pytest.raises(PyxenError, match="dmesg: Is a directory"):
        MessageRing(tmp_path).read()
