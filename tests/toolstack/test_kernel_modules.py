# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import gzip
import lzma
import struct
from pathlib import Path

import pytest

from pyxen.errors import PyxenError
from pyxen.toolstack.images.modules import load_order, release_folder


def module_file(*depends: str) -> bytes:
    """Build the smallest ELF64 object with a `.modinfo` section."""
    names = b"\0.modinfo\0.shstrtab\0"
    info = b"license=GPL\0depends=" + ",".join(depends).encode() + b"\0name=x\0"
    names_at, info_at = 64, 64 + len(names)
    table_at = info_at + len(info)
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, 1, 62, 1, 0, 0, table_at, 0, 64, 0, 0, 64, 3, 2
    )
    section = struct.Struct("<IIQQQQIIQQ")
    return (
        header
        + names
        + info
        + section.pack(*[0] * 10)
        + section.pack(1, 1, 0, 0, info_at, len(info), 0, 0, 1, 0)
        + section.pack(10, 3, 0, 0, names_at, len(names), 0, 0, 1, 0)
    )


@pytest.fixture
def release(tmp_path: Path) -> Path:
    folder = tmp_path / "lib/modules/6.1.0-test"
    (folder / "kernel/drivers/net").mkdir(parents=True)
    return folder


def put(release: Path, name: str, data: bytes) -> None:
    (release / "kernel/drivers/net" / name).write_bytes(data)


def names(release: Path, *wanted: str) -> list[str]:
    return [module.name for module in load_order(release, wanted)]


def test_a_module_comes_after_all_that_it_depends_on(release: Path) -> None:
    put(release, "top.ko", module_file("left-side", "right"))
    put(release, "left_side.ko", module_file("bottom"))
    put(release, "right.ko", module_file("bottom"))
    put(release, "bottom.ko", module_file())
    put(release, "unrelated.ko", module_file())

    assert names(release, "right", "top") == ["bottom", "right", "left_side", "top"]


def test_dash_and_underscore_are_the_same(release: Path) -> None:
    put(release, "xen-netfront.ko", module_file())

    assert names(release, "xen_netfront") == ["xen_netfront"]
    assert names(release, "xen-netfront") == ["xen_netfront"]


@pytest.mark.parametrize(
    ("suffix", "compress"), ((".xz", lzma.compress), (".gz", gzip.compress), ("", bytes))
)
def test_modules_are_decompressed(release: Path, suffix: str, compress: object) -> None:
    assert callable(compress)
    put(release, f"one.ko{suffix}", compress(module_file()))

    (module,) = load_order(release, ["one"])

    assert module.path == "kernel/drivers/net/one.ko"
    assert module.data == module_file()


def test_zstd_modules_are_decompressed(release: Path) -> None:
    zstd = pytest.importorskip("backports.zstd")
    put(release, "one.ko.zst", zstd.compress(module_file()))

    (module,) = load_order(release, ["one"])

    assert module.data == module_file()


def test_a_module_built_into_the_kernel_is_left_out(release: Path) -> None:
    put(release, "one.ko", module_file())
    (release / "modules.builtin").write_text("kernel/drivers/net/xen-netfront.ko\n")

    assert names(release, "xen-netfront", "one") == ["one"]


@pytest.mark.parametrize(
    ("files", "message"),
    (
        ({}, "no kernel module top$"),
        ({"top.ko": module_file("gone")}, "no kernel module gone, which top needs"),
        (
            {"top.ko": module_file("a"), "a.ko": module_file("top")},
            "modules need each other: top -> a",
        ),
        ({"top.ko": b"hello"}, "top.ko: not a kernel module: no ELF64 header"),
        ({"top.ko": module_file()[:200]}, "top.ko: damaged kernel module: no section table"),
        ({"top.ko": module_file().replace(b".modinfo", b".madinfo")}, "no section .modinfo"),
        ({"top.ko.xz": b"hello"}, "top.ko.xz: damaged kernel module"),
        ({"top.ko.xz": lzma.compress(b"hello")[:-5]}, "top.ko.xz: damaged kernel module"),
        ({"top.ko.gz": b"hello"}, "top.ko.gz: damaged kernel module"),
        ({"top.ko.zst": b"hello"}, "top.ko.zst: damaged kernel module"),
    ),
)
def test_bad_modules_are_told_in_one_line(
    release: Path, files: dict[str, bytes], message: str
) -> None:
    for name, data in files.items():
        put(release, name, data)

    with pytest.raises(PyxenError, match=message) as caught:
        load_order(release, ["top"])
    assert "\n" not in str(caught.value)


def test_release_folder_is_found_from_a_package_or_named_directly(release: Path) -> None:
    root = release.parents[2]

    assert release_folder(root) == release
    assert release_folder(release) == release


def test_release_folder_below_usr_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/modules/6.12"
    (folder / "kernel").mkdir(parents=True)

    assert release_folder(tmp_path) == folder


def test_several_releases_are_refused(release: Path) -> None:
    (release.parent / "6.2.0-test/kernel").mkdir(parents=True)

    with pytest.raises(PyxenError, match=r"several kernels \(6\.1\.0-test, 6\.2\.0-test\)"):
        release_folder(release.parents[2])


def test_folder_without_modules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PyxenError, match="no kernel modules there"):
        release_folder(tmp_path)
