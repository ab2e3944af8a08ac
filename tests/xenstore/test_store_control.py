# SPDX-License-Identifier: GPL-2.0-or-later
"""CONTROL: the commands of ``xenstore-control``, and its quotas."""

from __future__ import annotations

from pathlib import Path

import pytest
from store_peer import Peer, refused

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import LocalClient, Xenstored


@pytest.fixture
def client(daemon: Xenstored) -> LocalClient:
    return LocalClient(daemon)


def test_help_and_check(client: LocalClient) -> None:
    assert "check\t\n" in client.control("help")
    assert client.control("check") == "OK"
    for words in (("help", "x"), ("check", "x"), ("none",), ("live-update", "-a")):
        with refused("EINVAL"):
            client.control(*words)


def test_check_finds_what_is_broken(client: LocalClient, daemon: Xenstored) -> None:
    daemon.database.remove("/tool/xenstored")
    with refused("EIO"):
        client.control("check")


def test_quotas(client: LocalClient, daemon: Xenstored) -> None:
    assert client.control("quota").splitlines()[:2] == [
        "Quota settings:",
        "nodes            :     1000 Nodes per domain",
    ]
    assert client.control("quota", "set", "nodes", "5") == "OK"
    assert daemon.quotas.nodes == 5
    assert client.control("quota-soft", "set", "memory", "1") == "OK"
    assert daemon.quotas.memory_soft == 1
    for words in (("set", "none", "5"), ("set", "nodes", "0"), ("set", "nodes", "x"), ("set", "x")):
        with refused("EINVAL"):
            client.control("quota", *words)


def test_what_a_domain_uses(client: LocalClient) -> None:
    assert client.control("quota", "0").splitlines() == [
        "Domain 0:",
        "nodes           :        3",
        "watches         :        0",
        "transactions    :        0",
        "outstanding     :        0",
        "memory          :      132",
    ]
    for domid in ("7", "x", "-1"):
        with refused("ENOENT"):
            client.control("quota", domid)


def test_quotas_by_request(dom0: Peer, daemon: Xenstored) -> None:
    names = dom0.call(25)[0].split()
    assert "nodes" in names
    assert "soft-memory" in names
    assert dom0.call(25, "nodes") == ["1000"]
    dom0.call(26, "4", "nodes", "7")
    dom0.call(26, "watches", "9")
    assert dom0.call(25, "4", "nodes") == ["7"]
    assert dom0.call(25, "5", "nodes") == ["1000"]
    assert daemon.quotas.watches == 9
    for strings in (("none", "1"), ("nodes", "-1"), ("nodes", "x"), ("nodes", str(1 << 32))):
        with refused("EINVAL"):
            dom0.call(26, *strings)


def test_the_log(client: LocalClient, dom0: Peer, tmp_path: Path) -> None:
    with refused("EINVAL"):
        client.control("memreport")
    with refused("EINVAL"):
        client.control("logfile", str(tmp_path))
    trace = tmp_path / "trace"
    client.control("logfile", str(trace))
    dom0.call(abi.XS_DIRECTORY, "/tool")
    dom0.ask(99, b"\xff\n")
    client.control("memreport")
    client.control("log", "off")
    dom0.read("/tool")
    lines = trace.read_text().splitlines()
    assert lines[0].endswith(" domain 0 DIRECTORY 0 (/tool )")
    assert lines[1].endswith(r" domain 0 99 0 (\xff\n)")
    assert lines[3:5] == [
        "3 nodes, 2 connections",
        "domain 0: 3 nodes, 0 watches, 0 outstanding requests, 132 bytes",
    ]
    assert len(lines) == 6
    client.control("log", "on")
    dom0.read("/tool")
    assert " READ 0 " in trace.read_text().splitlines()[-1]
    client.control("log", "off")
    with refused("EINVAL"):
        client.control("log", "x")
    client.control("memreport", str(tmp_path / "memory"))
    assert (tmp_path / "memory").read_text().startswith("3 nodes, ")
    with refused("EINVAL"):
        client.control("memreport", str(tmp_path))


def test_print(client: LocalClient, capsys: pytest.CaptureFixture[str]) -> None:
    client.control("print", "hello")
    assert capsys.readouterr().out == "control: hello\n"


def test_a_log_that_cannot_be_written(
    client: LocalClient, dom0: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    client.control("logfile", "/dev/full")
    assert dom0.read("/tool") == b""
    assert dom0.read("/tool") == b""
    assert [each.getMessage() for each in caplog.records] == [
        "xenstore: no more log, /dev/full: No space left on device"
    ]
    with refused("EINVAL"):
        client.control("memreport", "/dev/full")
