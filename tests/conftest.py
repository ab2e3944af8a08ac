# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures that tests of several packages use."""

from __future__ import annotations

import pytest

from pyxen.errors import PyxenError
from pyxen.toolstack import images


def _image(name: str) -> images.Image:
    # In the user's own data folder, which `make demo` uses too. Pulling holds a lock, and returns
    # what is there already: parallel test processes download once.
    try:
        return images.pull(name)
    except PyxenError as error:
        pytest.skip(f"no image {name}: {error}")


@pytest.fixture(scope="session")
def debian_image() -> images.Image:
    """Debian's generic kernel with pyxen's initramfs."""
    return _image("debian")


@pytest.fixture(scope="session")
def debian_cloud_image() -> images.Image:
    """Debian's cloud kernel with pyxen's initramfs."""
    return _image("debian-cloud")
