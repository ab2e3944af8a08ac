# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import stat
from pathlib import Path

import pytest
from test_cpio import read_back
from test_kernel_modules import module_file

from pyxen.errors import PyxenError
from pyxen.toolstack.images import cpio, initramfs


@pytest.fixture
def busybox(tmp_path: Path) -> Path:
    """A stand-in: what matters here is that it lists its commands."""
    path = tmp_path / "busybox"
    path.write_text("#!/bin/sh\nprintf 'busybox\\nsh\\n[\\n'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "package/lib/modules/6.1.0-test/kernel/drivers"
    folder.mkdir(parents=True)
    (folder / "xen-netfront.ko").write_bytes(module_file("helper"))
    (folder / "helper.ko").write_bytes(module_file())
    (folder / "xen-blkfront.ko").write_bytes(module_file())
    return tmp_path / "package"


def entries(path: Path) -> dict[str, cpio.Entry]:
    return {name: entry for name, (entry, _) in read_back(path.read_bytes()).items()}


def test_base_has_what_a_guest_needs_to_start(tmp_path: Path, busybox: Path) -> None:
    initramfs.write_initramfs(tmp_path / "out", busybox=busybox)
    found = entries(tmp_path / "out")

    assert found["bin/busybox"] == cpio.file(busybox.read_bytes(), 0o755)
    assert found["bin/sh"] == cpio.symlink("busybox")
    assert found["bin/["] == cpio.symlink("busybox")
    assert found["dev/console"] == cpio.character_device(5, 1)
    assert found["init"].data.startswith(b"#!/bin/sh\n")
    assert stat.S_IMODE(found["init"].mode) == 0o755
    assert "etc/modules" not in found
    for mount_point in ("proc", "sys", "dev", "tmp"):
        assert stat.S_ISDIR(found[mount_point].mode)


def test_init_writes_the_ready_marker(tmp_path: Path, busybox: Path) -> None:
    initramfs.write_initramfs(tmp_path / "out", busybox=busybox)

    assert f'echo "{initramfs.READY_MARKER}"' in entries(tmp_path / "out")["init"].data.decode()


def test_modules_are_carried_and_listed_in_load_order(
    tmp_path: Path, busybox: Path, package: Path
) -> None:
    initramfs.write_initramfs(tmp_path / "out", busybox=busybox, kernel_modules=package)
    found = entries(tmp_path / "out")

    listed = found["etc/modules"].data.decode().splitlines()
    assert [Path(path).name for path in listed] == [
        "xen-blkfront.ko",
        "helper.ko",
        "xen-netfront.ko",
    ]
    for path in listed:
        assert path.startswith("/lib/modules/6.1.0-test/kernel/drivers/")
        assert found[path[1:]].data.startswith(b"\x7fELF")


def test_own_files_and_folders_are_added_and_replace(tmp_path: Path, busybox: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_bytes(b"content")
    (tree / "link").symlink_to("sub/file")
    init = tmp_path / "my-init"
    init.write_bytes(b"mine")
    init.chmod(0o750)

    initramfs.write_initramfs(
        tmp_path / "out", busybox=busybox, files=[(tree, "/opt/tree/"), (init, "/init")]
    )
    found = entries(tmp_path / "out")

    assert found["opt/tree/sub/file"].data == b"content"
    assert found["opt/tree/link"] == cpio.symlink("sub/file")
    assert found["init"] == cpio.file(b"mine", 0o750)


def test_same_input_gives_the_same_archive(tmp_path: Path, busybox: Path, package: Path) -> None:
    for name in ("first", "second"):
        initramfs.write_initramfs(tmp_path / name, busybox=busybox, kernel_modules=package)

    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize(
    ("host", "guest", "message"),
    (
        ("missing", "/x", "missing: No such file or directory"),
        ("busybox", "relative", "relative: the path in the guest must begin with /"),
        ("busybox", "/", "not an absolute, normal path"),
        ("/dev/null", "/x", "/dev/null: only files, folders and symbolic links can be added"),
    ),
)
def test_what_cannot_be_added_is_told(
    tmp_path: Path, busybox: Path, host: str, guest: str, message: str
) -> None:
    with pytest.raises(PyxenError, match=message):
        initramfs.write_initramfs(
            tmp_path / "out", busybox=busybox, files=[(tmp_path / host, guest)]
        )
    assert not (tmp_path / "out").exists()


def test_a_busybox_that_does_not_run_is_told(tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(b"hello")

    with pytest.raises(PyxenError, match="busybox: not a busybox that runs here"):
        initramfs.write_initramfs(tmp_path / "out", busybox=tmp_path / "busybox")


def test_a_failed_build_keeps_the_old_file(tmp_path: Path, busybox: Path) -> None:
    (tmp_path / "out").write_bytes(b"old")

    with pytest.raises(PyxenError):
        initramfs.write_initramfs(tmp_path / "out", busybox=busybox, files=[(busybox, "/")])

    assert (tmp_path / "out").read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["busybox", "out"]
