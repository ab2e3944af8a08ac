# SPDX-License-Identifier: GPL-2.0-or-later
"""Images in formats that QEMU's storage daemon serves, and what becomes of the daemon."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from block_front_end import PAGE, FrontEnd, image_file

from pyxen.abi.io_blkif import (
    BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_READ,
    BLKIF_OP_WRITE,
    BLKIF_RSP_ERROR,
    BLKIF_RSP_OKAY,
)
from pyxen.backends.block.storage_daemon import DAEMON, DRIVERS, StorageDaemonImage, start_daemon
from pyxen.errors import PyxenError
from pyxen.testing import FakeDoors

READ, WRITE, FLUSH = BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_FLUSH_DISKCACHE
OKAY = BLKIF_RSP_OKAY
SIZE = 8 << 20

needs_qemu = pytest.mark.skipif(
    not (shutil.which(DAEMON) and shutil.which("qemu-img")), reason=f"no {DAEMON}, or no qemu-img"
)


def make(folder: Path, image_format: str) -> Path:
    raw = image_file(folder, SIZE)
    path = folder / f"disk.{image_format}"
    command = ["qemu-img", "convert", "-O", DRIVERS[image_format], raw, path]
    if image_format == "vhd":
        command[2:2] = ["-o", "force_size=on"]  # and not what heads and cylinders allow
    subprocess.run(command, check=True)
    return path


def serve(path: Path, image_format: str, *, readonly: bool = False) -> StorageDaemonImage:
    opened = start_daemon(path, image_format, readonly=readonly)
    return StorageDaemonImage(path, opened, readonly=readonly)


def content(path: Path, image_format: str) -> bytes:
    raw = path.with_suffix(".out")
    command = ["qemu-img", "convert", "-f", DRIVERS[image_format], "-O", "raw", path, raw]
    subprocess.run(command, check=True)
    return raw.read_bytes()


@needs_qemu
@pytest.mark.parametrize("image_format", ["qcow2", "vhd", "vmdk"])
def test_formats(tmp_path: Path, image_format: str) -> None:
    path = make(tmp_path, image_format)
    expected = bytearray((tmp_path / "disk.img").read_bytes())
    with FakeDoors() as fake:
        front = FrontEnd(fake, image=serve(path, image_format))
        front.connect()
        assert front.read("sectors") == str(SIZE // 512)
        refs = [fake.grant(10 + n) for n in range(32)]
        entries = []
        for n, ref in enumerate(refs):
            fake.page(10 + n)[:] = bytes([n + 1]) * PAGE
            entries.append(front.entry(WRITE, 100 * n, [(ref, 0, 7)]))
            expected[100 * n * 512 : 100 * n * 512 + PAGE] = bytes([n + 1]) * PAGE
        assert front.do(*entries) == [OKAY] * 32
        assert front.do(front.entry(FLUSH, 0)) == [OKAY]
        assert front.do(front.indirect_entry(READ, 96, [(ref, 0, 7) for ref in refs])) == [OKAY]
        read = b"".join(bytes(fake.page(10 + n)) for n in range(32))
        assert read == expected[96 * 512 : 96 * 512 + 32 * PAGE]
        front.end()
    assert content(path, image_format)[:SIZE] == expected


@needs_qemu
def test_no_file_is_there_when_the_daemon_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Who is killed meanwhile would leave it.
    path = make(tmp_path, "qcow2")
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    start = subprocess.Popen
    there = []

    def look(*arguments: Any, **options: Any) -> subprocess.Popen[bytes]:
        there.append(list(folder.iterdir()))
        return start(*arguments, **options)

    monkeypatch.setattr(subprocess, "Popen", look)
    start_daemon(path, "qcow2").close()
    assert there == [[]]


@needs_qemu
def test_discard_and_read_only(tmp_path: Path) -> None:
    path = make(tmp_path, "qcow2")
    with FakeDoors() as fake:
        front = FrontEnd(fake, image=serve(path, "qcow2"))
        front.connect()
        assert front.read("feature-discard") == "1"
        assert front.do(front.discard_entry(0, SIZE // 512)) == [OKAY]
        front.end()
    assert not any(content(path, "qcow2"))
    with FakeDoors() as fake:
        front = FrontEnd(fake, image=serve(path, "qcow2", readonly=True))
        front.connect()
        ref = fake.grant(10)
        assert front.do(front.entry(WRITE, 0, [(ref, 0, 7)])) == [BLKIF_RSP_ERROR]
        assert front.do(front.entry(READ, 0, [(ref, 0, 7)])) == [OKAY]
        front.end()


@needs_qemu
def test_a_daemon_that_dies_is_an_error_of_the_disk(tmp_path: Path) -> None:
    image = serve(make(tmp_path, "qcow2"), "qcow2")
    with FakeDoors() as fake:
        front = FrontEnd(fake, image=image)
        front.connect()
        os.kill(image._opened.pid, signal.SIGKILL)
        ref = fake.grant(10)
        entries = [front.entry(READ, 8 * n, [(ref, 0, 7)]) for n in range(8)]
        assert front.do(*entries) == [BLKIF_RSP_ERROR] * 8
        front.end()
        assert fake.leaks() == []


@needs_qemu
def test_an_image_is_written_to_by_one(tmp_path: Path) -> None:
    path = make(tmp_path, "qcow2")
    first = serve(path, "qcow2")
    with pytest.raises(PyxenError, match="lock"):
        serve(path, "qcow2")
    first.close()
    serve(path, "qcow2").close()


@needs_qemu
def test_what_is_no_image_is_said_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(bytes(100_000))
    with pytest.raises(PyxenError, match=r"disk\.qcow2: .*qcow2 format") as error:
        serve(path, "qcow2")
    assert "\n" not in str(error.value)


def test_without_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PyxenError, match="need qemu-storage-daemon, which is not installed"):
        serve(tmp_path / "x.qcow2", "qcow2")


@needs_qemu
def test_the_daemon_dies_with_us(tmp_path: Path) -> None:
    path = make(tmp_path, "qcow2")
    program = (
        "import sys, time; from pathlib import Path\n"
        "from pyxen.backends.block.storage_daemon import start_daemon\n"
        "print(start_daemon(Path(sys.argv[1]), 'qcow2').pid, flush=True); time.sleep(60)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        daemon = int(process.stdout.readline())
        process.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(daemon, 0)
            state = Path(f"/proc/{daemon}/stat").read_text().rpartition(")")[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return
        if state == "Z":
            return
        time.sleep(0.01)
    os.kill(daemon, signal.SIGKILL)
    pytest.fail("the daemon has outlived us")
