# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels of other releases than this machine's, older and newer, as their packages have them."""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import tempfile
import urllib.request
from pathlib import Path

import pytest
from guest import StartGuest

from pyxen.errors import PyxenError
from pyxen.toolstack import images
from pyxen.toolstack.images.packages import Apt, unpack
from pyxen.toolstack.images.sources import machine_sources
from pyxen.toolstack.images.store import cache_folder

pytestmark = [pytest.mark.guest, pytest.mark.slow]

PACKAGE = "linux-image-cloud-amd64"
RELEASES = ("bullseye", "trixie")
"""Linux 5.10 and 6.12. The unstable release is another one each week, which no test should be."""
_PARTS = re.compile(r"linux-(image|modules|binary)-[0-9]")


@pytest.fixture(params=RELEASES)
def kernel(request: pytest.FixtureRequest) -> Path:
    """A folder with `kernel` and `ramdisk`; kept for the next time, as images are."""
    folder = cache_folder() / "testing" / f"{PACKAGE}-{request.param}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(dir=folder.parent))
        try:
            make_folder(request.param, work)
            work.rename(folder)
        except (OSError, PyxenError) as error:
            if not folder.exists():  # or another process was faster
                pytest.skip(f"no kernel of {request.param}: {error}")
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder


def make_folder(release: str, folder: Path) -> None:
    """Fetch the packages of a release's kernel from where this machine gets its own."""
    source = machine_sources(Apt()).guest[0].uri
    listing = fetch(f"{source}/dists/{release}/main/binary-amd64/Packages.xz")
    stanzas = {
        name[1]: stanza
        for stanza in lzma.decompress(listing).decode().split("\n\n")
        if (name := re.match(r"Package: (linux-\S+)", stanza)) is not None
    }
    tree = folder / "tree"
    waiting = [PACKAGE]
    while waiting:
        stanza = stanzas.pop(waiting.pop(), "")
        for field in re.findall(r"^(?:Pre-)?Depends: (.*)$", stanza, re.MULTILINE):
            waiting += [name for name in re.split(r"[ ,|]+", field) if _PARTS.match(name)]
        if path := re.search(r"^Filename: (\S+)$", stanza, re.MULTILINE):
            package = folder / "package.deb"
            package.write_bytes(fetch(f"{source}/{path[1]}"))
            unpack(package, tree)
            package.unlink()
    vmlinuz = [*tree.glob("boot/vmlinuz-*"), *tree.glob("usr/lib/modules/*/vmlinuz")]
    vmlinuz[0].rename(folder / "kernel")
    images.build_initramfs(folder / "ramdisk", kernel_modules=tree)
    shutil.rmtree(tree)


def fetch(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=60) as answer:
        data: bytes = answer.read()
    return data


def test_a_kernel_boots_and_uses_its_devices(
    kernel: Path, start_guest: StartGuest, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(os.urandom(4 << 20))
    guest = start_guest(
        *("--kernel", str(kernel / "kernel"), "--ramdisk", str(kernel / "ramdisk")),
        *("--vcpus", "2", "--disk", f"{disk},raw,xvda,rw", "--net", "none"),
    )
    guest.open_shell()
    assert guest.check("cat /sys/hypervisor/type") == "xen"
    assert guest.check("grep -c ^processor /proc/cpuinfo") == "2"
    assert guest.check("cat /sys/class/net/eth0/address").startswith("00:16:3e:")
    first = hashlib.md5(disk.read_bytes()).hexdigest()
    assert guest.check("md5sum /dev/xvda").split()[0] == first
    guest.check("dd if=/dev/zero of=/dev/xvda bs=64k count=16 seek=16 && sync")
    assert guest.check("sh -c 'dmesg | grep -c -E \"(BUG|WARNING):\"; true'") == "0"
    guest.send_line("poweroff -f")
    assert guest.wait() == 0
    data = disk.read_bytes()
    assert data[1 << 20 : 2 << 20] == bytes(1 << 20)
    assert hashlib.md5(data).hexdigest() != first
