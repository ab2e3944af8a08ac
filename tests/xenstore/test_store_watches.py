# SPDX-License-Identifier: GPL-2.0-or-later
"""Watches: which changes they tell of, to whom, and by which path."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from store_peer import Peer, refused

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import Xenstored

Guest = Callable[[int], Peer]


@pytest.fixture
def other(daemon: Xenstored) -> Peer:
    return Peer(daemon.connect())


def test_the_first_event_comes_behind_the_answer(dom0: Peer) -> None:
    connection = dom0.connection
    assert dom0.ask(abi.XS_WATCH, b"/none\0token\0").payload == b"OK\0"
    assert dom0.events() == [("/none", "token")]
    assert not connection.output


def test_what_a_watch_tells(dom0: Peer, other: Peer) -> None:
    other.watch("/a")
    dom0.write("/a/b/c", "")
    dom0.write("/a/b/c", "1")
    dom0.mkdir("/a/d")
    dom0.mkdir("/a/d")
    dom0.set_permissions("/a/d", ["r0"])
    dom0.write("/ab", "")
    assert other.events() == [("/a/b/c", "t"), ("/a/d", "t")]
    dom0.remove("/a/b")
    assert other.events() == [("/a/b", "t")]


def test_the_same_event_is_told_once_while_it_waits(dom0: Peer, other: Peer) -> None:
    other.watch("/a")
    for _ in range(3):
        dom0.write("/a", "")
    assert other.events() == [("/a", "t")]
    dom0.write("/a", "")
    assert other.events() == [("/a", "t")]


def test_removal_is_told_to_watches_below(dom0: Peer, other: Peer) -> None:
    dom0.write("/a/b/c", "")
    dom0.write("/a/b/d", "")
    other.watch("/a/b/c", "deep")
    other.watch("/a/b/none", "none")
    other.watch("/", "top")
    dom0.remove("/a")
    assert other.events() == [("/a/b/c", "deep"), ("/a", "top")]


def test_relative_watches_tell_relative_paths(dom0: Peer, guest: Guest) -> None:
    one = guest(1)
    one.watch("data")
    one.watch("/local/domain/1/data", "absolute")
    dom0.write("/local/domain/1/data", "")
    dom0.write("/local/domain/1/data/x", "")
    home = "/local/domain/1/"
    assert one.events() == [
        ("data", "t"),
        (home + "data", "absolute"),
        ("data/x", "t"),
        (home + "data/x", "absolute"),
    ]


@pytest.mark.parametrize(
    ("depth", "heard"),
    [("0", ["/a"]), ("1", ["/a", "/a/b"]), ("2", ["/a", "/a/b", "/a/b/c"])],
)
def test_depth(dom0: Peer, other: Peer, depth: str, heard: list[str]) -> None:
    dom0.write("/a/b/c/d", "")
    other.watch("/a", "t", depth)
    for path in ("/a", "/a/b", "/a/b/c", "/a/b/c/d"):
        dom0.write(path, "")
    assert [path for path, _ in other.events()] == heard


def test_a_client_hears_of_what_it_may_read(dom0: Peer, guest: Guest) -> None:
    one = guest(1)
    one.watch("/")
    dom0.write("/d/hidden", "")
    assert one.events() == []
    dom0.set_permissions("/d", ["n0", "r1"])
    assert one.events() == [("/d", "t")]
    dom0.write("/d/hidden", "")  # its parent may be read
    assert one.events() == [("/d/hidden", "t")]
    dom0.set_permissions("/d", ["n0"])  # the last that it hears
    assert one.events() == [("/d", "t")]
    dom0.remove("/d")
    assert one.events() == []


def test_watches_twice_and_not_at_all(dom0: Peer) -> None:
    dom0.watch("/a")
    dom0.watch("/a", "u")
    with refused("EEXIST"):
        dom0.call(abi.XS_WATCH, "/a", "t")
    dom0.call(abi.XS_UNWATCH, "/a", "t")
    for path, token in (("/a", "t"), ("/b", "u")):
        with refused("ENOENT"):
            dom0.call(abi.XS_UNWATCH, path, token)
    dom0.write("/a", "")
    assert dom0.events() == [("/a", "u")]


def test_reset(dom0: Peer, other: Peer) -> None:
    other.watch("/a")
    other.watch("/b")
    other.request(abi.XS_RESET_WATCHES, b"\0")
    dom0.write("/a", "")
    assert other.events() == []
    other.watch("/a")


def test_domains_that_come_and_go(dom0: Peer, daemon: Xenstored) -> None:
    dom0.watch("@introduceDomain")
    dom0.watch("@releaseDomain", "r")
    dom0.watch("@releaseDomain", "which", "1")
    dom0.watch("@releaseDomain/5", "five")
    daemon.introduce(5, 0, 1)
    daemon.introduce(5, 0, 2)
    assert dom0.events() == [("@introduceDomain", "t")]
    daemon.introduce(6, 0, 1)
    dom0.events()
    gone = [("@releaseDomain", "r"), ("@releaseDomain/5", "which"), ("@releaseDomain/5", "five")]
    daemon.domain_shut_down(5)
    daemon.domain_shut_down(5)
    assert dom0.events() == gone
    dom0.call(abi.XS_RESUME, "5")
    daemon.domain_shut_down(5)
    assert dom0.events() == gone
    daemon.release(5)
    daemon.release(5)
    assert dom0.events() == gone
    daemon.release(6)
    assert dom0.events() == [("@releaseDomain", "r"), ("@releaseDomain/6", "which")]


def test_each_domain_that_comes_is_told(dom0: Peer, daemon: Xenstored) -> None:
    """Though the events are the same."""
    dom0.watch("@introduceDomain")
    daemon.introduce(5, 0, 1)
    daemon.introduce(6, 0, 1)
    assert dom0.events() == [("@introduceDomain", "t")] * 2


def test_special_watches_need_permission(dom0: Peer, guest: Guest, daemon: Xenstored) -> None:
    one = guest(1)
    one.watch("@releaseDomain")
    guest(2)
    daemon.release(2)
    assert one.events() == []
    with refused("EACCES"):
        one.set_permissions("@releaseDomain", ["n0", "r1"])
    with refused("EINVAL"):
        dom0.set_permissions("@none", ["n0"])
    dom0.set_permissions("@releaseDomain", ["n0", "r1"])
    guest(2)
    daemon.release(2)
    assert one.events() == [("@releaseDomain", "t")]
    daemon.release(1)
    again = guest(1)
    again.watch("@releaseDomain")
    guest(2)
    daemon.release(2)
    assert again.events() == []


def test_the_nodes_of_a_dead_domain_are_told(dom0: Peer, guest: Guest, daemon: Xenstored) -> None:
    guest(1).write("data/x", "")
    dom0.watch("/local/domain")
    dom0.watch("@releaseDomain", "r")
    daemon.release(1)
    assert dom0.events() == [("/local/domain/1", "t"), ("@releaseDomain", "r")]


def test_events_stand_before_the_answer_of_what_causes_them(dom0: Peer) -> None:
    dom0.watch("/a")
    connection = dom0.connection
    dom0.connection.daemon.serve(connection, _message(abi.XS_WRITE, b"/a\0"))
    kinds = [output.message.type for output in connection.output]
    assert kinds == [abi.XS_WATCH_EVENT, abi.XS_WRITE]


def _message(kind: int, payload: bytes) -> object:
    from pyxen.xenstore.wire import Message

    return Message(kind, 1, 0, payload)
