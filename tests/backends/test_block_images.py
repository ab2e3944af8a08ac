# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw images: locks, short transfers, and when a write is on the disk."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from block_front_end import image_file

from pyxen.backends.block import RawImage
from pyxen.errors import PyxenError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return image_file(tmp_path)


def views(*sizes: int, fill: int = 0) -> list[memoryview]:
    return [memoryview(bytearray([fill]) * size) for size in sizes]


class TestLocks:
    @pytest.mark.parametrize(
        ("first", "second", "allowed"),
        [(True, True, True), (True, False, False), (False, True, False), (False, False, False)],
    )
    def test_readers_share_and_writers_do_not(
        self, path: Path, first: bool, second: bool, allowed: bool
    ) -> None:
        image = RawImage(path, readonly=first)
        if allowed:
            RawImage(path, readonly=second).close()
        else:
            with pytest.raises(PyxenError, match="the image is in use"):
                RawImage(path, readonly=second)
        image.close()
        RawImage(path, readonly=second).close()

    def test_other_processes_are_kept_out_too(self, path: Path) -> None:
        image = RawImage(path)
        program = (
            "import sys; from pathlib import Path; from pyxen.backends.block import RawImage\n"
            "RawImage(Path(sys.argv[1]))"
        )
        command = [sys.executable, "-c", program, path]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert "the image is in use" in done.stderr
        image.close()
        assert subprocess.run(command, check=False).returncode == 0

    @pytest.mark.skipif(not shutil.which("qemu-io"), reason="no qemu-io")
    def test_qemu_sees_our_locks(self, path: Path) -> None:
        command = ["qemu-io", "-f", "raw", "-c", "write 0 512", path]
        image = RawImage(path)
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert "lock" in done.stderr
        image.close()
        subprocess.run(command, check=True, capture_output=True)


class TestFiles:
    def test_what_cannot_be_opened(self, tmp_path: Path) -> None:
        with pytest.raises(PyxenError, match="No such file"):
            RawImage(tmp_path / "none")
        with pytest.raises(PyxenError, match="Is a directory"):
            RawImage(tmp_path)
        with pytest.raises(PyxenError, match="a file or a block device is expected"):
            RawImage(Path("/dev/null"))

    def test_a_file_that_has_become_shorter(self, path: Path) -> None:
        image = RawImage(path)
        os.truncate(path, 4096 + 100)
        buffers = views(4096, 4096)
        assert not image.read_now(buffers, 4096)
        with pytest.raises(OSError, match="the file ends here"):
            image.read(buffers, 4096)
        image.close()

    def test_short_transfers_go_on(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        image = RawImage(path)
        read, write = os.preadv, os.pwritev

        def short_read(file: int, buffers: list[memoryview], offset: int) -> int:
            return read(file, [buffers[0][:700]], offset)

        def short_write(file: int, buffers: list[memoryview], offset: int, flags: int) -> int:
            return write(file, [buffers[0][:700]], offset, flags)

        monkeypatch.setattr(os, "preadv", short_read)
        monkeypatch.setattr(os, "pwritev", short_write)
        content = path.read_bytes()
        buffers = views(512, 4096, 1024)
        image.read(buffers, 512)
        assert b"".join(buffers) == content[512 : 512 + 5632]
        image.write(views(4096, 512, fill=7), 1024)
        assert path.read_bytes() == content[:1024] + bytes([7]) * 4608 + content[5632:]
        image.close()

    def test_reading_at_once_where_the_file_system_cannot_tell(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []

        def refuse(*arguments: object) -> int:
            calls.append(arguments)
            raise OSError(errno.EOPNOTSUPP, "not supported")

        image = RawImage(path)
        monkeypatch.setattr(os, "preadv", refuse)
        assert not image.read_now(views(512), 0)
        assert not image.read_now(views(512), 0)
        assert len(calls) == 1
        image.close()

    def test_writes_that_waited_send_the_next_ones_elsewhere(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        image = RawImage(path)
        assert image.write_now(views(512), 0)
        monkeypatch.setattr("pyxen.backends.block.images._SLOW", -1.0)
        assert image.write_now(views(512), 0)
        monkeypatch.setattr("pyxen.backends.block.images._SLOW", 10.0)
        refused = 0
        while not image.write_now(views(512), 0):
            refused += 1
        assert refused == 64
        image.close()


class TestOnTheDisk:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """The system calls that matter, in order."""
        calls: list[str] = []
        write, sync = os.pwritev, os.fdatasync

        def noted_write(file: int, buffers: list[memoryview], offset: int, flags: int) -> int:
            calls.append("write, on disk" if flags & os.RWF_DSYNC else "write")
            return write(file, buffers, offset, flags)

        def noted_sync(file: int) -> None:
            calls.append("sync")
            sync(file)

        monkeypatch.setattr(os, "pwritev", noted_write)
        monkeypatch.setattr(os, "fdatasync", noted_sync)
        return calls

    def test_write_back(self, path: Path, calls: list[str]) -> None:
        image = RawImage(path)
        image.write(views(512), 0)
        image.flush()
        assert calls == ["write", "sync"]
        image.close()
        assert calls == ["write", "sync", "sync"]

    def test_write_through(self, path: Path, calls: list[str]) -> None:
        image = RawImage(path, writethrough=True)
        assert not image.write_now(views(512), 0)
        image.write(views(512), 0)
        image.discard(0, 512)
        assert calls == ["write, on disk", "sync"]
        image.close()
