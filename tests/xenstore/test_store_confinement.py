# SPDX-License-Identifier: GPL-2.0-or-later
"""A client of domain 0 that is confined to the nodes of a domain."""

from __future__ import annotations

import pytest
from store_peer import Peer, refused

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import Xenstored

PLACES = ("/local/domain/3", "/vm/uuid-3", "/local/domain/0/backend/*/3")
OUTSIDE = (
    "/local/domain/4/name",
    "/local/domain/33",
    "/local/domain",
    "/local/domain/0/backend/vbd/4/0",
    "/local/domain/0/backend/vbd",
    "backend/vbd/4",
    "/vm",
    "/",
    "/tool",
)


@pytest.fixture
def confined(dom0: Peer) -> Peer:
    for path in (*OUTSIDE[:5], "/local/domain/3", "/local/domain/0/backend/vbd/3"):
        dom0.call(abi.XS_MKDIR, path)
    assert dom0.call(abi.XS_CONTROL, "confine", "3", *PLACES) == ["OK"]
    return dom0


def test_its_own_nodes_are_its_own(confined: Peer) -> None:
    for path in (
        "/local/domain/3",
        "/local/domain/3/a/b",
        "/vm/uuid-3/name",
        "/local/domain/0/backend/vif/3/0",
        "backend/vbd/3/0/state",
    ):
        confined.call(abi.XS_MKDIR, path)
        confined.call(abi.XS_WRITE, path, "value")
        confined.call(abi.XS_SET_PERMS, path, "n0", "r3")
        assert confined.call(abi.XS_GET_PERMS, path) == ["n0", "r3"]
        confined.call(abi.XS_RM, path)
    confined.call(abi.XS_INTRODUCE, "3", "5", "1")
    assert confined.call(abi.XS_IS_DOMAIN_INTRODUCED, "3") == ["T"]
    confined.call(abi.XS_CONTROL, "guest-stopped", "3")


def test_it_may_look_at_what_is_above(confined: Peer) -> None:
    assert confined.call(abi.XS_DIRECTORY, "/local/domain/0/backend") == ["vbd"]
    assert "3" in confined.call(abi.XS_DIRECTORY, "/local/domain/0/backend/vbd")
    confined.call(abi.XS_READ, "/local")


@pytest.mark.parametrize("path", OUTSIDE)
def test_it_changes_nothing_else(confined: Peer, path: str) -> None:
    for kind in (abi.XS_WRITE, abi.XS_MKDIR, abi.XS_RM, abi.XS_SET_PERMS):
        with refused("EACCES"):
            confined.call(kind, path, "n3")


def test_it_sees_nothing_of_others(confined: Peer) -> None:
    for path in (OUTSIDE[0], OUTSIDE[1], OUTSIDE[3], "/tool", "@releaseDomain"):
        for kind in (abi.XS_READ, abi.XS_DIRECTORY, abi.XS_GET_PERMS, abi.XS_WATCH):
            with refused("EACCES"):
                confined.call(kind, path, "token")


@pytest.mark.parametrize(
    "words",
    (
        ("confine", "3", "/"),
        ("live-update", "-f", "/bin/true"),
        ("logfile", "/tmp/none"),
        ("memreport", "/tmp/none"),
        ("quota", "set", "nodes", "1"),
        ("guest-stopped", "4"),
        ("guest-connect", "4"),
        ("guest-connect", "3", "/local/domain/4"),
        ("guest-connect",),
        (),
    ),
)
def test_it_controls_nothing(confined: Peer, words: tuple[str, ...]) -> None:
    with refused("EACCES"):
        confined.call(abi.XS_CONTROL, *words)


def test_it_has_no_say_in_other_domains(confined: Peer, daemon: Xenstored) -> None:
    daemon.introduce(4, 5, 1)
    for kind, strings in (
        (abi.XS_INTRODUCE, ("4", "5", "1")),
        (abi.XS_RELEASE, ("4",)),
        (abi.XS_RESUME, ("4",)),
        (abi.XS_SET_TARGET, ("3", "4")),
        (26, ("4", "nodes", "1")),
        (24, ("4", "0")),
    ):
        with refused("EACCES"):
            confined.call(kind, *strings)
