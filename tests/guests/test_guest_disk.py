# SPDX-License-Identifier: GPL-2.0-or-later
"""Disks of a real Debian guest: the guest finds what it wrote, and so does the host."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path

import pytest
from guest import Guest, StartGuest
from programs import GUESTS, build

from pyxen.toolstack import images
from pyxen.toolstack.images import cpio

pytestmark = [pytest.mark.guest, pytest.mark.slow]

SIZE = 16 << 20
PROGRAM = "/disk"
needs_qemu = pytest.mark.skipif(
    not (shutil.which("qemu-storage-daemon") and shutil.which("qemu-img")), reason="no QEMU tools"
)
needs_e2fsprogs = pytest.mark.skipif(
    not all(shutil.which(tool, path="/usr/sbin:/sbin") for tool in ("mke2fs", "e2fsck", "debugfs")),
    reason="no e2fsprogs",
)

Start = Callable[..., Guest]


@pytest.fixture
def start_with_program(
    start_guest: StartGuest, debian_cloud_image: images.Image, tmp_path: Path
) -> Start:
    """Debian's cloud kernel, with our program at hand in its shell."""
    program = build([GUESTS / "disk" / "disk.c"], tmp_path / "disk")
    ramdisk = tmp_path / "ramdisk"
    with ramdisk.open("wb") as stream:
        stream.write(debian_cloud_image.ramdisk.read_bytes())
        init = resources.files("pyxen.toolstack.images").joinpath("guest/init").read_text()
        assert 'insmod "$module"' in init
        # What the kernel's command line says and the kernel does not know is a variable of init's.
        init = init.replace('insmod "$module"', 'insmod "$module" $parameters')
        entries = {PROGRAM: program.read_bytes(), "/init": init.encode()}
        files = {name: cpio.file(data, 0o755) for name, data in entries.items()}
        cpio.write_archive(stream, files)
    common = ["--kernel", str(debian_cloud_image.kernel), "--ramdisk", str(ramdisk)]

    def start(*arguments: str, parameters: str = "") -> Guest:
        command_line = f'console=hvc0 parameters="{parameters}"'
        return start_guest(*common, "--cmdline", command_line, *arguments)

    return start


def checksum(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(b"")
    os.truncate(path, SIZE)
    return path


@pytest.mark.parametrize(
    ("options", "arguments", "parameters"),
    [
        ("", [], ""),
        ("persistent-grants=1", ["--vcpus", "2"], ""),
        (
            "cache=writethrough,sector-size=4096",
            [],
            "max_ring_page_order=4 max_indirect_segments=256",
        ),
        ("no-discard", ["--vcpus", "4"], "max_queues=3 max_indirect_segments=11"),
    ],
)
def test_patterns(
    start_with_program: Start,
    disk: Path,
    tmp_path: Path,
    options: str,
    arguments: list[str],
    parameters: str,
) -> None:
    figures = tmp_path / "figures.json"
    spec = f"{disk},raw,xvda,rw,{options}".rstrip(",")
    guest = start_with_program(
        "--disk", spec, "--stats-json", str(figures), *arguments, parameters=parameters
    )
    guest.open_shell()
    for pair in parameters.split():
        name, _, value = pair.partition("=")
        assert guest.check(f"cat /sys/module/xen_blkfront/parameters/{name}") == value
    assert "verified" in guest.check(f"{PROGRAM} verify /dev/xvda 5")
    inside = guest.check("md5sum < /dev/xvda").split()[0]
    assert inside == checksum(disk)
    guest.send_line("poweroff -f")
    assert guest.wait() == 0
    counters = json.loads(figures.read_text())["devices"]["vbd-51712"]
    assert counters["errors"] == counters["refused"] == 0
    assert counters["writes"] > 100
    assert (counters["discards"] > 0) == ("no-discard" not in options)
    assert (counters["flushes"] > 0) == ("writethrough" not in options)


@needs_qemu
def test_qcow2(start_with_program: Start, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, str(SIZE)], check=True)
    guest = start_with_program("--disk", f"{path},qcow2,xvda,rw")
    guest.open_shell()
    assert "verified" in guest.check(f"{PROGRAM} verify /dev/xvda 3")
    inside = guest.check("md5sum < /dev/xvda").split()[0]
    guest.send_line("poweroff -f")
    assert guest.wait() == 0
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-O", "raw", path, raw], check=True)
    assert checksum(raw) == inside


def test_read_only_and_resize(start_with_program: Start, disk: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.img"
    other.write_bytes(bytes(range(256)) * 4096)
    guest = start_with_program("--disk", f"{disk},raw,xvda,rw", "--disk", f"{other},raw,xvdb,ro")
    guest.open_shell()
    assert guest.check("cat /sys/block/xvdb/ro /sys/block/xvda/ro").split() == ["1", "0"]
    assert guest.run("dd if=/dev/zero of=/dev/xvdb count=1").status != 0
    assert guest.check("md5sum < /dev/xvdb").split()[0] == checksum(other)
    assert guest.check("cat /sys/block/xvda/size") == str(SIZE // 512)
    os.truncate(disk, 2 * SIZE)
    command = "dd if=/dev/xvda of=/dev/null count=1 iflag=direct 2> /dev/null; sleep 0.3; "
    deadline = time.monotonic() + 30
    while guest.check(command + "cat /sys/block/xvda/size") != str(2 * SIZE // 512):
        assert time.monotonic() < deadline
    assert "verified" in guest.check(f"{PROGRAM} verify /dev/xvda 1")


def test_what_was_flushed_survives_a_kill(start_with_program: Start, disk: Path) -> None:
    """Of each turn: all records of which the guest has said that they are on the disk."""
    for turn in range(2):
        guest = start_with_program("--disk", f"{disk},raw,xvda,rw")
        guest.open_shell()
        guest.send_line(f"{PROGRAM} sync /dev/xvda")
        guest.expect(f"synced {40 + 17 * turn}\\b")
        guest.process.kill()
        guest.wait()
        last = max(
            int(line.split()[1])
            for line in guest.console.split("\n")[:-1]
            if line.startswith("synced ") and line.split()[1].isdigit()
        )
        content = disk.read_bytes()
        for number in range(last + 1):
            record = content[number * 512 : (number + 1) * 512].rstrip(b"\0")
            assert record == b"record %d" % number
        os.truncate(disk, 0)
        os.truncate(disk, SIZE)


FILES = 64
"""How many files ``disk files`` keeps: a later one replaces the one before it."""


def e2fs(tool: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """One of the programs for ext4, which are not on everybody's path."""
    return subprocess.run(
        [tool, *arguments],
        env=os.environ | {"PATH": "/usr/sbin:/sbin"},
        capture_output=True,
        text=True,
        check=False,
    )


def content(number: int) -> bytes:
    """What ``disk files`` writes into a file."""
    line = b"file %d\n" % number
    size = number * 7919 % 200_000 + 1
    return (line * (size // len(line) + 1))[:size]


def files_in(disk: Path, folder: Path) -> dict[str, bytes]:
    """The files at the root of a file system that is not mounted."""
    folder.mkdir()
    done = e2fs("debugfs", "-R", f"rdump / {folder}", disk)
    assert done.returncode == 0, done.stderr
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@needs_e2fsprogs
def test_ext4_recovers_from_kills(start_with_program: Start, disk: Path, tmp_path: Path) -> None:
    """Each time e2fsck finds only what the journal knows, and each file that was acknowledged.

    e2fsck repairs a copy, and the kernel of the next guest the original: both find the same.
    """
    os.truncate(disk, 4 * SIZE)
    made = e2fs("mke2fs", "-q", "-t", "ext4", disk)
    assert made.returncode == 0, made.stderr
    kept = -1
    for turn, options in enumerate(("", "persistent-grants=1", "cache=writethrough")):
        guest = start_with_program("--disk", f"{disk},raw,xvda,rw,{options}".rstrip(","))
        guest.open_shell()
        guest.check("mount -t ext4 /dev/xvda /mnt")
        guest.send_line(f"{PROGRAM} files /mnt {kept + 1}")
        guest.expect(f"kept {kept + 40 + turn}\\b")
        guest.process.kill()
        guest.wait()
        kept = max(map(int, re.findall(r"^kept (\d+)\n", guest.console, re.MULTILINE)))

        recovered = tmp_path / f"recovered{turn}"
        shutil.copyfile(disk, recovered)
        assert "needs_recovery" in e2fs("dumpe2fs", "-h", recovered).stdout
        # Unlike -y, -p refuses to repair what a kill alone cannot explain.
        repair = e2fs("e2fsck", "-fp", recovered)
        assert repair.returncode in (0, 1), repair.stdout
        assert e2fs("e2fsck", "-fn", recovered).returncode == 0
        found = files_in(recovered, tmp_path / f"files{turn}")
        for number in range(max(0, kept + 1 - FILES), kept + 1):
            # The next ones may be there already, though the console has not told yet.
            expected = (content(number), content(number + FILES))
            assert found[str(number % FILES)] in expected, f"file {number} of {kept}"
