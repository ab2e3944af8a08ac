# SPDX-License-Identifier: GPL-2.0-or-later
"""Records of what passes a card."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from station import Station

from pyxen.backends.net.link import Frame, Receive
from pyxen.backends.net.links import pcap
from pyxen.backends.net.links.pcap import PcapLink, open_record
from pyxen.errors import PyxenError
from pyxen.testing.fake_doors import FakeDoors


class Echo:
    """A link that gives back each frame, with the addresses exchanged."""

    takes_unfinished = True
    released = False

    def open(self, receive: Receive) -> None:
        self.receive = receive

    def send(self, frames: Sequence[Frame]) -> None:
        self.receive(
            [
                frame._replace(data=frame.data[6:12] + frame.data[:6] + frame.data[12:])
                for frame in frames
            ]
        )

    def resume(self) -> None:
        pass

    def close(self) -> None:
        pass

    def release(self) -> None:
        self.released = True

    def statistics(self) -> dict[str, int]:
        return {"echoes": 1}


@pytest.fixture
def fake() -> Iterator[FakeDoors]:
    with FakeDoors(pages=64) as fake:
        yield fake


def recorded(fake: FakeDoors, link: Echo, file: Path) -> PcapLink:
    return PcapLink(fake.doors, link, file, open_record(file))


def records(file: Path) -> list[tuple[float, bytes]]:
    data = file.read_bytes()
    assert struct.unpack_from("<IHHiIII", data) == (0xA1B23C4D, 2, 4, 0, 0, 262144, 1)
    found = []
    at = 24
    while at < len(data):
        seconds, nanoseconds, kept, length = struct.unpack_from("<IIII", data, at)
        assert kept == length
        assert nanoseconds < 10**9
        found.append((seconds + nanoseconds / 1e9, data[at + 16 : at + 16 + length]))
        at += 16 + length
    assert at == len(data)
    return found


def test_both_directions_are_recorded(fake: FakeDoors, tmp_path: Path) -> None:
    echo = Echo()
    link = recorded(fake, echo, tmp_path / "card.pcap")
    assert link.takes_unfinished
    got: list[Frame] = []
    link.open(lambda frames: bool(got.extend(frames)))
    start = time.time()
    out, back = b"A" * 6 + b"B" * 54, b"B" * 6 + b"A" * 6 + b"B" * 48
    link.send([Frame(out)] * 3)
    large = Frame(os.urandom(65535), 34, 16)
    link.send([large])
    link.release()
    link.release()
    assert echo.released
    assert len(got) == 4
    assert link.statistics() == {"echoes": 1, "pcap_dropped": 0}
    found = records(tmp_path / "card.pcap")
    assert [data for _, data in found][:6] == [out] * 3 + [back] * 3
    assert found[6][1] == large.data
    times = [moment for moment, _ in found]
    assert start - 1 < times[0] < time.time() + 1
    assert times == sorted(times)


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="there is no tcpdump")
def test_tcpdump_reads_it(fake: FakeDoors, tmp_path: Path) -> None:
    link = recorded(fake, Echo(), tmp_path / "card.pcap")
    station = Station(fake, link, "00:16:3e:00:00:01", "198.51.100.1")
    station.send_udp("198.51.100.2", 1000, 2000, b"hello")
    station.send_tcp("198.51.100.2", (1000, 80), (7, 0), 2)
    link.release()
    # It gives up root, and with that perhaps the right to open the file; not to read from a pipe.
    with open(tmp_path / "card.pcap", "rb") as file:
        done = subprocess.run(
            ["tcpdump", "-nn", "-v", "-r", "-"],
            stdin=file,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "reading from file -, link-type EN10MB (Ethernet), snapshot length 262144"
    ]
    assert "198.51.100.1.1000 > 198.51.100.2.2000: UDP, length 5" in done.stdout
    assert "198.51.100.1.1000 > 198.51.100.2.80: Flags [S], cksum" in done.stdout
    assert "incorrect" not in done.stdout


def test_a_slow_disk_is_not_waited_for(
    fake: FakeDoors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pcap, "_QUEUE_LIMIT", 10_000)
    link = recorded(fake, Echo(), tmp_path / "card.pcap")
    link.open(lambda frames: True)
    link.send([Frame(bytes(1000))] * 100)
    dropped = link.statistics()["pcap_dropped"]
    assert dropped > 0
    link.release()
    assert len(records(tmp_path / "card.pcap")) == 200 - dropped


def test_a_full_disk_ends_the_record(
    fake: FakeDoors, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    link = recorded(fake, Echo(), tmp_path / "card.pcap")
    full = os.open("/dev/full", os.O_WRONLY)
    assert link._file is not None
    os.dup2(full, link._file)
    os.close(full)
    link.open(lambda frames: True)
    link.send([Frame(bytes(60))])
    fake.run(until=lambda: "No space left on device; no more is recorded" in caplog.text)
    link.send([Frame(bytes(60))] * 5)
    assert link.statistics()["pcap_dropped"] >= 5
    link.release()


def test_where_it_cannot_be(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place, why in (
        ("missing/card.pcap", "No such file"),
        ("", "Is a directory"),
        ("fifo", "No such device"),
    ):
        with pytest.raises(PyxenError, match=why):
            open_record(tmp_path / place)
    with pytest.raises(PyxenError, match="not a regular file"):
        open_record(Path("/dev/null"))
