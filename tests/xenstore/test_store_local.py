# SPDX-License-Identifier: GPL-2.0-or-later
"""The client in the process of the store."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from store_peer import refused

from pyxen.xenstore import LocalClient, Xenstored


@pytest.fixture
def client(daemon: Xenstored) -> LocalClient:
    return LocalClient(daemon)


def test_nodes(client: LocalClient) -> None:
    client.write("/a/b", "x")
    assert client.read("/a/b") == b"x"
    assert client.directory("/a") == ["b"]
    client.remove("/a")
    assert not client.exists("/a")
    with refused("ENOENT"):
        client.read("/a")
    with refused("EINVAL"):
        client.write("/a\0b", "x")
    with refused("EINVAL"):
        client.read("/\u20ac")
    with refused("E2BIG"):
        client.write("/a", b"x" * 4096)


def test_many_nodes_at_once(client: LocalClient) -> None:
    seen = []
    client.watch("/d", lambda path: seen.append((path, client.exists("/d/b"))))
    client.write_many({"/d/a": "1", "/d/b": b"2"})
    assert seen == [("/d", False), ("/d/a", True), ("/d/b", True)]
    with refused("EINVAL"):
        client.write_many({"/d/c": "1", "/d//": "2"})
    assert client.directory("/d") == ["a", "b"]
    assert not client._connection.transactions


def test_callbacks_may_make_requests_and_cause_events(client: LocalClient) -> None:
    seen = []

    def heard(path: str) -> None:
        seen.append(path)
        if client.exists("/state") and client.read("/state") == b"1":
            client.write("/state", "2")
            assert client.read("/state") == b"2"

    client.watch("/state", heard)
    client.write("/state", "1")
    assert seen == ["/state"] * 3
    assert client.read("/state") == b"2"


def test_callbacks_can_wait(daemon: Xenstored) -> None:
    posted: list[Callable[[], None]] = []
    client = LocalClient(daemon, posted.append)
    seen: list[str] = []
    handle = client.watch("/a", seen.append)
    client.write("/a", "1")
    assert (seen, len(posted)) == ([], 1)
    posted.pop()()
    assert seen == ["/a", "/a"]
    client.write("/a", "2")
    client.unwatch(handle)
    client.unwatch(handle)
    posted.pop()()
    assert (seen, posted) == (["/a", "/a"], [])
    client.write("/a", "3")
    assert posted == []


def test_an_error_in_a_callback_spares_later_ones(client: LocalClient) -> None:
    seen: list[str] = []

    def fail(path: str) -> None:
        seen.append(path)
        raise ValueError

    with pytest.raises(ValueError, match=r"^$"):
        client.watch("/a", fail)
    with pytest.raises(ValueError, match=r"^$"):
        client.write("/a", "")
    assert seen == ["/a", "/a"]


def test_a_watch_that_is_refused(client: LocalClient) -> None:
    with refused("EINVAL"):
        client.watch("/a//", lambda path: None)


def test_the_end(daemon: Xenstored, client: LocalClient) -> None:
    seen: list[str] = []
    client.watch("/a", seen.append)
    client.close()
    LocalClient(daemon).write("/a", "")
    assert seen == ["/a"]
    assert client._connection not in daemon.connections
    with refused("EINVAL"):
        client.read("/a")
