# SPDX-License-Identifier: GPL-2.0-or-later
"""Two network cards of one real guest, connected with each other: one of them is in a network of
its own, so that what the guest says to itself passes both cards."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from guest import PROMPT
from observed import Observer, run_observed

from pyxen.backends.doors import Doors
from pyxen.backends.net import Frame, Receive
from pyxen.backends.net.link import GSO_NONE, GSO_TCPV4, GSO_TCPV6
from pyxen.backends.net.links.pcap import PcapLink, open_record
from pyxen.backends.opened import Opened
from pyxen.toolstack import images
from pyxen.toolstack.devices import vif
from pyxen.toolstack.devices.nic import NicConfig
from pyxen.toolstack.running import RunningDomain

pytestmark = [pytest.mark.guest, pytest.mark.slow]

PATIENCE = 120.0
PINGS = 10_000
MEGABYTES = 4
SET_UP = r"""
dmesg -n 1; stty -echo
unshare -n sleep 10000 & P=$!
far() { nsenter -t $P -n "$@"; }
until [ "$(readlink /proc/$P/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do :; done
ip link set eth1 netns $P
ip link set eth0 up
ip addr add 10.1.0.1/24 dev eth0
ip -6 addr add fd00::1/64 dev eth0
far ip link set eth1 up
far ip addr add 10.1.0.2/24 dev eth1
far ip -6 addr add fd00::2/64 dev eth1
until far ping -c 1 -W 1 10.1.0.1 && far ping -6 -c 1 -W 1 fd00::1; do :; done >/dev/null 2>&1
"""
LARGEST_SEGMENT = 1 << 16
TRANSFER = rf"""
dd if=/dev/urandom of=/tmp/data bs=1M count={MEGABYTES} 2>/dev/null
echo "sum: $(md5sum </tmp/data)"
mkfifo /tmp/silence; exec 9<>/tmp/silence
send() {{
    far nc -l -p $2 <&9 >/tmp/got & L=$!
    usleep 300000
    nc $1 $2 </tmp/data; wait $L
    echo "got: $(md5sum </tmp/got)"
    nc -l -p $2 <&9 >/tmp/got & L=$!
    usleep 300000
    far nc $3 $2 </tmp/data; wait $L
    echo "got: $(md5sum </tmp/got)"
}}
send 10.1.0.2 5000 10.1.0.1
send fd00::2 5001 fd00::1
echo "queues: $(grep -c 'vif0-q[0-9]*-rx' /proc/interrupts)"
far grep ^Tcp: /proc/net/snmp
grep ^Tcp: /proc/net/snmp
"""


class End:
    """One end of a wire. An end that takes complete frames only gives them without a word, so that
    the guest checks them."""

    def __init__(self, wire: Wire, doors: Doors) -> None:
        self.takes_unfinished = wire.takes_unfinished
        self._wire = wire
        self._post = doors.post
        self.receive: Receive | None = None
        self.sent = 0
        self.kinds: set[int] = set()

    def open(self, receive: Receive) -> None:
        self.receive = receive

    def send(self, frames: Sequence[Frame]) -> None:
        self.sent += len(frames)
        self.kinds |= {frame.gso for frame in frames}
        if not self.takes_unfinished:
            assert not any(frame.checksum_start for frame in frames)
            frames = [Frame(frame.data) for frame in frames]
        self._post(lambda: self._wire.pass_on(self, frames))

    def resume(self) -> None:
        pass

    def close(self) -> None:
        self.receive = None

    def release(self) -> None:
        pass

    def statistics(self) -> dict[str, int]:
        return {}


class Wire:
    """Between the first two cards that are made."""

    def __init__(self, takes_unfinished: bool, record: Path) -> None:
        self.takes_unfinished = takes_unfinished
        self._record = record
        self.ends: list[End] = []

    def make_link(self, doors: Doors, _config: NicConfig, _opened: Opened) -> End | PcapLink:
        end = End(self, doors)
        self.ends.append(end)
        if len(self.ends) > 1:
            return end
        return PcapLink(doors, end, self._record, open_record(self._record))

    def pass_on(self, sender: End, frames: Sequence[Frame]) -> None:
        (other,) = (end for end in self.ends if end is not sender)
        if other.receive is not None:
            other.receive(frames)


class Shell(Observer):
    """Types commands in a thread of its own, and then ends the guest."""

    def __init__(self, *scripts: str) -> None:
        super().__init__()
        self._scripts = scripts
        self.outputs: list[str] = []
        self.error: BaseException | None = None
        self.findings: list[str] = []
        self.counters: dict[str, dict[str, int]] = {}

    def begin(self, running: RunningDomain) -> None:
        threading.Thread(target=self._run, args=[running], daemon=True).start()

    def _run(self, running: RunningDomain) -> None:
        try:
            self._wait(PROMPT, 0)
            for number, script in enumerate(self._scripts):
                begin = len(self.console)
                mark = f"the end of {number}"
                text = f"{{ {script}\n}}; echo the end 'of' {number}\n"
                for start in range(0, len(text), 200):
                    self._answer(text[start : start + 200].encode())
                    time.sleep(0.02)
                end = self._wait(mark, begin)
                self.outputs.append(self.console[begin:end])
            self.findings = running.call(self.domain.audit).result(PATIENCE)
            self.counters = running.call(running.devices.statistics).result(PATIENCE)
        except BaseException as error:
            self.error = error
        finally:
            self.leave()

    def _wait(self, text: str, begin: int) -> int:
        deadline = time.monotonic() + PATIENCE
        while (found := self.console.find(text, begin)) < 0:
            assert time.monotonic() < deadline, self.console[-3000:]
            time.sleep(0.02)
        return found


def run(
    image: images.Image, wire: Wire, monkeypatch: pytest.MonkeyPatch, *scripts: str, vcpus: int = 1
) -> Shell:
    monkeypatch.setattr(vif, "make_link", wire.make_link)
    shell = Shell(SET_UP, *scripts)
    _, outcome = run_observed(
        image.kernel,
        image.ramdisk,
        "console=hvc0",
        observer=shell,
        vcpus=vcpus,
        nics=(NicConfig(mode="none"), NicConfig(mode="none")),
        started=shell.begin,
    )
    if shell.error is not None:
        raise shell.error
    assert outcome.exit_reason == "detached", f"{outcome.report}\n{shell.console[-3000:]}"
    assert shell.findings == []
    for counters in shell.counters.values():
        assert not counters.get("tx_refused")
        assert not counters.get("rx_failed")
        assert not counters.get("rx_dropped")
    return shell


def test_streams_in_large_segments(
    debian_cloud_image: images.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest with two vCPUs has two queues for each card."""
    record = tmp_path / "record.pcap"
    wire = Wire(True, record)
    shell = run(debian_cloud_image, wire, monkeypatch, TRANSFER, vcpus=2)
    check_transfer(shell.outputs[1])
    assert "queues: 2\n" in shell.outputs[1]
    for end in wire.ends:
        assert end.kinds == {GSO_NONE, GSO_TCPV4, GSO_TCPV6}
    check_record(record)


def test_streams_and_pings_in_finished_frames(
    debian_cloud_image: images.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """We cut the segments and fill in the sums, and the guest checks them."""
    wire = Wire(False, tmp_path / "record.pcap")
    pings = f"ping -q -A -c {PINGS} 10.1.0.2"
    jumbo = "far ip link set eth1 mtu 65521; ip link set eth0 mtu 65521"
    large = "far ping -q -A -c 200 -s 65000 10.1.0.1"
    shell = run(debian_cloud_image, wire, monkeypatch, TRANSFER, f"{pings}; {jumbo}; {large}")
    check_transfer(shell.outputs[1])
    text = shell.outputs[2]
    assert f"{PINGS} packets transmitted, {PINGS} packets received, 0% packet loss" in text
    assert "200 packets transmitted, 200 packets received, 0% packet loss" in text
    for end in wire.ends:
        assert end.kinds == {GSO_NONE}
        assert end.sent > PINGS


def check_transfer(output: str) -> None:
    """All that was sent is what came, and no sum was wrong."""
    expected = re.search(r"sum: ([0-9a-f]{32})", output)
    assert expected is not None, output
    assert re.findall(r"got: ([0-9a-f]{32})", output) == [expected[1]] * 4, output
    heads = re.findall(r"^Tcp: (Rto.*)$", output, re.MULTILINE)
    values = re.findall(r"^Tcp: (\d.*)$", output, re.MULTILINE)
    assert len(heads) == len(values) == 2
    for names, numbers in zip(heads, values, strict=True):
        counted = dict(zip(names.split(), map(int, numbers.split()), strict=True))
        assert counted["InCsumErrors"] == counted["InErrs"] == 0
        assert counted["InSegs"] > 2 * MEGABYTES * (1 << 20) // LARGEST_SEGMENT


def check_record(record: Path) -> None:
    if shutil.which("tcpdump") is None:
        pytest.skip("there is no tcpdump to read the record")
    done = subprocess.run(
        ["tcpdump", "-nnr", record], capture_output=True, text=True, check=True, timeout=PATIENCE
    )
    lines = done.stderr.splitlines()
    assert [line for line in lines if not line.startswith("reading from file")] == []
    assert sum(" > " in line for line in done.stdout.splitlines()) > 1000
