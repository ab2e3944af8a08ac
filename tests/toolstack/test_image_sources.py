# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of apt's sources an image is made from, and which of them its guest gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyxen.toolstack.images.packages import Apt, AptError
from pyxen.toolstack.images.sources import Source, machine_sources, reachable_from_guest

# What `apt-get indextargets` says, in the order of the format that is asked for.
BOOKWORM = "http://deb.example/debian/|bookworm|main|Debian|bookworm|amd64"
TARGETS = f"""\
https://other.example/apt|nodistro|main|Other|nodistro|amd64
{BOOKWORM}
http://deb.example/debian/|bookworm|contrib|Debian|bookworm|amd64
http://deb.example/debian/|bookworm|main|Debian|bookworm|i386
http://deb.example/debian/|stable-updates|main|Debian|bookworm-updates|amd64
file:/srv/security/|bookworm-security|main|Debian|bookworm-security|amd64
http://deb.example/debian/|trixie|main|Debian|trixie|amd64
"""
MAIN = Source("http://deb.example/debian", "bookworm", ("main", "contrib"))
UPDATES = Source("http://deb.example/debian", "stable-updates", ("main",))
SECURITY = Source("file:/srv/security", "bookworm-security", ("main",))


@pytest.fixture
def targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with what the imitated apt-get prints; `proxy` beside it has a proxy."""
    (tmp_path / "apt-get").write_text(f"#!/bin/sh\ncat {tmp_path}/targets\n")
    (tmp_path / "apt-config").write_text(
        f"#!/bin/sh\n[ ! -e {tmp_path}/proxy ] || echo \"value='$(cat {tmp_path}/proxy)'\"\n"
    )
    for name in ("apt-get", "apt-config"):
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "targets").write_text(TARGETS)
    return tmp_path / "targets"


def test_the_sources_of_one_debian_release_are_taken(targets: Path) -> None:
    sources = machine_sources(Apt())

    assert sources.codename == "bookworm"
    assert sources.here == (MAIN, UPDATES, SECURITY)
    assert str(MAIN) == "deb http://deb.example/debian bookworm main contrib"
    assert sources.proxies == ()


def test_a_guest_gets_those_that_it_can_reach(targets: Path) -> None:
    assert machine_sources(Apt()).guest == (MAIN, UPDATES)


def test_a_guest_gets_none_where_it_can_reach_none(targets: Path) -> None:
    targets.write_text(BOOKWORM.replace("deb.example", "127.0.0.1:8000"))
    sources = machine_sources(Apt())

    assert [source.uri for source in sources.here] == ["http://127.0.0.1:8000/debian"]
    assert sources.guest == ()


@pytest.mark.parametrize(
    ("proxy", "lines"),
    [
        (
            "http://cache.example:3142",
            (
                'Acquire::http::Proxy "http://cache.example:3142";',
                'Acquire::https::Proxy "http://cache.example:3142";',
            ),
        ),
        ("http://127.0.0.1:3142", ()),
        ("http://localhost:3142", ()),
        ("DIRECT", ()),
    ],
)
def test_a_proxy_is_handed_on_if_it_is_not_on_the_loopback(
    proxy: str, lines: tuple[str, ...], targets: Path
) -> None:
    targets.with_name("proxy").write_text(proxy)
    assert machine_sources(Apt()).proxies == lines


def test_a_proxy_of_the_environment_too(targets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://cache.example:3142/")

    assert machine_sources(Apt()).proxies == ('Acquire::http::Proxy "http://cache.example:3142/";',)


@pytest.mark.parametrize(
    "text", ("", "http://deb.example/debian/|bookworm|main||$(CODENAME)|amd64\n")
)
def test_no_lists_of_debians_are_told(text: str, targets: Path) -> None:
    targets.write_text(text)
    with pytest.raises(AptError, match="no lists of Debian's packages"):
        machine_sources(Apt())


@pytest.mark.parametrize(
    "address", ("http://[::1]/", "http://127.1.2.3/", "http://[/", "cdrom:x", "http://", "file:/x")
)
def test_unreachable(address: str) -> None:
    assert not reachable_from_guest(address)
