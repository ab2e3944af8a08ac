# SPDX-License-Identifier: GPL-2.0-or-later
"""A pytest plugin: guests as fixtures. pytest loads it where pyxen is installed.

``xen_domain`` starts domains that end with the test::

    def test_boots(xen_domain):
        domain = xen_domain(kernel="build/kernel.elf", memory=32)
        domain.console.expect("ready")
        assert domain.wait() == "poweroff"

Its arguments are those of ``pyxen.Domain``, i.e. the options of xl.cfg. When a test fails the
report shows the end of each console. ``xen_image`` is the function that finds an image of
``pyxen image list``, and fetches it first if need be; a test that cannot have it is skipped.

A marker says what a test cannot do without, ``@pytest.mark.xen_needs("compiler", "passt")``: it is
skipped with a reason where the machine lacks one of them. The names are the keys of ``NEEDS``.

Tests may run in parallel (pytest-xdist): each domain has a name of its own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

from pyxen.errors import PyxenError

if TYPE_CHECKING:
    from pyxen.api import Domain
    from pyxen.toolstack.images import Image

SHOWN: Final = 8000
"""So many characters of a console are shown of a test that fails."""
_DOMAINS: Final = pytest.StashKey[list["Domain"]]()


def _no_compiler() -> str | None:
    from pyxen.testing.kernels import BuildToolsMissing, check_build_tools

    try:
        check_build_tools()
    except BuildToolsMissing as missing:
        return str(missing)
    return None


def _no_program(name: str) -> Callable[[], str | None]:
    return lambda: None if shutil.which(name) else f"{name} is not installed"


def _no_root() -> str | None:
    return None if os.geteuid() == 0 else "only root can do it"


def _no_tun() -> str | None:
    return None if os.access("/dev/net/tun", os.R_OK | os.W_OK) else "no access to /dev/net/tun"


NEEDS: Final[dict[str, Callable[[], str | None]]] = {
    "compiler": _no_compiler,
    "passt": _no_program("passt"),
    "qemu-storage-daemon": _no_program("qemu-storage-daemon"),
    "root": _no_root,
    "tun": _no_tun,
}
"""What a test can need: why it cannot be had here, or None."""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"xen_needs(name, ...): skip the test where one of these is missing: {', '.join(NEEDS)}",
    )


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("xen_needs"):
        for name in marker.args:
            if name not in NEEDS:
                raise pytest.UsageError(f"xen_needs: {name!r} is none of {', '.join(NEEDS)}")
            missing = NEEDS[name]()
            if missing is not None:
                pytest.skip(missing)


@pytest.fixture
def xen_domain(request: pytest.FixtureRequest) -> Iterator[Callable[..., Domain]]:
    """Start a domain: ``xen_domain(file=None, *, paused=False, **options)`` as ``pyxen.Domain``."""
    from pyxen.api import Domain

    domains: list[Domain] = request.node.stash.setdefault(_DOMAINS, [])

    def start(file: str | os.PathLike[str] | None = None, **options: Any) -> Domain:
        domain = Domain(file, **options)
        domain.start()
        domains.append(domain)
        return domain

    yield start
    for domain in domains:
        domain.destroy()
        domain.close()


@pytest.fixture(scope="session")
def xen_image() -> Callable[[str], Image]:
    """An image by its name, with ``kernel`` and ``ramdisk``."""
    from pyxen.toolstack import images

    def find(name: str) -> Image:
        try:
            return images.pull_image(name)
        except PyxenError as error:
            pytest.skip(f"no image {name}: {error}")

    return find


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call" and report.failed:
        for domain in item.stash.get(_DOMAINS, []):
            text = domain.console.text
            report.sections.append((f"console of domain {domain.name}", text[-SHOWN:]))
    return report
