# SPDX-License-Identifier: GPL-2.0-or-later
"""Raw images: locks, short transfers, and when a write is on the disk."""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from block_front_end import image_file, raw_image

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
        image = raw_image(path, readonly=first)
        if allowed:
            raw_image(path, readonly=second).close()
        else:
            with pytest.raises(PyxenError, match="the image is in use"):
                raw_image(path, readonly=second)
        image.close()
        raw_image(path, readonly=second).close()

    def test_other_processes_are_kept_out_too(self, path: Path) -> None:
        image = raw_image(path)
        program = (
            "import sys; from pathlib import Path\n"
            "from pyxen.backends.block.images import open_raw\n"
            "open_raw(Path(sys.argv[1]))"
        )
        command = [sys.executable, "-c", program, path]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert "the image is in use" in done.stderr
        image.close()
        assert subprocess.run(command, check=False).returncode == 0

    @pytest.mark.skipif(not shutil.which("qemu-io"), reason="no qemu-io")
    def test_qemu_sees_our_locks(self, path: Path) -> None:
        command = ["qemu-io", "-f", "raw", "-c", "write 0 512", path]
        image = raw_image(path)
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert "lock" in done.stderr
        image.close()
        subprocess.run(command, check=True, capture_output=True)


class TestFiles:
    def test_what_cannot_be_opened(self, tmp_path: Path) -> None:
        with pytest.raises(PyxenError, match="No such file"):
            raw_image(tmp_path / "none")
        with pytest.raises(PyxenError, match="Is a directory"):
            raw_image(tmp_path)
        with pytest.raises(PyxenError, match="a file or a block device is expected"):
            raw_image(Path("/dev/null"))

    def test_a_file_that_has_become_shorter(self, path: Path) -> None:
        image = raw_image(path)
        os.truncate(path, 4096 + 100)
        buffers = views(4096, 4096)
        assert not image.read_now(buffers, 4096)
        with pytest.raises(OSError, match="the file ends here"):
            image.read(buffers, 4096)
        image.close()

    def test_short_transfers_go_on(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        image = raw_image(path)
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

        image = raw_image(path)
        monkeypatch.setattr(os, "preadv", refuse)
        assert not image.read_now(views(512), 0)
        assert not image.read_now(views(512), 0)
        assert len(calls) == 1
        image.close()

    @pytest.mark.parametrize("sleeps", [True, False])
    def test_writes_that_waited_send_the_next_ones_elsewhere(
        self, path: Path, monkeypatch: pytest.MonkeyPatch, sleeps: bool
    ) -> None:
        """Not those that were slow because the machine is busy."""

        def slow_write(file: int, buffers: list[memoryview], offset: int, flags: int) -> int:
            end = time.monotonic() + 0.002
            if sleeps:
                time.sleep(0.002)
            while time.monotonic() < end:
                pass
            return sum(map(len, buffers))

        image = raw_image(path)
        monkeypatch.setattr(os, "pwritev", slow_write)
        assert image.write_now(views(512), 0)
        monkeypatch.setattr("pyxen.backends.block.images._SLOW", 10.0)
        refused = 0
        while not image.write_now(views(512), 0):
            refused += 1
        assert refused == (64 if sleeps else 0)
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
        image = raw_image(path)
        image.write(views(512), 0)
        image.flush()
        assert calls == ["write", "sync"]
        image.close()
        assert calls == ["write", "sync", "sync"]

    def test_write_through(self, path: Path, calls: list[str]) -> None:
        image = raw_image(path, writethrough=True)
        assert not image.write_now(views(512), 0)
        image.write(views(512), 0)
        image.discard(0, 512)
        assert calls == ["write, on disk", "sync"]
        image.close()


class TestDirect:
    @pytest.fixture
    def image(self, path: Path) -> Iterator[RawImage]:
        try:
            image = raw_image(path, direct=True)
        except PyxenError as error:
            pytest.skip(str(error))
        yield image
        image.close()

    def test_past_the_page_cache(self, path: Path, image: RawImage) -> None:
        size = 4 * mmap.PAGESIZE
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            if in_page_cache(file.fileno()):
                pytest.skip("what is read here is always in the page cache")
            # As the memory of a guest is, unlike that of a bytearray.
            with mmap.mmap(-1, size) as memory, memoryview(memory) as page:
                pieces = [page[:512], page[4096:8192], page[1024:4608]]
                page[:] = bytes([7]) * size
                assert not image.write_now(pieces, 0)
                image.write(pieces, 0)
                page[:] = bytes(size)
                assert not image.read_now(pieces, 0)
                image.read(pieces, 0)
                assert page[:512] == bytes([7]) * 512
                assert page[512:1024] == bytes(512)
                assert page[1024:8192] == bytes([7]) * 7168
                for piece in pieces:
                    piece.release()
            assert not in_page_cache(file.fileno())
            assert file.read(8192) == bytes([7]) * 8192


def in_page_cache(file: int) -> bool:
    """Whether the first page is."""
    try:
        os.preadv(file, [bytearray(mmap.PAGESIZE)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except OSError as error:
        pytest.skip(f"whether a page is in the page cache cannot be seen here: {error.strerror}")
    return True


class TestDevices:
    """A loop device, which has to be made by root."""

    SIZE = 1 << 20

    @pytest.fixture
    def backing(self, tmp_path: Path) -> Path:
        path = tmp_path / "backing"
        path.write_bytes(bytes([7]) * self.SIZE)
        return path

    @pytest.fixture
    def device(self, backing: Path) -> Iterator[Path]:
        yield from loop_device(backing, 512)

    @pytest.fixture
    def device_4096(self, backing: Path) -> Iterator[Path]:
        yield from loop_device(backing, 4096)

    def test_discard(self, device: Path, backing: Path) -> None:
        image = raw_image(device)
        assert (image.size, image.discards) == (self.SIZE, True)
        before = backing.stat().st_blocks
        half = self.SIZE // 2
        try:
            image.discard(0, half)
        except OSError as error:
            image.close()
            if error.errno != errno.EOPNOTSUPP:
                raise
            pytest.skip("the file system of temporary files has no holes")
        buffers = views(half, 4096, fill=1)
        image.read(buffers, 0)
        assert (buffers[0], buffers[1]) == (bytes(half), bytes([7]) * 4096)
        image.close()
        assert before - backing.stat().st_blocks >= half // 512

    def test_what_the_host_uses(self, device: Path) -> None:
        user = os.open(device, os.O_RDONLY | os.O_EXCL)
        with pytest.raises(PyxenError, match="the host itself uses it"):
            raw_image(device)
        os.close(user)
        raw_image(device).close()

    def test_its_sectors(self, device_4096: Path) -> None:
        with pytest.raises(PyxenError, match="its sectors have 4096 bytes: sector-size=4096"):
            raw_image(device_4096)
        raw_image(device_4096, sector_size=4096).close()


def loop_device(backing: Path, sector_size: int) -> Iterator[Path]:
    losetup = shutil.which("losetup", path="/usr/sbin:/sbin")
    if losetup is None:
        pytest.skip("no losetup")
    done = subprocess.run(
        [losetup, "--find", "--show", "--sector-size", str(sector_size), backing],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        pytest.skip(f"no loop device: {done.stderr.strip()}")
    device = Path(done.stdout.strip())
    yield device
    subprocess.run([losetup, "--detach", device], check=True)
