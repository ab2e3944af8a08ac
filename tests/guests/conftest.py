# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tests that boot real kernels share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
from guest import Guest, StartGuest

from pyxen.toolstack import images


@pytest.fixture
def start_guest() -> Iterator[StartGuest]:
    """Start `pyxen run` with these arguments, see `Guest`; what still runs at the end is killed."""
    with contextlib.ExitStack() as started:
        yield lambda *arguments, **options: started.enter_context(Guest(*arguments, **options))


@pytest.fixture
def start_cloud(start_guest: StartGuest, debian_cloud_image: images.Image) -> StartGuest:
    """The same for Debian's cloud kernel: it boots a little faster than the generic one."""
    return lambda *arguments, **options: start_guest(
        "--image", debian_cloud_image.name, *arguments, **options
    )
