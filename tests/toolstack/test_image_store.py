# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pyxen.errors import PyxenError
from pyxen.toolstack import images
from pyxen.toolstack.images import store


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "pyxen/images"


def make(name: str, kernel: bytes = b"kernel") -> None:
    with store.locked_store(), store.new_image(name) as folder:
        (folder / "kernel").write_bytes(kernel)
        (folder / "ramdisk").write_bytes(b"ram")
        store.describe(
            folder, description="d", packages={"p": "1"}, recipe="r", pulled="2020-01-01"
        )


def test_an_image_is_found_listed_and_removed(data: Path) -> None:
    make("two")
    make("one")

    image = images.find("one")
    assert image == images.Image(
        name="one",
        kernel=data / "one/kernel",
        ramdisk=data / "one/ramdisk",
        description="d",
        packages={"p": "1"},
        recipe="r",
        pulled="2020-01-01",
    )
    assert image.size == len(b"kernel") + len(b"ram")
    assert [image.name for image in images.list()] == ["one", "two"]

    images.remove("one")
    assert [image.name for image in images.list()] == ["two"]
    assert sorted(path.name for path in data.iterdir()) == [".lock", "two"]


def test_a_new_image_replaces_the_old_one() -> None:
    make("one", b"old")
    make("one", b"new")

    assert images.find("one").kernel.read_bytes() == b"new"


def test_a_failure_leaves_the_old_image(data: Path) -> None:
    make("one", b"old")
    with pytest.raises(FileNotFoundError), store.locked_store(), store.new_image("one") as folder:
        shutil.copy(data / "absent", folder / "kernel")

    assert images.find("one").kernel.read_bytes() == b"old"
    assert sorted(path.name for path in data.iterdir()) == [".lock", "one"]


def test_no_images_at_all() -> None:
    assert images.list() == []


@pytest.mark.parametrize("use", (images.find, images.remove))
def test_an_image_that_is_not_there_is_told(use: object) -> None:
    assert callable(use)
    with pytest.raises(PyxenError, match="no image absent here"):
        use("absent")


@pytest.mark.parametrize("name", ("../x", "", ".tmp-x", "a/b", "A", "/etc"))
@pytest.mark.parametrize("use", (images.find, images.remove))
def test_what_is_no_image_name_is_refused(use: object, name: str) -> None:
    assert callable(use)
    with pytest.raises(PyxenError, match="is not an image name"):
        use(name)


@pytest.mark.parametrize("text", ("", "[]", "{}", '{"description": 1}', "\x00", None))
def test_a_damaged_description_is_told_and_can_be_removed(data: Path, text: str | None) -> None:
    make("one")
    if text is None:
        (data / "one/meta.json").unlink()
    else:
        (data / "one/meta.json").write_text(text)

    with pytest.raises(PyxenError, match=r"meta\.json: damaged image: .*image remove one"):
        images.find("one")
    images.remove("one")
    assert images.list() == []


def test_a_missing_kernel_is_told(data: Path) -> None:
    make("one")
    (data / "one/kernel").unlink()

    with pytest.raises(PyxenError, match="kernel: missing"):
        images.find("one")


def test_a_relative_data_folder_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "relative")

    assert store.data_folder() == tmp_path / ".local/share/pyxen"
