# SPDX-License-Identifier: GPL-2.0-or-later
"""The disks that pyxen makes for one run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyxen.errors import PyxenError
from pyxen.toolstack import images
from pyxen.toolstack.devices.disk import parse_disk
from pyxen.toolstack.images import Seed, store

MIB = 1 << 20


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def make(name: str, disk: bool = True) -> images.Image:
    """An image whose disk has data, a hole, data, and a hole."""
    with store.locked_store(), store.new_image(name) as folder:
        (folder / "kernel").write_bytes(b"kernel")
        (folder / "ramdisk").write_bytes(b"ram")
        if disk:
            with (folder / "disk").open("wb") as stream:
                stream.write(b"begin" * 1000)
                stream.seek(20 * MIB)
                stream.write(b"end" * 1000)
                stream.truncate(64 * MIB)
        store.describe(folder, description="d", packages={}, recipe="r", pulled="2020-01-01")
    return images.find(name)


def test_an_image_with_a_disk_boots_from_it() -> None:
    image = make("one")

    assert image.disk == image.kernel.with_name("disk")
    assert image.command_line == "console=hvc0 root=/dev/xvda ro"
    assert image.size < MIB  # without the holes
    assert make("two", disk=False).command_line == "console=hvc0"


def test_an_image_whose_disk_is_gone_is_damaged() -> None:
    image = make("one")
    assert image.disk is not None
    image.disk.unlink()

    with pytest.raises(PyxenError, match="disk: missing: remove the image"):
        images.find("one")


def test_a_run_gets_a_copy_that_is_gone_afterwards(tmp_path: Path) -> None:
    image = make("one")
    assert image.disk is not None
    before = image.disk.read_bytes()

    with images.root_disk(image, []) as disks:
        (disk,) = disks
        assert (disk.vdev, disk.image_format, disk.readonly) == ("xvda", "raw", False)
        copy = Path(disk.target)
        assert copy.read_bytes() == before
        assert copy.stat().st_blocks * 512 < MIB
        with copy.open("r+b") as stream:
            stream.write(b"changed")
        assert copy.read_bytes() != before
        assert list((tmp_path / "cache/pyxen").iterdir()) == []  # it has no name
    assert not copy.exists()
    assert image.disk.read_bytes() == before


def test_a_disk_of_the_users_own_takes_its_place() -> None:
    image = make("one")

    with images.root_disk(image, [parse_disk("/mine,raw,xvda,rw")]) as disks:
        assert disks == []
    # The same disk by its older name.
    with images.root_disk(image, [parse_disk("/mine,raw,d0p0,rw")]) as disks:
        assert disks == []
    with images.root_disk(image, [parse_disk("/mine,raw,xvdb,rw")]) as disks:
        assert len(disks) == 1


def test_an_image_without_a_disk_gets_none() -> None:
    with images.root_disk(make("one", disk=False), []) as disks:
        assert disks == []


def test_a_seed_takes_the_first_free_name() -> None:
    others = [parse_disk("/a,raw,xvda,rw"), parse_disk("/b,raw,xvdb,rw")]

    with images.seed_disk(Seed(password="x"), others) as disk:
        assert (disk.vdev, disk.readonly) == ("xvdc", True)
        assert b"CD001" in Path(disk.target).read_bytes()
    every = [parse_disk(f"/x,raw,xvd{letter},rw") for letter in "bcdefghijklmnopqrstuvwxyz"]
    with (
        pytest.raises(PyxenError, match="no name is free"),
        images.seed_disk(Seed(password="x"), every),
    ):
        pass


def test_a_copy_to_keep(tmp_path: Path) -> None:
    image = make("one")
    assert image.disk is not None
    images.copy_disk("one", tmp_path / "mine")

    assert (tmp_path / "mine").read_bytes() == image.disk.read_bytes()
    assert os.stat(tmp_path / "mine").st_blocks * 512 < MIB
    with pytest.raises(PyxenError, match="mine: File exists"):
        images.copy_disk("one", tmp_path / "mine")
    make("two", disk=False)
    with pytest.raises(PyxenError, match="two has no disk"):
        images.copy_disk("two", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_no_room_for_a_copy_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    image = make("one")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))

    with pytest.raises(PyxenError, match="Not a directory"), images.root_disk(image, []):
        pass
