# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices from the command line, over a reboot, which makes a new domain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from guest import StartGuest

pytestmark = [pytest.mark.guest, pytest.mark.slow]


def test_a_disk_outlives_a_reboot(start_cloud: StartGuest, tmp_path: Path) -> None:
    disk, figures = tmp_path / "disk.img", tmp_path / "figures.json"
    disk.write_bytes(bytes(4 << 20))
    guest = start_cloud("--disk", f"{disk},raw,xvda,rw", "--stats-json", figures)
    guest.boot()
    guest.check("echo hello-disk | dd of=/dev/xvda conv=fsync bs=512")
    guest.send_line("reboot -f")
    guest.open_shell()
    assert "hello-disk" in guest.check("head -c 10 /dev/xvda; echo")
    guest.send_line("poweroff -f")
    assert guest.wait() == 0
    assert disk.read_bytes().startswith(b"hello-disk\n")
    counters = json.loads(figures.read_text())["devices"]["vbd-51712"]
    assert counters["reads"] > 0
    assert counters["writes"] == 0  # these were the first domain's
