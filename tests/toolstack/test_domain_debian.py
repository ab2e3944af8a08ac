# SPDX-License-Identifier: GPL-2.0-or-later
"""A Debian guest in a process of its own: what xl asks of a guest's kernel, and its answers."""

from __future__ import annotations

import re
import socket
import threading
from pathlib import Path

import pytest

from machine import Machine
from pyxen.toolstack.control.client import opened
from pyxen.toolstack.images import READY_MARKER, Image

COUNTED = re.compile(r"\ncounted (\d+) \d+ (\d+) ")
pytestmark = pytest.mark.guest

CONFIG = """
name = "web"
image = "{image}"
cmdline = "console=hvc0 xen.fifo_events=0"
memory = 256
vcpus = 2
"""


@pytest.fixture
def machine(own_machine: Machine) -> Machine:
    return own_machine


class Console:
    """A reader of a domain's console, over its restarts."""

    def __init__(self, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        with opened(folder) as place:
            self._socket.connect(f"{place}/console.sock")
        self._data = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        while data := self._socket.recv(65536):
            self._data += data

    def type(self, text: str) -> None:
        self._socket.sendall(text.encode())

    @property
    def text(self) -> str:
        return self._data.decode(errors="replace").replace("\r", "")

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


def test_what_a_guest_is_asked_and_what_it_does(
    machine: Machine, debian_cloud_image: Image
) -> None:
    config = machine.folder / "web.cfg"
    config.write_text(CONFIG.format(image=debian_cloud_image.name))
    disk = machine.folder / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    machine.do("create", config)
    first = int(machine.do("domid", "web"))
    console = Console(machine.registry.find("web").folder)
    try:
        machine.until(lambda: READY_MARKER in console.text)

        # Magic keys and interrupts from outside.
        machine.do("sysrq", "web", "h")
        machine.until(lambda: "sysrq: HELP" in console.text)
        machine.do("trigger", "web", "nmi")
        machine.until(lambda: "NMI received for unknown reason" in console.text)

        # A debug key, of which Linux hears where it uses two-level event channels.
        machine.do("debug-keys", "q")
        machine.until(lambda: "global mask:" in console.text)

        # One CPU less: its kernel takes it down.
        assert column(machine, "list", 3) == ["2"]
        machine.do("vcpu-set", "web", "1")
        machine.until(lambda: column(machine, "list", 3) == ["1"])
        assert machine.do("vcpu-list", "web").splitlines()[2].split()[2:5] == ["1", "-", "--p"]

        # Less memory: its balloon grows.
        machine.do("mem-set", "web", "200m")
        machine.until(lambda: int(column(machine, "list", 2)[0]) <= 201)

        # A disk comes and goes.
        machine.do("block-attach", "web", f"{disk},raw,xvdb,rw")
        machine.until(lambda: column(machine, "block-list", 3) == ["4"])
        console.type("cat /sys/block/xvdb/size\n")
        machine.until(lambda: "\n2048\n" in console.text)

        # What top tells of it is what the guest's kernel has counted.
        console.type("cat /dev/xvdb >/dev/null; echo counted $(cat /sys/block/xvdb/stat)\n")
        machine.until(lambda: COUNTED.search(console.text))
        counted = COUNTED.search(console.text)
        assert counted
        assert int(counted[2]) >= 2048
        told = machine.do("top", "-b", "-x", "-i", "1")
        assert re.search(rf" RD: +{counted[1]}   WR: +0   RSECT: +{counted[2]}   WSECT: +0\n", told)
        machine.do("block-detach", "web", "xvdb")
        assert column(machine, "block-list", 0) == []

        # A reboot is acknowledged, and gives a new number; the console stays.
        done = machine.call("reboot", "-w", "web")
        assert done.returncode == 0
        assert done.stderr.splitlines() == [
            f"Rebooting domain {first}",
            "Waiting for 1 domains",
            f"Domain {first} has been shut down, reason code 1",
        ]
        machine.until(lambda: console.text.count(READY_MARKER) == 2)
        assert list(machine.names()) == [first + 1]
        assert column(machine, "list", 3) == ["2"]

        # So is the end.
        done = machine.call("shutdown", "-ww", "-a")
        assert done.returncode == 0
        assert done.stderr.splitlines() == [
            f"Shutting down domain {first + 1}",
            "Waiting for 1 domains",
            f"Domain {first + 1} has been shut down, reason code 0",
            f"Domain {first + 1} continue waiting for death",
            f"Domain {first + 1} has been destroyed",
        ]
        machine.until(lambda: machine.names() == {})
        machine.until(lambda: not machine.leaks())
        assert re.search(r"reboot: (System halted|Power down)", console.text)
        assert "reboot: Restarting system" in console.text
    finally:
        console.close()


def column(machine: Machine, verb: str, index: int) -> list[str]:
    """A column of a table of the domain."""
    return [line.split()[index] for line in machine.do(verb, "web").splitlines()[1:]]
