# SPDX-License-Identifier: GPL-2.0-or-later
"""Without its compiled parts pyxen does the same: tests of what they do, on the .py files alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyxen

ROOT = Path(__file__).parent.parent
SOURCE = Path(pyxen.__file__).parent
TESTS = (
    "tests/hypervisor/test_traps.py",
    "tests/hypervisor/test_pagetables.py",
    "tests/hypervisor/test_hypercall_memory.py",
    "tests/engine/test_emulator.py",
)
# Arguments: where pyxen lies, then pytest's. A compiled module that was loaded is told.
RUN = """
import sys
import pytest
status = pytest.main(sys.argv[2:])
files = {module.__file__ for name, module in sys.modules.items() if name.startswith("pyxen.")}
wrong = [file for file in files if not (file.startswith(sys.argv[1]) and file.endswith(".py"))]
needed = [name for name in ("engine.emulator.engine", "hypervisor.pagetables", "hypervisor.traps")
          if f"pyxen.{name}" not in sys.modules]
sys.exit(f"loaded {wrong}, not loaded {needed}" if wrong or needed else status)
"""


def test_tests_pass_without_compiled_parts(tmp_path: Path) -> None:
    if not any(SOURCE.rglob("*.so")):
        pytest.skip("there are no compiled parts: the other tests have run without them already")
    copy = tmp_path / "pyxen"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("*.so", "*.pyx", "__pycache__"))
    command = [sys.executable, "-c", RUN, str(copy), "-q", "-p", "no:cacheprovider", *TESTS]
    # This path comes before that of the installed package.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
