# SPDX-License-Identifier: GPL-2.0-or-later
"""From a disk's configuration to its back end."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyxen.backends.block import BlockBackend, RawImage
from pyxen.errors import PyxenError
from pyxen.testing import FakeDoors
from pyxen.toolstack.devices.disk import parse_disk
from pyxen.toolstack.devices.vbd import make_vbd, open_vbd

BACKEND = "/local/domain/0/backend/vbd/1/51712"
FRONTEND = "/local/domain/1/device/vbd/51712"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"")
    os.truncate(path, 1 << 20)
    return path


def make(fake: FakeDoors, spec: str) -> BlockBackend:
    disk = parse_disk(spec)
    return make_vbd(fake.doors, BACKEND, FRONTEND, disk, open_vbd(disk, 1))


def test_what_the_configuration_says_is_done(path: Path) -> None:
    spec = f"{path},raw,xvda,ro,sector-size=4096,no-discard,persistent-grants=1,rate=1MB/s,iops=50"
    with FakeDoors() as fake:
        backend = make(fake, spec)
        assert isinstance(backend.image, RawImage)
        assert backend.image.readonly
        assert backend.image.sector_size == 4096
        assert backend.advertise()["feature-persistent"] == "1"
        assert backend.advertise()["feature-discard"] == "0"
        assert backend.limits.wait() == 0
        for _ in range(5000):
            backend.limits.spend(0)
        assert 50 < backend.limits.wait() < 100
        backend.close()


def test_the_usual_disk(path: Path) -> None:
    with FakeDoors() as fake:
        backend = make(fake, f"{path},raw,xvda")
        assert backend.advertise()["feature-persistent"] == "0"
        backend.limits.spend(1 << 40)
        assert backend.limits.wait() == 0
        with pytest.raises(PyxenError, match="the image is in use"):
            make(fake, f"{path},raw,xvdb")
        backend.close()


def test_what_cannot_be(tmp_path: Path) -> None:
    with FakeDoors() as fake, pytest.raises(PyxenError, match="without a medium"):
        make(fake, ",,xvdc:cdrom")
    for text in ("0", "x", "-1", "1" * 10, "\u00b2"):
        with pytest.raises(PyxenError, match="no number of requests"):
            parse_disk(f"{tmp_path},raw,xvda,iops={text}")
