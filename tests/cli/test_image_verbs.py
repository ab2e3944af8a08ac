# SPDX-License-Identifier: GPL-2.0-or-later
"""``pyxen image``: what it passes on and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyxen.cli.main import main
from pyxen.toolstack import images as toolstack_images


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path / "pyxen" / "images"


def make_image(images: Path, name: str) -> None:
    folder = images / name
    folder.mkdir(parents=True)
    (folder / "kernel").write_bytes(bytes(1_000_000))
    (folder / "ramdisk").write_bytes(bytes(500_000))
    meta = {
        "description": f"the guest {name}",
        "packages": {},
        "recipe": "r",
        "pulled": "2025-01-02T03:04:05+00:00",
    }
    (folder / "meta.json").write_text(json.dumps(meta))


def test_list(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_image(images, "two")
    make_image(images, "one")
    assert main(("image", "list")) == 0
    lines = [line.split(maxsplit=4) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        ["one", "1.5", "MB", "2025-01-02T03:04:05+00:00", "the guest one"],
        ["two", "1.5", "MB", "2025-01-02T03:04:05+00:00", "the guest two"],
    ]


def test_list_of_nothing_prints_nothing(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(("image", "list")) == 0
    assert capsys.readouterr().out == ""


def test_remove(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_image(images, "one")
    assert main(("image", "remove", "one")) == 0
    assert not (images / "one").exists()
    assert main(("image", "remove", "one")) == 1
    assert capsys.readouterr().err == "pyxen: no image one here\n"


def test_pull_prints_what_was_fetched(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fetch(name: str, progress: Any) -> toolstack_images.Image:
        with progress.step("unpacking"):
            make_image(images, name)
        return toolstack_images.find(name)

    monkeypatch.setattr(toolstack_images, "pull_image", fetch)
    assert main(("image", "pull", "one")) == 0
    out, err = capsys.readouterr()
    assert out == "one: the guest one, 1.5 MB\n"
    assert err == "unpacking\n"


def test_pull_of_an_unknown_image(capsys: pytest.CaptureFixture[str], images: Path) -> None:
    assert main(("image", "pull", "plan9")) == 1
    assert capsys.readouterr().err.startswith("pyxen: ")


def test_copy_disk(images: Path, tmp_path: Path) -> None:
    make_image(images, "one")
    (images / "one/disk").write_bytes(b"the disk")
    meta = json.loads((images / "one/meta.json").read_text())
    (images / "one/meta.json").write_text(json.dumps({**meta, "disk": True}))

    assert main(("image", "copy-disk", "one", str(tmp_path / "copy"))) == 0
    assert (tmp_path / "copy").read_bytes() == b"the disk"


def test_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key = tmp_path / "key.pub"
    key.write_text("ssh-ed25519 AAAA\n")
    words = ("--hostname", "box", "--password", "x", "--ssh-key", str(key))
    assert main(("image", "seed", str(tmp_path / "disk"), *words)) == 0
    assert b"ssh-ed25519 AAAA" in (tmp_path / "disk").read_bytes()

    assert main(("image", "seed", str(tmp_path / "two"), "--hostname", "a b")) == 1
    assert "is not the name of a host" in capsys.readouterr().err
    assert not (tmp_path / "two").exists()
    with pytest.raises(SystemExit) as left:
        main(("image", "seed", str(tmp_path / "two")))
    assert left.value.code == 2


def test_build_initramfs_passes_its_arguments_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path, dict[str, Any]]] = []

    def build(output: Path, *, progress: Any, **arguments: Any) -> None:
        calls.append((output, arguments))

    monkeypatch.setattr(toolstack_images, "build_initramfs", build)
    words = "image build-initramfs out --busybox bb --modules m --add a:b:/c --add d:/e"
    assert main(words.split()) == 0
    assert main(("image", "build-initramfs", "out")) == 0
    assert calls == [
        (
            Path("out"),
            {
                "busybox": Path("bb"),
                "kernel_modules": Path("m"),
                "files": [(Path("a:b"), "/c"), (Path("d"), "/e")],
            },
        ),
        (Path("out"), {"busybox": None, "kernel_modules": None, "files": []}),
    ]


@pytest.mark.parametrize("pair", ("file", ":/path", "file:", "file:relative"))
def test_a_malformed_pair_of_paths_is_wrong_usage(pair: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(("image", "build-initramfs", "out", "--add", pair))
    assert left.value.code == 2


def test_build_initramfs_tells_an_error_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = tmp_path / "busybox"
    output = tmp_path / "out"
    assert main(("image", "build-initramfs", str(output), "--busybox", str(missing))) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"pyxen: {missing}: ")
    assert error.count("\n") == 1
    assert not output.exists()
