# SPDX-License-Identifier: GPL-2.0-or-later
"""The private network between domains of a user."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from pyxen.backends.net.link import GSO_TCPV4, Frame
from pyxen.backends.net.links import stream, switch
from pyxen.backends.net.links.switch import SwitchLink, join
from pyxen.testing.fake_doors import FakeDoors

BROADCAST = b"\xff" * 6

MakePort = Callable[[], "Port"]


class Port:
    """A card on the switch, and what it got."""

    def __init__(self, link: SwitchLink, number: int) -> None:
        self.link = link
        self.mac = bytes([0, 0x16, 0x3E, 0, 0, number])
        self.got: list[Frame] = []
        self.takes = True
        link.open(self._receive)

    def _receive(self, frames: list[Frame]) -> bool:
        self.got += frames
        return self.takes

    def send(self, to: bytes, payload: bytes) -> None:
        self.link.send([Frame(to + self.mac + b"\x08\x00" + payload)])

    def payloads(self) -> list[bytes]:
        return [frame.data[14:] for frame in self.got]


@pytest.fixture
def fake() -> Iterator[FakeDoors]:
    with FakeDoors(pages=64) as fake:
        yield fake


@pytest.fixture
def make(fake: FakeDoors, tmp_path: Path) -> Iterator[MakePort]:
    (tmp_path / "lan").mkdir()
    ports: list[Port] = []
    numbers = count(1)

    def make() -> Port:
        ports.append(Port(SwitchLink(fake.doors, join(tmp_path / "lan")), next(numbers)))
        ports[:] = [port for port in ports if not port.link._released]
        fake.run(until=lambda: all(_peers(port) >= len(ports) - 1 for port in ports))
        return ports[-1]

    yield make
    for port in ports:
        port.link.release()


def _peers(port: Port) -> int:
    return port.link.statistics()["link_peers"]


def _files(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder / "lan") if name != "lock")


def test_frames_go_to_all_until_the_address_is_known(make: MakePort, fake: FakeDoors) -> None:
    one, two, three = make(), make(), make()
    one.send(two.mac, b"where are you")
    fake.run(until=lambda: two.got and three.got)
    two.send(one.mac, b"here")
    fake.run(until=lambda: one.got)
    one.send(two.mac, b"only to you")
    one.send(BROADCAST, b"to all")
    fake.run(until=lambda: len(two.got) == 3 and len(three.got) == 2)
    assert one.payloads() == [b"here"]
    assert two.payloads() == [b"where are you", b"only to you", b"to all"]
    assert three.payloads() == [b"where are you", b"to all"]


def test_unfinished_frames_stay_as_they_are(make: MakePort, fake: FakeDoors) -> None:
    one, two = make(), make()
    data = two.mac + one.mac + b"\x08\x00" + os.urandom(65000)
    sent = [
        Frame(data, 34, 16, True, GSO_TCPV4, 1448),
        Frame(data[:100], 34, 6, True),
        Frame(data[:60], checksum_valid=True),
        Frame(data[:60]),
    ]
    one.link.send(sent)
    fake.run(until=lambda: len(two.got) == len(sent))
    assert two.got == sent


def test_many_frames_arrive_in_order(make: MakePort, fake: FakeDoors) -> None:
    one, two = make(), make()
    two.takes = False
    many = 4000
    for number in range(many):
        one.send(two.mac, number.to_bytes(4, "big") + bytes(1400))

    def more() -> bool:
        two.link.resume()
        return len(two.got) == many

    fake.run(until=more)
    assert two.payloads() == [number.to_bytes(4, "big") + bytes(1400) for number in range(many)]
    assert one.link.statistics()["link_tx_dropped"] == 0


def test_a_peer_that_takes_nothing_blocks_nobody(
    make: MakePort, fake: FakeDoors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_QUEUE_LIMIT", 1 << 20)
    one, two, three = make(), make(), make()
    two.takes = False
    for number in range(200):
        one.send(BROADCAST, bytes(60000))
        fake.run(until=lambda: len(three.got) > number)  # noqa: B023
    dropped = one.link.statistics()["link_tx_dropped"]
    assert dropped > 0

    def rest() -> bool:
        two.link.resume()
        return len(two.got) == 200 - dropped

    fake.run(until=rest)


def test_ports_come_and_go(make: MakePort, fake: FakeDoors, tmp_path: Path) -> None:
    one, two = make(), make()
    two.send(BROADCAST, b"I am two")
    fake.run(until=lambda: one.got)
    assert len(_files(tmp_path)) == 2
    two.link.release()
    two.link.release()
    fake.run(until=lambda: _peers(one) == 0)
    assert len(_files(tmp_path)) == 1
    one.send(two.mac, b"to nobody")
    three = make()
    one.send(BROADCAST, b"to three")
    fake.run(until=lambda: three.got)
    assert three.payloads() == [b"to three"]


def test_a_closed_port_gets_nothing(make: MakePort, fake: FakeDoors) -> None:
    one, two = make(), make()
    two.link.close()
    one.send(BROADCAST, b"lost")
    fake.run(until=lambda: two.link.statistics()["link_rx_dropped"] == 1)
    again = Port(two.link, 2)
    one.send(BROADCAST, b"heard")
    fake.run(until=lambda: again.got)
    assert again.payloads() == [b"heard"]
    assert two.got == []


@pytest.mark.parametrize("by", ("the next one", "the tools"))
def test_the_file_of_a_process_that_was_killed_is_removed(
    make: MakePort, fake: FakeDoors, tmp_path: Path, by: str
) -> None:
    one = make()
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from pyxen.backends.net.links.switch import SwitchLink, join\n"
        "from pyxen.testing.fake_doors import FakeDoors\n"
        "with FakeDoors(pages=64) as fake:\n"
        "    link = SwitchLink(fake.doors, join(Path(sys.argv[1])))\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "lan")], stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == b"ready\n"
        fake.run(until=lambda: _peers(one) == 1)
        child.send_signal(signal.SIGSTOP)
        one.send(BROADCAST, b"it sleeps")
        child.kill()
    fake.run(until=lambda: _peers(one) == 0)
    assert len(_files(tmp_path)) == 2
    if by == "the next one":
        make()
        assert len(_files(tmp_path)) == 2
    else:
        switch.remove_leftovers(tmp_path / "lan")
        assert len(_files(tmp_path)) == 1
        fake.run(until=lambda: _peers(one) == 0)


def test_a_long_path(fake: FakeDoors, tmp_path: Path) -> None:
    """Longer than a socket's address can be."""
    folder = tmp_path / ("long" * 40)
    folder.mkdir()
    SwitchLink(fake.doors, join(folder)).release()


def test_nonsense_from_a_peer(
    make: MakePort, fake: FakeDoors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = make()
    (name,) = _files(tmp_path)
    monkeypatch.chdir(tmp_path / "lan")  # a socket's address is short
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(name)
        for size in (0, 1, 23):
            peer.sendall(size.to_bytes(4, "big") + bytes(size))
        header = b"\x01\x00" + bytes(4) + (200).to_bytes(2, "little") + bytes(2)
        peer.sendall((70).to_bytes(4, "big") + header + bytes(60))
        peer.sendall((70).to_bytes(4, "big") + bytes(10) + b"\xff" * 60)
        fake.run(until=lambda: one.got)
        assert one.payloads() == [b"\xff" * 46]
        assert one.link.statistics()["link_rx_dropped"] == 4
        peer.sendall((100_000).to_bytes(4, "big"))
        fake.run(until=lambda: _peers(one) == 0)
        peer.settimeout(20)
        assert peer.recv(1) == b""
