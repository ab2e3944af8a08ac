# SPDX-License-Identifier: GPL-2.0-or-later
"""Without compiled parts pyxen does the same: the tests of what they do on the .py files."""

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
TESTS = ("tests/hypervisor", "tests/engine", "tests/backends")
# Arguments: where pyxen lies, the modules with a compiled form, then pytest's. A compiled module
# that was loaded is told.
RUN = """
import sys
import pytest
status = pytest.main(sys.argv[3:])
files = {module.__file__ for name, module in sys.modules.items() if name.startswith("pyxen.")}
wrong = [file for file in files if not (file.startswith(sys.argv[1]) and file.endswith(".py"))]
needed = [name for name in sys.argv[2].split(",") if name not in sys.modules]
sys.exit(f"loaded {wrong}, not loaded {needed}" if wrong or needed else status)
"""


def test_tests_pass_without_compiled_parts(tmp_path: Path) -> None:
    if not any(SOURCE.rglob("*.so")):
        pytest.skip("there are no compiled parts: the other tests have run without them already")
    copy = tmp_path / "pyxen"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("*.so", "*.pyx", "__pycache__"))
    # What has a .pyx alone is absent without its compiled form.
    names = [".".join(path.relative_to(SOURCE.parent).parts) for path in SOURCE.rglob("*.so")]
    modules = [name.partition(".cpython")[0] for name in names if ".callbacks." not in name]
    arguments = [str(copy), ",".join(modules), "-q", "-p", "no:cacheprovider", *TESTS]
    command = [sys.executable, "-c", RUN, *arguments]
    # This path comes before that of the installed package.
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
