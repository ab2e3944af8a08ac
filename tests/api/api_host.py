# SPDX-License-Identifier: GPL-2.0-or-later
"""Folders of its own for a test that makes domains in this process's name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def own_host(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Not pytest's folder, whose name may be longer than a socket's path can be.
    with tempfile.TemporaryDirectory(prefix="pyxen-test-") as folder:
        monkeypatch.setenv("PYXEN_RUN", f"{folder}/run")
        monkeypatch.setenv("XDG_STATE_HOME", f"{folder}/state")
        yield
