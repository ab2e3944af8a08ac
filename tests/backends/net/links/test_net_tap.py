# SPDX-License-Identifier: GPL-2.0-or-later
"""Tap devices and bridges, in a network namespace of the test's own: the host's kernel answers."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from station import Connection, Station

from pyxen.backends.net.link import Frame
from pyxen.backends.net.links.tap import TapLink, open_tap
from pyxen.errors import PyxenError
from pyxen.testing.fake_doors import FakeDoors

MAC = "00:16:3e:0a:0b:0c"
HOST, GUEST = "198.51.100.1", "198.51.100.2"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="tap devices are made by root"),
    pytest.mark.skipif(not Path("/dev/net/tun").exists(), reason="there is no /dev/net/tun"),
]


@pytest.fixture
def fake(own_network: Any) -> Iterator[FakeDoors]:
    with FakeDoors(pages=64) as fake:
        yield fake


def make_tap(fake: FakeDoors, name: str, **options: Any) -> TapLink:
    return TapLink(fake.doors, name, open_tap(name, **options))


def add_bridge(ip: Any, name: str = "xenbr0") -> int:
    ip.link("add", ifname=name, kind="bridge")
    index = int(ip.link_lookup(ifname=name)[0])
    ip.link("set", index=index, state="up")
    ip.addr("add", index=index, address=HOST, prefixlen=24)
    return index


def wait_until_gone(fake: FakeDoors, ip: Any, name: str) -> None:
    fake.run(until=lambda: not ip.link_lookup(ifname=name))


def test_bridge(own_network: Any, fake: FakeDoors) -> None:
    ip = own_network
    bridge = add_bridge(ip)
    link = make_tap(fake, "vif1.0", bridge="xenbr0", mtu=1400)
    (tap,) = ip.get_links(ip.link_lookup(ifname="vif1.0")[0])
    assert tap.get_attr("IFLA_MASTER") == bridge
    assert tap.get_attr("IFLA_MTU") == 1400
    assert tap["flags"] & 1  # up
    station = Station(fake, link, MAC, GUEST)
    mac = ip.get_links(bridge)[0].get_attr("IFLA_ADDRESS")
    assert station.resolve(HOST) == bytes.fromhex(mac.replace(":", ""))
    link.release()
    link.release()
    wait_until_gone(fake, ip, "vif1.0")
    assert link.statistics() == {"link_tx_dropped": 0, "link_rx_dropped": 0}


def test_two_cards_on_a_bridge(own_network: Any, fake: FakeDoors) -> None:
    ip = own_network
    add_bridge(ip)
    links = [make_tap(fake, f"vif{number}.0", bridge="xenbr0") for number in (1, 2)]
    stations = [
        Station(fake, link, f"{MAC[:-1]}{number}", f"198.51.100.{number + 2}")
        for number, link in enumerate(links)
    ]
    first, second = stations
    first.router_mac = second.mac
    first.send_udp(second.address, 1000, 2000, b"hello")
    assert second.take_udp(2000) == (first.address, 1000, b"hello")
    for link in links:
        link.release()


def test_unfinished_frames_pass_both_ways(own_network: Any, fake: FakeDoors) -> None:
    ip = own_network
    add_bridge(ip)
    link = make_tap(fake, "vif1.0", bridge="xenbr0")
    station = Station(fake, link, MAC, GUEST)
    station.router_mac = station.resolve(HOST)
    connection = Connection(station, HOST, (5000, 80))
    data = os.urandom(20000)
    received = bytearray()
    with socket.create_server((HOST, 80)) as listener:

        def serve() -> None:
            client, _ = listener.accept()
            with client:
                while len(received) < len(data):
                    received.extend(client.recv(65536))
                client.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        assert connection.connect()
        assert station.frames == []
        connection.send(data, unfinished=1460)
        unfinished: list[Frame] = []
        take = station.take

        def noting(*arguments: Any) -> Frame:
            unfinished.append(take(*arguments))
            return unfinished[-1]

        station.take = noting  # type: ignore[method-assign]
        assert connection.receive(len(data)) == data
        thread.join()
    assert bytes(received) == data
    large = [frame for frame in unfinished if frame.gso]
    assert large
    assert all(frame.checksum_start == 34 and frame.checksum_offset == 16 for frame in large)
    assert all(len(frame.data) > frame.segment_size > 0 for frame in large)
    link.release()


def test_routes_lead_to_the_guest(own_network: Any, fake: FakeDoors) -> None:
    ip = own_network
    link = make_tap(fake, "tap7", routes=[GUEST])
    (index,) = ip.link_lookup(ifname="tap7")
    (route,) = ip.get_routes(oif=index, family=socket.AF_INET, table=254)
    assert (route.get_attr("RTA_DST"), route["dst_len"]) == (GUEST, 32)
    link.release()


def test_a_device_that_was_there_stays(own_network: Any, fake: FakeDoors) -> None:
    ip = own_network
    ip.link("add", ifname="tap8", kind="tuntap", mode="tap")
    link = make_tap(fake, "tap8")
    with pytest.raises(PyxenError, match=r"tap device tap8: it is in use"):
        make_tap(fake, "tap8")
    link.release()

    def free() -> bool:
        try:
            make_tap(fake, "tap8").release()
        except PyxenError:
            return False
        return True

    fake.run(until=free)
    assert ip.link_lookup(ifname="tap8")


def test_refusals(own_network: Any, fake: FakeDoors) -> None:
    ip = own_network
    add_bridge(ip)
    with pytest.raises(PyxenError, match="there is no device nobridge"):
        make_tap(fake, "vif1.0", bridge="nobridge")
    assert not ip.link_lookup(ifname="vif1.0")
    with pytest.raises(PyxenError, match="lo is not a bridge"):
        make_tap(fake, "vif1.0", bridge="lo")
    with pytest.raises(PyxenError, match="xenbr0: there is another device of this name"):
        make_tap(fake, "xenbr0")
    for name in ("", "a" * 16, "a/b", "a b"):
        with pytest.raises(PyxenError, match="is no name for a device"):
            make_tap(fake, name)


def test_a_device_that_goes_is_told(
    own_network: Any, fake: FakeDoors, caplog: pytest.LogCaptureFixture
) -> None:
    ip = own_network
    link = make_tap(fake, "tap9")
    ip.link("del", index=ip.link_lookup(ifname="tap9")[0])
    fake.run(until=lambda: "tap device tap9" in caplog.text)
    link.send([Frame(bytes(60))])
    assert link.statistics()["link_tx_dropped"] == 1
    link.release()
