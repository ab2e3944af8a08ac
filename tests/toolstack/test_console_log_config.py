# SPDX-License-Identifier: GPL-2.0-or-later
"""How users ask for a log of the console."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyxen.errors import PyxenError
from pyxen.toolstack.console_log import ConsoleLogConfig, parse_console_log

LOG = Path("web.log")


@pytest.mark.parametrize(
    ("spec", "config"),
    (
        ("web.log", ConsoleLogConfig(LOG)),
        ("web.log,timestamp", ConsoleLogConfig(LOG, timestamps=True)),
        ("web.log,limit=4096", ConsoleLogConfig(LOG, limit=4096)),
        (
            "web.log, keep=9, limit=10M, timestamp",
            ConsoleLogConfig(LOG, timestamps=True, limit=10 << 20, kept=9),
        ),
        ("web.log,limit=1G,keep=0", ConsoleLogConfig(LOG, limit=1 << 30, kept=0)),
    ),
)
def test_what_users_write(spec: str, config: ConsoleLogConfig) -> None:
    assert parse_console_log(spec) == config
    assert parse_console_log(str(config)) == config


@pytest.mark.parametrize(
    ("spec", "wrong"),
    (
        ("web.log,timestamps", "'timestamps' is none of"),
        ("web.log,limit=0", "'limit=0' is none of"),
        ("web.log,limit=10MB", "'limit=10MB' is none of"),
        ("web.log,keep=-1", "'keep=-1' is none of"),
        ("web.log,keep=1001", "'keep=1001' is none of"),
        (",timestamp", "no file is given"),
    ),
)
def test_what_is_refused(spec: str, wrong: str) -> None:
    with pytest.raises(PyxenError) as caught:
        parse_console_log(spec)
    assert str(caught.value).startswith(f"console log {spec!r}: {wrong}")


def test_it_is_opened_as_it_says(tmp_path: Path) -> None:
    file = ConsoleLogConfig(tmp_path / "web.log", timestamps=True, limit=10, kept=1).open()
    file.write(b"a\n")
    file.write(b"b\n")
    file.close()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["web.log", "web.log.1"]
    assert (tmp_path / "web.log").read_bytes().endswith(b"] b\n")
