# SPDX-License-Identifier: GPL-2.0-or-later
"""Devices that are added to and removed from a running Linux, many times."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from guest import PROMPT
from observed import Observer, run_observed

from pyxen.errors import PyxenError
from pyxen.toolstack import images
from pyxen.toolstack.running import RunningDomain
from pyxen.xenstore import LocalClient

pytestmark = [pytest.mark.guest, pytest.mark.slow]

PATIENCE = 60.0
ROUNDS = 100
XVDA = "/local/domain/0/backend/vbd/1/51712"
FRONT_XVDA = "/local/domain/1/device/vbd/51712"
VIF0 = "/local/domain/0/backend/vif/1/0"
CONNECTED = b"4"
COUNT_DEVICES = b"""
while :; do echo devices=$(ls /sys/bus/xen/devices | wc -l); usleep 20000; done
"""


class Plugged(Observer):
    """Runs a part of a test beside a guest that has booted, in a thread of its own, and then ends
    the guest."""

    running: RunningDomain

    def __init__(self) -> None:
        super().__init__()
        self.error: BaseException | None = None

    def begin(self, running: RunningDomain, part: Callable[[Plugged], None]) -> None:
        self.running = running
        threading.Thread(target=self._run, args=[part], daemon=True).start()

    def _run(self, part: Callable[[Plugged], None]) -> None:
        try:
            self.wait(lambda: PROMPT in self.console)
            self._answer(COUNT_DEVICES)
            part(self)
        except BaseException as error:
            self.error = error
        finally:
            self.leave()

    def wait(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline, f"{self.device()}\n{self.console[-2000:]}"
            time.sleep(0.005)

    def device(self) -> dict[str, bytes]:
        """The nodes of both ends of the disk."""
        client = self.running.client
        places = [f"{top}/{name}" for top in (XVDA, FRONT_XVDA) for name in ("state", "error")]
        work = lambda: {path: client.read(path) for path in places if client.exists(path)}  # noqa: E731
        return self.running.call(work).result(PATIENCE)

    def read(self, path: str) -> bytes:
        client = self.running.client
        return self.running.call(lambda: client.read(path) if client.exists(path) else b"").result(
            PATIENCE
        )

    def settle(self) -> None:
        """Wait until the guest's bus has no devices.

        Linux takes a device that goes and comes between two looks for the old one, which is closed;
        on Xen, too, though ``xl`` is slower.
        """
        begin = len(self.console)
        self.wait(lambda: self.console.count("devices=0\n", begin) >= 2)

    def held(self) -> dict[str, int]:
        """What there is of everything that a device takes."""

        def count() -> dict[str, int]:
            domain = self.domain
            daemon = self.running.client._daemon
            return {
                "grants": sum(1 for pin in domain.grants.pins if pin),
                "ports of domain 0": len(domain.events.back_end_ports),
                "watches": sum(len(each.watches) for each in daemon.connections),
                "nodes": count_nodes(self.running.client, ""),
                "files": len(os.listdir("/proc/self/fd")),
                "findings of the audit": len(domain.audit()),
            }

        return self.running.call(count).result(PATIENCE)


def count_nodes(client: LocalClient, path: str) -> int:
    return 1 + sum(count_nodes(client, f"{path}/{name}") for name in client.directory(path or "/"))


Beside = Callable[[Callable[[Plugged], None]], Plugged]


@pytest.fixture
def beside(debian_cloud_image: images.Image) -> Iterator[Beside]:
    def run(part: Callable[[Plugged], None]) -> Plugged:
        seen = Plugged()
        _, outcome = run_observed(
            debian_cloud_image.kernel,
            debian_cloud_image.ramdisk,
            "console=hvc0",
            observer=seen,
            started=lambda running: seen.begin(running, part),
        )
        if seen.error is not None:
            raise seen.error
        assert outcome.exit_reason == "detached", f"{outcome.report}\n{seen.console[-3000:]}"
        return seen

    return run


def test_a_disk_a_hundred_times(beside: Beside, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    counts: list[dict[str, int]] = []

    def part(seen: Plugged) -> None:
        for _ in range(ROUNDS):
            seen.running.attach_disk(f"{disk},raw,xvda").result(PATIENCE)
            seen.wait(lambda: seen.read(f"{XVDA}/state") == CONNECTED)
            seen.running.detach_disk("xvda").result(PATIENCE)
            assert seen.read(f"{XVDA}/state") == b""
            seen.settle()
            counts.append(seen.held())

    beside(part)
    assert counts[-1] == counts[4]


def test_a_card_a_hundred_times(beside: Beside) -> None:
    counts: list[dict[str, int]] = []

    def part(seen: Plugged) -> None:
        for _ in range(ROUNDS):
            assert seen.running.attach_nic("none").result(PATIENCE) == 0
            seen.wait(lambda: seen.read(f"{VIF0}/state") == CONNECTED)
            seen.running.detach_nic(0).result(PATIENCE)
            assert seen.read(f"{VIF0}/state") == b""
            seen.settle()
            counts.append(seen.held())

    beside(part)
    assert counts[-1] == counts[4]


def test_refusals_are_told(beside: Beside, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))

    def part(seen: Plugged) -> None:
        for spec, message in (
            (f"{tmp_path}/none,raw,xvda", "No such file"),
            (f"{disk},raw,vda", "vdev: 'vda'"),
        ):
            with pytest.raises(PyxenError, match=message):
                seen.running.attach_disk(spec).result(PATIENCE)
        with pytest.raises(PyxenError, match="the domain has none of this number"):
            seen.running.detach_disk("xvda").result(PATIENCE)
        seen.running.attach_disk(f"{disk},raw,xvda").result(PATIENCE)
        with pytest.raises(PyxenError, match="the domain has one of this number"):
            seen.running.attach_disk(f"{disk},raw,xvda,ro").result(PATIENCE)

    beside(part)
