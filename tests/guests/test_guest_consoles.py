# SPDX-License-Identifier: GPL-2.0-or-later
"""Several consoles of one guest, and one console with several readers."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from guest import PROMPT, StartGuest

from pyxen.toolstack import images, lifecycle
from pyxen.toolstack.config import DomainConfig
from pyxen.toolstack.console_server import ConsoleServer
from pyxen.toolstack.running import RunningDomain

pytestmark = [pytest.mark.guest, pytest.mark.slow]

PATIENCE = 60.0
SIZE = 16 * 1024
ROUNDS = 5
FRONT = "/local/domain/1/device/console/1"
EARLY = b"mapping kernel into physical memory\nabout to get started...\n"
"""What Linux prints to the hypervisor's own console."""


class Far:
    """The host's end of a console."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        os.set_blocking(fd, False)
        self.received = bytearray()

    def exchange(self, data: bytes, size: int) -> None:
        """Send all of it, and receive so much, at the same time."""
        rest, deadline = memoryview(data), time.monotonic() + PATIENCE
        while rest or len(self.received) < size:
            assert time.monotonic() < deadline, f"{len(rest)} left, {len(self.received)} came"
            readable, writable, _ = select.select([self.fd], [self.fd] if rest else [], [], 1)
            if readable:
                self.received += os.read(self.fd, 65536)
            if writable:
                rest = rest[os.write(self.fd, rest[:4096]) :]

    def expect(self, text: bytes) -> None:
        """Receive until this has come."""
        while text not in self.received:
            self.exchange(b"", len(self.received) + 1)


@contextmanager
def connected(path: Path) -> Iterator[Far]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        yield Far(connection.fileno())


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def test_several_consoles_at_once(start_cloud: StartGuest, tmp_path: Path) -> None:
    paths = [tmp_path / "one.sock", tmp_path / "two.sock"]
    log, figures = tmp_path / "console.log", tmp_path / "figures.json"
    channels = [("--channel", f"name={p.stem},connection=socket,path={p}") for p in paths]
    guest = start_cloud(
        *(word for pair in channels for word in pair),
        *("--console-log", log, "--stats-json", figures),
    )
    guest.open_shell()
    assert "printk: console [hvc0] enabled" in guest.check("dmesg")
    assert re.search(r"^hvc0 +-W- \(EC", guest.check("cat /proc/consoles"), re.M)
    for number in (1, 2):
        guest.check(
            f"{{ stty raw -echo; echo ready; cat; }} < /dev/hvc{number} > /dev/hvc{number} &"
        )

    sent = [random.Random(number).randbytes(SIZE) for number in (1, 2)]
    with connected(paths[0]) as one, connected(paths[1]) as two:
        for far in (one, two):
            far.expect(b"ready\n")
            far.received.clear()
        threads = [
            threading.Thread(target=far.exchange, args=[data, SIZE])
            for far, data in zip((one, two), sent, strict=True)
        ]
        for thread in threads:
            thread.start()
        numbers = guest.check("seq 1000").split()
        for thread in threads:
            thread.join()
        assert [md5(one.received), md5(two.received)] == [md5(data) for data in sent]
    assert numbers == [str(number) for number in range(1, 1001)]

    guest.send_line("poweroff -f")
    assert guest.wait() == 0
    recorded = log.read_bytes()
    assert recorded.replace(b"\r", b"").decode(errors="replace") == guest.console
    counters = json.loads(figures.read_text())["devices"]
    for name in ("console-1", "console-2"):
        assert counters[name]["bytes_in"] == SIZE
        assert counters[name]["bytes_out"] == len("ready\n") + SIZE
        assert counters[name]["bytes_discarded"] == 0
    assert recorded.startswith(EARLY)
    assert counters["console-0"]["bytes_out"] == len(recorded) - len(EARLY)
    assert not any(path.exists() for path in paths)


def test_readers_and_consoles_come_and_go(debian_cloud_image: images.Image, tmp_path: Path) -> None:
    """A detached domain: its console on a socket, and consoles that are added and removed."""
    config = DomainConfig(
        kernel=debian_cloud_image.kernel,
        ramdisk=debian_cloud_image.ramdisk,
        command_line="console=hvc0",
    )
    failures: list[BaseException] = []
    counts: list[dict[str, int]] = []
    received: dict[str, bytes] = {}

    def begin(running: RunningDomain) -> None:
        threading.Thread(target=attempt, args=[running], daemon=True).start()

    def attempt(running: RunningDomain) -> None:
        try:
            use(running)
        except BaseException as error:
            failures.append(error)
            server.leave()

    def use(running: RunningDomain) -> None:
        with connected(server.path) as reader, connected(server.path):  # one takes nothing
            reader.expect(PROMPT.encode())
            reader.exchange(b"stty -echo; PS1=\n", 0)
            for number in range(ROUNDS):
                running.attach_channel("name=agent,connection=pty").result(PATIENCE)
                wait(lambda: read(running, f"{FRONT}/state") == b"4")
                far = Far(os.open(read(running, f"{FRONT}/tty"), os.O_RDWR | os.O_NOCTTY))
                reader.exchange(b"echo round %d > /dev/hvc1\n" % number, 0)
                far.expect(b"round %d\r\n" % number)
                os.close(far.fd)
                running.detach_channel(1).result(PATIENCE)
                reader.exchange(
                    b"while ls /sys/bus/xen/devices | grep c; do usleep 9999; done\n", 0
                )
                reader.exchange(b"echo 'settled '%d\n" % number, 0)
                reader.expect(b"settled %d\r\n" % number)
                counts.append(held(running))
            reader.exchange(b"seq 5000; echo over''all\n", 0)
            reader.expect(b"overall")
            with connected(server.path) as late:
                late.expect(b"overall")
                late.exchange(b"poweroff -f\n", 0)
                late.expect(b"reboot: System halted")
                received["late"] = bytes(late.received)
            reader.expect(b"reboot: System halted")
            received["first"] = bytes(reader.received)

    with ConsoleServer(tmp_path / "console.sock") as server:
        outcome = lifecycle.run(config, server, started=begin, timeout=5 * PATIENCE)
    if failures:
        raise failures[0]
    assert outcome.exit_reason == "poweroff"
    assert counts[-1] == counts[2]
    assert b"[    0.000000] Linux version" in received["first"][:100]
    assert b"\r\n5000\r\n" in received["first"]
    assert received["first"] == received["late"]


def wait(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def read(running: RunningDomain, path: str) -> bytes:
    return running.call(lambda: running.client.read(path)).result(PATIENCE)


def held(running: RunningDomain) -> dict[str, int]:
    """What there is of everything that a console takes."""

    def count() -> dict[str, int]:
        domain = running.domain
        return {
            "grants": sum(1 for pin in domain.grants.pins if pin),
            "ports of domain 0": len(domain.events.back_end_ports),
            "files": len(os.listdir("/proc/self/fd")),
            "threads": threading.active_count(),
            "findings of the audit": len(domain.audit()),
        }

    return running.call(count).result(PATIENCE)
