# SPDX-License-Identifier: GPL-2.0-or-later
"""Requests on nodes: answers and errors as C xenstored 4.17 gives them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from store_peer import Peer, refused

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import StoreError, Xenstored

Guest = Callable[[int], Peer]


def test_a_new_store(dom0: Peer) -> None:
    assert dom0.directory("/") == ["tool"]
    assert dom0.directory("/tool") == ["xenstored"]
    assert dom0.read("/tool/xenstored") == b""
    assert dom0.permissions("/") == ["n0"]


def test_write_creates_parents(dom0: Peer) -> None:
    dom0.write("/a/b/c", b"x\0y")
    assert dom0.read("/a/b/c") == b"x\0y"
    assert dom0.read("/a/b") == b""
    assert dom0.directory("/a") == ["b"]
    assert dom0.directory("/") == ["tool", "a"]
    dom0.write("/a/b/c", "")
    assert dom0.read("/a/b/c") == b""


def test_mkdir_keeps_what_is_there(dom0: Peer) -> None:
    dom0.write("/a", "value")
    dom0.mkdir("/a")
    assert dom0.read("/a") == b"value"


def test_children_are_listed_in_the_order_of_creation(dom0: Peer) -> None:
    for name in ("c", "a", "b"):
        dom0.mkdir(f"/d/{name}")
    dom0.remove("/d/a")
    dom0.mkdir("/d/a")
    assert dom0.directory("/d") == ["c", "b", "a"]


def test_removing_a_name_spares_those_that_contain_it(dom0: Peer) -> None:
    for name in ("aa", "a", "ba", "ab"):
        dom0.mkdir(f"/d/{name}")
    dom0.remove("/d/a")
    assert dom0.directory("/d") == ["aa", "ba", "ab"]


def test_remove_takes_all_below(dom0: Peer, daemon: Xenstored) -> None:
    dom0.write("/a/b/c/d", "x")
    dom0.remove("/a")
    assert sorted(daemon.database.tree) == ["/", "/tool", "/tool/xenstored"]
    assert daemon.domains[0].nodes == {"/", "/tool", "/tool/xenstored"}


def test_remove_of_what_is_not_there(dom0: Peer) -> None:
    dom0.remove("/tool/none")
    with refused("ENOENT"):
        dom0.remove("/none/none")
    with refused("EINVAL"):
        dom0.remove("/")


def test_what_is_not_there(dom0: Peer) -> None:
    for ask in (dom0.read, dom0.directory, dom0.permissions):
        with refused("ENOENT"):
            ask("/none")


@pytest.mark.parametrize("path", ["/a/", "//a", "/a//b", "/a b", "/a.b", "/\xe9", "", "/a\\b"])
def test_names_that_are_no_paths(dom0: Peer, path: str) -> None:
    payload = path.encode("latin-1") + b"\0"
    for kind in (abi.XS_READ, abi.XS_WRITE, abi.XS_MKDIR, abi.XS_RM, abi.XS_DIRECTORY):
        with refused("EINVAL"):
            dom0.request(kind, payload)


def test_the_length_of_paths(dom0: Peer) -> None:
    longest = "/" + "a" * 2047
    dom0.write(longest, "x")
    assert dom0.read(longest) == b"x"
    with refused("EINVAL"):
        dom0.read(longest + "a")
    within = "/local/domain/1/" + "b" * 2048
    dom0.write(within, "y")
    assert dom0.read(within) == b"y"
    with refused("EINVAL"):
        dom0.read(within + "b")


def test_relative_paths_are_those_of_the_domain(dom0: Peer, guest: Guest) -> None:
    guest(3).write("data/x", "1")
    assert dom0.read("/local/domain/3/data/x") == b"1"
    dom0.write("y", "2")
    assert dom0.read("/local/domain/0/y") == b"2"


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (abi.XS_READ, b""),
        (abi.XS_READ, b"/tool"),
        (abi.XS_READ, b"/tool\0x"),
        (abi.XS_READ, b"/tool\0\0"),
        (abi.XS_WRITE, b""),
        (abi.XS_WRITE, b"/tool"),
        (abi.XS_MKDIR, b"/tool"),
        (abi.XS_RM, b""),
        (abi.XS_GET_PERMS, b""),
        (abi.XS_SET_PERMS, b"/tool\0"),
        (abi.XS_DIRECTORY_PART, b"/tool\0"),
        (abi.XS_WATCH, b"/tool\0"),
        (abi.XS_WATCH, b"/tool\0a\0b\0c\0"),
        (abi.XS_WATCH, b"/tool\0a\0-1\0"),
        (abi.XS_UNWATCH, b"/tool\0"),
        (abi.XS_TRANSACTION_END, b"X\0"),
        (abi.XS_INTRODUCE, b"1\0"),
        (abi.XS_RELEASE, b"0\0"),
        (abi.XS_SET_TARGET, b"1\0"),
        (24, b"1\0"),
        (abi.XS_CONTROL, b""),
        (abi.XS_CONTROL, b"none\0"),
    ],
)
def test_malformed_requests(dom0: Peer, kind: int, payload: bytes) -> None:
    with refused("EINVAL"):
        dom0.request(kind, payload)


@pytest.mark.parametrize("kind", [15, 16, 20, 27, 100, 0xFFFF, 0xFFFFFFFF])
def test_unknown_requests(dom0: Peer, kind: int) -> None:
    with refused("ENOSYS"):
        dom0.request(kind, b"")


def test_a_long_directory_comes_in_parts(dom0: Peer) -> None:
    names = [f"entry-{number:04}" for number in range(1500)]
    for name in names:
        dom0.mkdir(f"/long/{name}")
    with refused("E2BIG"):
        dom0.request(abi.XS_DIRECTORY, b"/long\0")
    assert dom0.directory("/long") == names


def test_parts_of_a_directory(dom0: Peer) -> None:
    dom0.mkdir("/d/a")
    dom0.mkdir("/d/bc")
    head, *names = dom0.call(abi.XS_DIRECTORY_PART, "/d", "0")
    assert names == ["a", "bc", ""]
    assert dom0.call(abi.XS_DIRECTORY_PART, "/d", "2") == [head, "bc", ""]
    assert dom0.call(abi.XS_DIRECTORY_PART, "/d", "5") == [head, ""]
    assert dom0.call(abi.XS_DIRECTORY_PART, "/d", "-1") == [head, ""]
    dom0.mkdir("/d/e")
    assert dom0.call(abi.XS_DIRECTORY_PART, "/d", "0")[0] != head


def test_an_answer_is_never_longer_than_a_message(dom0: Peer) -> None:
    for number in range(400):
        dom0.mkdir(f"/d/{number:010}")
    for offset in range(0, 4400, 11):
        answer = dom0.ask(abi.XS_DIRECTORY_PART, b"/d\0%d\0" % offset)
        assert answer.type == abi.XS_DIRECTORY_PART
        assert len(answer.payload) <= abi.XENSTORE_PAYLOAD_MAX


# Permissions


def test_children_inherit_permissions(dom0: Peer, guest: Guest) -> None:
    guest(1)
    guest(2)
    dom0.mkdir("/d")
    dom0.set_permissions("/d", ["b1", "r2"])
    dom0.write("/d/e/f", "")
    assert dom0.permissions("/d/e/f") == ["b1", "r2"]


def test_a_guest_owns_what_it_creates(dom0: Peer, guest: Guest) -> None:
    one, two = guest(1), guest(2)
    dom0.mkdir("/d")
    dom0.set_permissions("/d", ["n0", "b1", "r2"])
    one.write("/d/e", "x")
    assert one.permissions("/d/e") == ["n1", "b1", "r2"]
    assert two.read("/d/e") == b"x"
    with refused("EACCES"):
        two.write("/d/e", "y")


def test_errors_tell_nothing_of_hidden_nodes(dom0: Peer, guest: Guest) -> None:
    one = guest(1)
    dom0.write("/hidden/a", "")
    dom0.mkdir("/seen")
    dom0.set_permissions("/seen", ["r0"])
    for path in ("/hidden", "/hidden/a", "/hidden/none"):
        with refused("EACCES"):
            one.read(path)
    with refused("ENOENT"):
        one.read("/seen/none")
    with refused("EACCES"):
        one.write("/seen/none", "")


def test_a_node_may_be_open_below_a_closed_one(dom0: Peer, guest: Guest) -> None:
    one = guest(1)
    dom0.write("/closed/open", "x")
    dom0.set_permissions("/closed/open", ["n0", "r1"])
    assert one.read("/closed/open") == b"x"


def test_who_may_change_permissions(dom0: Peer, guest: Guest) -> None:
    one, two = guest(1), guest(2)
    one.write("data", "x")
    path = "/local/domain/1/data"
    one.set_permissions("data", ["n1", "b2"])
    with refused("EACCES"):
        two.set_permissions(path, ["n1", "b2"])
    with refused("EPERM"):
        one.set_permissions("data", ["n2"])
    dom0.set_permissions(path, ["r2"])
    assert two.permissions(path) == ["r2"]


@pytest.mark.parametrize("text", ["", "x1", "r", "r1x", "1", "r-", "rr1"])
def test_permissions_that_are_none(dom0: Peer, text: str) -> None:
    with refused("EINVAL"):
        dom0.set_permissions("/tool", [text])


def test_permissions_for_domains_that_do_not_exist() -> None:
    daemon = Xenstored(exists=lambda domid: domid in (0, 1))
    dom0 = Peer(daemon.connect())
    with refused("ENOENT"):
        dom0.set_permissions("/tool", ["n5"])
    dom0.set_permissions("/tool", ["n0", "b5"])
    assert dom0.permissions("/tool") == ["n0", "b5"]
    daemon.exists = lambda domid: domid in (0, 1, 5)
    daemon.introduce(5, 0, 1)
    later = daemon.domains[5].connection
    assert later is not None
    with refused("EACCES"):
        Peer(later).read("/tool")


def test_a_later_domain_of_the_same_number_has_no_old_rights(dom0: Peer, guest: Guest) -> None:
    one = guest(1)
    dom0.write("/d", "x")
    for path in ("/with/a", "/new/a"):
        dom0.mkdir(path)
    for path in ("/d", "/with", "/new"):
        dom0.set_permissions(path, ["n0", "b1"])
    assert one.read("/d") == b"x"
    one.connection.daemon.release(1)
    again = guest(1)
    dom0.remove("/with/a")
    dom0.mkdir("/new/b")
    for path in ("/with", "/new", "/new/b"):
        with refused("EACCES"):
            again.read(path)
    with refused("EACCES"):
        again.read("/d")
    dom0.write("/d", "y")
    dom0.mkdir("/d/e")
    for path in ("/d", "/d/e"):
        with refused("EACCES"):
            again.read(path)
    dom0.start()
    dom0.write("/d", "z")
    dom0.end()
    with refused("EACCES"):
        again.read("/d")
    dom0.set_permissions("/d", ["n0", "r1"])
    assert again.read("/d") == b"z"


def test_a_domain_that_leaves_no_trace_takes_its_rights_along(
    dom0: Peer, daemon: Xenstored
) -> None:
    daemon.introduce(1, 0, 1)
    dom0.write("/d", "x")
    dom0.set_permissions("/d", ["n0", "r1"])
    daemon.release(1)
    daemon.introduce(1, 0, 1)
    later = daemon.domains[1].connection
    assert later is not None
    with refused("EACCES"):
        Peer(later).read("/d")


# Domains


def test_introduce_and_release(dom0: Peer, daemon: Xenstored) -> None:
    assert dom0.call(abi.XS_IS_DOMAIN_INTRODUCED, "7") == ["F"]
    assert dom0.call(abi.XS_INTRODUCE, "7", "100", "3") == ["OK"]
    assert dom0.call(abi.XS_IS_DOMAIN_INTRODUCED, "7") == ["T"]
    assert dom0.call(abi.XS_GET_DOMAIN_PATH, "7") == ["/local/domain/7"]
    assert dom0.call(abi.XS_RELEASE, "7") == ["OK"]
    assert dom0.call(abi.XS_IS_DOMAIN_INTRODUCED, "7") == ["F"]
    for kind in (abi.XS_RELEASE, abi.XS_RESUME):
        with refused("ENOENT"):
            dom0.call(kind, "7")
    assert dom0.call(abi.XS_IS_DOMAIN_INTRODUCED, "0") == ["T"]
    assert dom0.call(abi.XS_IS_DOMAIN_INTRODUCED, str(0x7FF0)) == ["T"]
    assert set(daemon.domains) == {0}


def test_a_domain_that_cannot_be_attached() -> None:
    def attach(connection: object, gfn: int, port: int) -> None:
        assert (gfn, port) == (5, 6)
        raise StoreError("EIO")

    daemon = Xenstored(attach=attach)
    dom0 = Peer(daemon.connect())
    with refused("EIO"):
        dom0.call(abi.XS_INTRODUCE, "7", "5", "6")
    assert dom0.call(abi.XS_IS_DOMAIN_INTRODUCED, "7") == ["F"]


def test_what_only_domain_0_may_ask(guest: Guest) -> None:
    one = guest(1)
    for kind, strings in (
        (abi.XS_INTRODUCE, ("2", "1", "1")),
        (abi.XS_RELEASE, ("1",)),
        (abi.XS_RESUME, ("1",)),
        (abi.XS_SET_TARGET, ("1", "0")),
        (abi.XS_IS_DOMAIN_INTRODUCED, ("1",)),
        (abi.XS_CONTROL, ("check",)),
        (24, ("1", "0")),
        (25, ()),
        (26, ("nodes", "1")),
        (23, ("1",)),
    ):
        with refused("EACCES"):
            one.call(kind, *strings)
    assert one.call(abi.XS_GET_DOMAIN_PATH, "1") == ["/local/domain/1"]


def test_the_nodes_of_a_domain_go_with_it(dom0: Peer, guest: Guest, daemon: Xenstored) -> None:
    one = guest(1)
    one.write("data/x", "")
    dom0.write("/vm/1/a/b", "")
    dom0.set_permissions("/vm/1/a", ["r1"])
    daemon.release(1)
    assert dom0.directory("/local/domain") == []
    assert dom0.directory("/vm/1") == []
    assert dom0.call(abi.XS_CONTROL, "check") == ["OK"]


def test_the_root_stays(dom0: Peer, guest: Guest, daemon: Xenstored) -> None:
    guest(1)
    dom0.write("/a/b", "x")
    dom0.set_permissions("/", ["r1", "r2", "b1"])
    daemon.release(1)
    assert dom0.permissions("/") == ["r0", "r2"]
    assert dom0.directory("/") == ["tool", "local", "a"]
    assert dom0.call(abi.XS_CONTROL, "check") == ["OK"]


def test_target(dom0: Peer, guest: Guest, daemon: Xenstored) -> None:
    one, two = guest(1), guest(2)
    one.write("data", "x")
    path = "/local/domain/1/data"
    with refused("EACCES"):
        two.read(path)
    with refused("ENOENT"):
        dom0.call(abi.XS_SET_TARGET, "2", "9")
    dom0.call(abi.XS_SET_TARGET, "2", "1")
    assert two.read(path) == b"x"
    two.set_permissions(path, ["r1"])
    daemon.release(1)
    guest(1).write("data", "y")
    with refused("EACCES"):
        two.read(path)


def test_features(dom0: Peer, guest: Guest) -> None:
    assert dom0.request(23, b"") == b"7\0"
    assert dom0.call(23, "4") == ["7"]
    dom0.call(24, "4", "3")
    with refused("EINVAL"):
        dom0.call(24, "4", "8")
    four = guest(4)
    assert four.request(23, b"") == b"3\0"
    with refused("EBUSY"):
        dom0.call(24, "4", "7")
    with refused("EINVAL"):
        four.call(abi.XS_WATCH, "data", "t", "1")
