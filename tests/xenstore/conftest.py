# SPDX-License-Identifier: GPL-2.0-or-later
"""A store, and clients with the rights of several domains."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from store_peer import Peer

from pyxen.xenstore import Xenstored


@pytest.fixture
def daemon() -> Xenstored:
    return Xenstored()


@pytest.fixture
def dom0(daemon: Xenstored) -> Peer:
    return Peer(daemon.connect())


@pytest.fixture
def guest(daemon: Xenstored, dom0: Peer) -> Callable[[int], Peer]:
    """Makes a client with a domain's rights, and with a directory of its own."""

    def make(domid: int) -> Peer:
        daemon.introduce(domid, 0, 1)
        home = f"/local/domain/{domid}"
        dom0.mkdir(home)
        dom0.set_permissions(home, [f"n{domid}"])
        connection = daemon.domains[domid].connection
        assert connection is not None
        return Peer(connection)

    return make
