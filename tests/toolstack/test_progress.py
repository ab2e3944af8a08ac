# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import io
import subprocess
import sys

import pytest

from pyxen.toolstack.progress import BarProgress, PlainProgress, SilentProgress, progress_on


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_for_each_step() -> None:
    log = io.StringIO()
    progress = progress_on(log)

    with progress.step("kernel", total=70_550_672) as report:
        report(1000)
    with progress.step("initramfs"):
        pass

    assert isinstance(progress, PlainProgress)
    assert log.getvalue() == "kernel (70.6 MB)\ninitramfs\n"


@pytest.mark.parametrize("total", (70_550_672, None))
def test_a_terminal_gets_a_bar(total: int | None) -> None:
    terminal = Terminal()
    progress = progress_on(terminal)

    with progress.step("kernel", total) as report:
        report(1000)

    assert isinstance(progress, BarProgress)
    assert "kernel" in terminal.getvalue()
    assert "\N{BOX DRAWINGS HEAVY HORIZONTAL}" in terminal.getvalue()


def test_silence() -> None:
    with SilentProgress().step("kernel", 10) as report:
        report(5)


def test_rich_is_loaded_by_a_bar_only() -> None:
    program = (
        "import sys; from pyxen.toolstack import images, progress; "
        "progress.progress_on(open('/dev/null', 'w')); "
        "sys.exit('rich' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
