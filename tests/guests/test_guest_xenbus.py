# SPDX-License-Identifier: GPL-2.0-or-later
"""The xenstore as Linux sees it: its own xenbus, and programs through /dev/xen/xenbus."""

from __future__ import annotations

from pathlib import Path

import pytest
from observed import Observer, run_observed
from programs import build_all, write_ramdisk

from pyxen.toolstack import images
from pyxen.toolstack.running import RunningDomain

pytestmark = [pytest.mark.guest, pytest.mark.slow]


class StoreObserver(Observer):
    """Writes to the store when the guest asks for it."""

    running: RunningDomain
    read = b""

    def answer_write(self, path: str, value: str) -> None:
        client = self.running.client
        client.write(path, value)
        path = f"/local/domain/{self.running.domid}/control/feature-poweroff"
        self.read = client.read(path)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, debian_cloud_image: images.Image) -> Observer:
    folder = tmp_path_factory.mktemp("xenbus")
    ramdisk: Path = write_ramdisk(folder / "ramdisk", build_all("xenbus", folder))
    observer = StoreObserver()
    _, outcome = run_observed(
        debian_cloud_image.kernel,
        ramdisk,
        "console=hvc0 quiet rdinit=/xenbus",
        observer=observer,
        started=lambda running: setattr(observer, "running", running),
    )
    assert outcome.exit_reason == "poweroff", observer.console[-4000:]
    return observer


def test_a_program_uses_the_store(seen: Observer) -> None:
    assert f"\n1..{len(seen.results)}\n" in seen.console
    assert len(seen.results) >= 25
    failed = [result.text for result in seen.results if not result.good]
    assert not failed, seen.console[-4000:]


def test_the_kernel_tells_what_it_can_do(seen: StoreObserver) -> None:
    assert seen.read == b"1"
