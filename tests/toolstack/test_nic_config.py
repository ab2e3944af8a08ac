# SPDX-License-Identifier: GPL-2.0-or-later
"""xl's syntax of network cards, and pyxen's additions to it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxen.errors import PyxenError
from pyxen.toolstack.devices.nic import MODES, Forward, NicConfig, parse_nic, stable_mac
from pyxen.toolstack.devices.rate import RateLimit, parse_rate

MAC = "00:16:3e:74:3d:76"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", NicConfig()),
        ("user", NicConfig()),
        (
            "mac=00:16:3E:74:3d:76,model=rtl8139,bridge=xenbr0",
            NicConfig("bridge", "xenbr0", MAC),
        ),
        ("mac=0:16:3e:74:3d:76", NicConfig(mac=MAC)),
        (" bridge = x", None),
        ("bridge", NicConfig("bridge", "xenbr0")),
        ("none, mtu=9000", NicConfig("none", mtu=9000)),
        ("tap=tap0,devid=3", NicConfig("tap", "tap0", devid=3)),
        ("switch=lan,untrusted", NicConfig("switch", "lan", trusted=False)),
        (
            "user,hostfwd=tcp:2222:22,hostfwd=udp:0.0.0.0:5353:53",
            NicConfig(
                forwards=(Forward("tcp", 2222, 22), Forward("udp", 5353, 53, "0.0.0.0")),
            ),
        ),
        ("hostfwd=tcp:[::1]:80:8080", NicConfig(forwards=(Forward("tcp", 80, 8080, "::1"),))),
        ("user,host-loopback,pcap=/tmp/x", NicConfig(host_loopback=True, pcap="/tmp/x")),
        ("rate=1MB/s@20ms,ip=10.0.0.2", NicConfig(rate=RateLimit(20_000, 20_000), ip="10.0.0.2")),
        ("netdev=eth0,vifname=a", NicConfig(extra={"gatewaydev": "eth0", "vifname": "a"})),
    ],
)
def test_cards(spec: str, expected: NicConfig | None) -> None:
    if expected is None:
        with pytest.raises(PyxenError):
            parse_nic(spec)
    else:
        assert parse_nic(spec) == expected


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("colour=red", "unknown parameter 'colour=red'"),
        ("router", "unknown parameter 'router'"),
        ("mac=1:2:3", "mac: '1:2:3' is not like"),
        ("mac=01:00:00:00:00:00", "mac: '01:00:00:00:00:00' is an address of a group"),
        ("user,bridge=a", "user and bridge exclude each other"),
        ("tap=a,switch=b", "tap and switch exclude each other"),
        ("none,hostfwd=tcp:1:2", "hostfwd and host-loopback go with user, not with none"),
        ("hostfwd=22", "hostfwd: '22' is not like"),
        ("hostfwd=tcp:0:22", "hostfwd: 'tcp:0:22': ports are from 1 to 65535"),
        ("mtu=1", "mtu: '1' is no number from 68 to 65521"),
        ("mtu=1500,mtu=1500", "mtu is given twice"),
        ("script=x", "script: pyxen runs no hotplug scripts"),
        ("type=ioemu", "type: pyxen's cards are paravirtual ones"),
        ("backend=net", "backend: pyxen serves its cards itself"),
        ("rate=1", "rate: '1' is not like"),
    ],
)
def test_refused_cards(spec: str, message: str) -> None:
    with pytest.raises(PyxenError) as error:
        parse_nic(spec)
    assert str(error.value).startswith(f"net {spec!r}: {message}")


@given(st.text(max_size=60) | st.text("=,: mactpuser0123", max_size=40))
def test_any_text_is_a_card_or_an_error(spec: str) -> None:
    try:
        config = parse_nic(spec)
    except PyxenError:
        return
    assert config.mode in MODES


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("10Mb/s", RateLimit(62_500, 50_000)),
        ("250KB/s", RateLimit(12_500, 50_000)),
        ("1GB/s@1s", RateLimit(10**9, 10**6)),
        ("8b/s@2", RateLimit(2, 2_000_000)),
        ("1MB/s@100us", RateLimit(100, 100)),
        ("0B/s", None),
        ("1MB", None),
        ("1MB/s@0ms", None),
        ("4294967296B/s", None),
        ("1B/s@4295s", None),
        ("\u00b2B/s", None),
    ],
)
def test_rates(text: str, limit: RateLimit | None) -> None:
    if limit is None:
        with pytest.raises(PyxenError):
            parse_rate(text)
    else:
        assert parse_rate(text) == limit


def test_the_rate_in_the_store() -> None:
    assert parse_nic("rate=1MB/s@20ms").backend_nodes()["rate"] == "20000,20000"


def test_addresses_are_stable_and_in_xens_range() -> None:
    assert stable_mac("a", 0) == stable_mac("a", 0)
    assert len({stable_mac(name, devid) for name in "abc" for devid in range(3)}) == 9
    assert stable_mac("a", 0).startswith("00:16:3e:")
