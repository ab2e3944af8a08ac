# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian on either version of its grant table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from guest import StartGuest

pytestmark = [pytest.mark.guest, pytest.mark.slow]


@pytest.mark.parametrize("version", [1, 2])
def test_table_of_each_version(start_cloud: StartGuest, version: int, tmp_path: Path) -> None:
    """The console goes on: its page is granted by the first entry."""
    figures = tmp_path / "figures.json"
    guest = start_cloud(
        "--cmdline", f"console=hvc0 grant_table.version={version}", "--stats-json", str(figures)
    )
    guest.open_shell()
    log = guest.check("dmesg | grep -i grant")
    assert f"xen:grant_table: Grant tables using version {version} layout" in log
    assert "Grant table initialized" in log
    guest.send_line("poweroff -f")
    assert guest.wait() == 0
    operations = json.loads(figures.read_text())["operations"]
    assert operations.get("grant_table_op.get_status_frames", 0) == (version == 2)
