# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures that tests of several packages use."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pyxen.errors import PyxenError
from pyxen.toolstack import images

if TYPE_CHECKING:
    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

SOURCE = Path(__file__).parent.parent / "src"
ONE_PROCESS = ("test_guest_stress.py", "test_guest_xencheck.py")
"""Files whose tests share guests: with pytest-xdist, one process runs all of a file."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling:
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file.endswith(ONE_PROCESS) else nodeid

    return Scheduling(config, log)


def pytest_sessionstart() -> None:
    # Python takes a compiled module before the .py: the tests would test what is no longer there.
    stale = [
        str(source.relative_to(SOURCE))
        for built in sorted(SOURCE.rglob("*.so"))
        for suffix in (".py", ".pyx", ".pxd")
        if (source := built.with_name(built.name.partition(".")[0] + suffix)).exists()
        and source.stat().st_mtime > built.stat().st_mtime
    ]
    if stale:
        pytest.exit(
            f"compiled parts are older than their sources: run `make build` ({', '.join(stale)})",
            pytest.ExitCode.USAGE_ERROR,
        )


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
