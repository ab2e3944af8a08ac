# SPDX-License-Identifier: GPL-2.0-or-later
from __future__ import annotations

import io
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from pyxen.toolstack.images import cpio

ENTRIES = {
    "/init": cpio.file(b"#!/bin/sh\n", 0o755),
    "/bin/true": cpio.symlink("busybox"),
    "/etc/a/b": cpio.file(b"12345"),
    "/etc": cpio.folder(0o700),
    "/dev/console": cpio.character_device(5, 1),
    "/empty": cpio.file(b""),
}


def archive(entries: dict[str, cpio.Entry]) -> bytes:
    stream = io.BytesIO()
    cpio.write_archive(stream, entries)
    return stream.getvalue()


def read_back(data: bytes) -> dict[str, tuple[cpio.Entry, int]]:
    """Parse as the kernel does: header, path and data, each padded to four bytes."""
    found = {}
    position = 0
    while True:
        assert data[position : position + 6] == b"070701"
        fields = [
            int(data[start : start + 8], 16) for start in range(position + 6, position + 110, 8)
        ]
        inode, mode, size, name_size = fields[0], fields[1], fields[6], fields[11]
        position += 110
        name = data[position : position + name_size]
        assert name.endswith(b"\0")
        position = (position + name_size + 3) & ~3
        content = data[position : position + size]
        position = (position + size + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert not any(data[position:])
            return found
        found[name[:-1].decode()] = cpio.Entry(mode, content, (fields[9], fields[10])), inode


def test_archive_holds_each_entry_and_the_parents_it_lacks() -> None:
    found = read_back(archive(ENTRIES))

    assert {name: entry for name, (entry, _) in found.items()} == {
        **{path[1:]: entry for path, entry in ENTRIES.items()},
        "bin": cpio.folder(),
        "dev": cpio.folder(),
        "etc/a": cpio.folder(),
    }


def test_folders_come_before_what_lies_in_them() -> None:
    names = list(read_back(archive(ENTRIES)))

    for name in names:
        parent = str(Path(name).parent)
        assert parent == "." or names.index(parent) < names.index(name)


def test_each_entry_has_an_inode_of_its_own() -> None:
    inodes = [inode for _, inode in read_back(archive(ENTRIES)).values()]

    assert len(set(inodes)) == len(inodes)


def test_archive_depends_on_the_entries_alone() -> None:
    assert archive(ENTRIES) == archive(dict(reversed(ENTRIES.items())))


def test_archive_fills_whole_blocks() -> None:
    assert len(archive(ENTRIES)) % 512 == 0


@pytest.mark.parametrize("path", ("init", "/", "/a/../b", "/a/", "//a", "/a//b"))
def test_path_that_is_not_absolute_and_normal_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not an absolute, normal path"):
        archive({path: cpio.file(b"")})


def test_cpio_unpacks_the_archive(tmp_path: Path) -> None:
    program = shutil.which("cpio")
    if program is None:
        pytest.skip("no cpio on this machine")
    entries = {path: entry for path, entry in ENTRIES.items() if not stat.S_ISCHR(entry.mode)}

    subprocess.run(
        [program, "--extract", "--quiet"], input=archive(entries), cwd=tmp_path, check=True
    )

    assert (tmp_path / "init").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((tmp_path / "init").stat().st_mode) == 0o755
    assert (tmp_path / "bin/true").readlink() == Path("busybox")
    assert (tmp_path / "etc/a/b").read_bytes() == b"12345"
    assert stat.S_IMODE((tmp_path / "etc").stat().st_mode) == 0o700
    assert (tmp_path / "empty").read_bytes() == b""
