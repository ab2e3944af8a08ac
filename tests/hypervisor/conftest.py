# SPDX-License-Identifier: GPL-2.0-or-later
"""A small domain for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from small_domain import SmallDomain, small_domain


@pytest.fixture
def guest() -> Iterator[SmallDomain]:
    """One vCPU, and a clock that stands still."""
    with small_domain() as guest:
        yield guest


@pytest.fixture
def guest2() -> Iterator[SmallDomain]:
    """Two vCPUs, of which the first is up."""
    with small_domain(2) as guest:
        yield guest
