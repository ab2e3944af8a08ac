# SPDX-License-Identifier: GPL-2.0-or-later
"""A host for the tests of a file, a small kernel, and a domain's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from machine import Machine


@pytest.fixture(scope="module")
def kernel(lifecycle_kernel: Path) -> Path:
    return lifecycle_kernel


@pytest.fixture(scope="module")
def shared() -> Iterator[Machine]:
    with Machine() as machine:
        yield machine


@pytest.fixture
def machine(shared: Machine) -> Iterator[Machine]:
    yield shared
    for domid in shared.names():
        shared.do("destroy", str(domid))
    shared.until(lambda: not shared.leaks())


@pytest.fixture
def config(kernel: Path, shared: Machine) -> Path:
    path = shared.folder / "guest.cfg"
    path.write_text(f'name = "web"\nkernel = "{kernel}"\nmemory = 8\n')
    return path
