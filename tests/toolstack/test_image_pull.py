# SPDX-License-Identifier: GPL-2.0-or-later
"""Pulls from an apt of our own: shell scripts that hand out small packages, built with dpkg-deb."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from test_cpio import read_back
from test_kernel_modules import module_file

from pyxen.errors import PyxenError
from pyxen.toolstack import images
from pyxen.toolstack.images import debian_disk

BUSYBOX = "#!/bin/sh\nprintf 'busybox\\nsh\\n'\n"

# Packages are files PACKAGE.deb with PACKAGE.show beside them. The folder `fresh` holds what is
# seen after an update only.
APT_CACHE = """\
#!/bin/sh
folder=$POOL
case "$*" in *Dir::State::lists*) folder=$POOL/fresh ;; esac
found=
for package; do
    [ ! -e "$folder/$package.show" ] || { cat "$folder/$package.show"; echo; found=yes; }
done
[ -n "$found" ] && exit
echo "E: No packages found" >&2
exit 100
"""
APT_GET = """\
#!/bin/sh
echo "$*" >>"$POOL/log"
folder=$POOL
case "$*" in *Dir::State::lists*) folder=$POOL/fresh ;; esac
case "$*" in *update)
    [ -d "$POOL/fresh" ] && exit
    printf 'W: something else\\nE: Failed to fetch: no network\\n' >&2
    exit 100 ;;
esac
for package; do :; done
package=${package%%=*}
[ -e "$POOL/hang" ] && exec sleep 60
cp "$folder/$package.deb" "${package}_1_amd64.deb" 2>/dev/null && exit
echo "E: Failed to fetch $package  404  Not Found" >&2
exit 100
"""


class Pool:
    """The packages that the imitated apt offers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)

    def add(self, name: str, depends: str = "", version: str = "1", **files: bytes | str) -> None:
        tree = self.folder / "tree"
        for path, content in {"./DEBIAN/control": self._control(name), **files}.items():
            target = tree / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.encode())
            target.chmod(0o755)
        deb = self.folder / f"{name}.deb"
        subprocess.run(["dpkg-deb", "--build", tree, deb], check=True, capture_output=True)
        shutil.rmtree(tree)
        self.folder.joinpath(f"{name}.show").write_text(
            f"Package: {name}\nVersion: {version}\nDepends: {depends}\nFilename: pool/{name}.deb\n"
            f"Size: {deb.stat().st_size}\nDescription: x\n more\n\nPackage: other\n"
        )

    def fill(self, version: str = "1", kernel: bytes = b"the kernel") -> None:
        modules = "lib/modules/6.1/kernel/drivers"
        self.add("linux-image-amd64", "linux-image-6.1-amd64 (= 1), base | other", version)
        self.add(
            "linux-image-6.1-amd64",
            "kmod, initramfs-tools (>= 0.1) | linux-initramfs-tool",
            version,
            **{
                "boot/vmlinuz-6.1": kernel,
                f"{modules}/block/xen-blkfront.ko": module_file(),
                f"{modules}/net/xen-netfront.ko": module_file(),
            },
        )
        self.add("busybox-static", "", version, **{"bin/busybox": BUSYBOX})

    def _control(self, name: str) -> str:
        return (
            f"Package: {name}\nVersion: 1\nArchitecture: amd64\n"
            "Maintainer: none <none@example.org>\nDescription: x\n"
        )


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pool:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb on this machine")
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, text in (("apt-get", APT_GET), ("apt-cache", APT_CACHE)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("POOL", str(tmp_path / "pool"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return Pool(tmp_path / "pool")


def left(tmp_path: Path) -> list[str]:
    store = tmp_path / "data/pyxen/images"
    return sorted(path.name for path in store.iterdir()) if store.exists() else []


def test_pull_makes_an_image_of_kernel_and_initramfs(pool: Pool, tmp_path: Path) -> None:
    pool.fill()

    image = images.pull_image("debian")

    assert image == images.find("debian")
    assert image.kernel.read_bytes() == b"the kernel"
    entries = read_back(image.ramdisk.read_bytes())
    assert entries["bin/busybox"][0].data.decode() == BUSYBOX
    assert b"xen-netfront.ko" in entries["etc/modules"][0].data
    assert image.packages == {
        "linux-image-amd64": "1",
        "linux-image-6.1-amd64": "1",
        "busybox-static": "1",
    }
    assert left(tmp_path) == [".lock", "debian"]
    assert sorted(path.name for path in image.kernel.parent.iterdir()) == [
        "kernel",
        "meta.json",
        "ramdisk",
    ]


def test_pull_downloads_again_only_when_there_is_something_newer(pool: Pool) -> None:
    pool.fill()
    first = images.pull_image("debian")
    log = (pool.folder / "log").read_text()

    assert images.pull_image("debian") == first
    assert (pool.folder / "log").read_text() == log

    pool.fill(version="2", kernel=b"newer")
    assert images.pull_image("debian").kernel.read_bytes() == b"newer"


def test_pull_replaces_a_damaged_image(pool: Pool) -> None:
    pool.fill()
    image = images.pull_image("debian")
    (image.kernel.parent / "meta.json").write_text("{")

    assert images.pull_image("debian").kernel.read_bytes() == b"the kernel"


def test_pull_fetches_lists_of_its_own_when_the_systems_lack_the_package(pool: Pool) -> None:
    Pool(pool.folder / "fresh").fill()

    assert images.pull_image("debian").kernel.read_bytes() == b"the kernel"
    assert " update\n" in (pool.folder / "log").read_text()


def test_pull_fetches_lists_of_its_own_when_the_systems_are_out_of_date(
    pool: Pool, tmp_path: Path
) -> None:
    pool.fill()
    (pool.folder / "linux-image-6.1-amd64.deb").unlink()
    Pool(pool.folder / "fresh").fill(version="2")

    assert images.pull_image("debian").packages["linux-image-6.1-amd64"] == "2"
    assert left(tmp_path) == [".lock", "debian"]


def test_pull_without_network_is_told_in_one_line(pool: Pool, tmp_path: Path) -> None:
    with pytest.raises(PyxenError) as caught:
        images.pull_image("debian")

    assert str(caught.value) == "apt's package lists were not fetched: Failed to fetch: no network"
    assert left(tmp_path) == [".lock"]


def test_pull_of_a_package_that_is_nowhere_is_told_in_one_line(pool: Pool) -> None:
    Pool(pool.folder / "fresh").fill()
    (pool.folder / "fresh/linux-image-6.1-amd64.deb").unlink()

    with pytest.raises(PyxenError, match=r"linux-image-6\.1-amd64 was not downloaded: .* 404"):
        images.pull_image("debian")


def test_pull_of_a_kernel_package_without_a_kernel_is_told(pool: Pool, tmp_path: Path) -> None:
    pool.fill()
    pool.add("linux-image-6.1-amd64", **{"boot/config-6.1": "x"})

    with pytest.raises(PyxenError, match="holds no boot/vmlinuz-"):
        images.pull_image("debian")
    assert left(tmp_path) == [".lock"]


def test_pull_of_an_unknown_image_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(PyxenError, match=r"no image fedora \(expected one of debian, debian-cloud"):
        images.pull_image("fedora")


def test_pull_without_apt_says_what_else_can_be_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(PyxenError, match=r"apt-get, .* not found: .* --kernel and --ramdisk"):
        images.pull_image("debian")


def test_pull_into_a_folder_that_cannot_be_made_is_told(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "file"))

    with pytest.raises(PyxenError, match="image debian was not made: Not a directory"):
        images.pull_image("debian")


def test_pull_onto_a_full_disk_is_told(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool.fill()
    dpkg_deb = tmp_path / "programs/dpkg-deb"
    dpkg_deb.write_text(
        "#!/bin/sh\n"
        "echo 'tar: ./a: Wrote only 7168 of 10240 bytes' >&2\n"
        "echo 'tar: ./b: Cannot write: No space left on device' >&2\n"
        "exit 2\n"
    )
    dpkg_deb.chmod(0o755)

    with pytest.raises(PyxenError, match=r"deb was not unpacked: No space left on device$"):
        images.pull_image("debian")
    assert left(tmp_path) == [".lock"]


# mmdebstrap's last argument but the sources is the archive; the tree is what the hooks would leave.
MMDEBSTRAP = """\
#!/bin/sh
printf '%s\\n' "$@" >"$POOL/mmdebstrap.log"
for word; do
    case $word in *.tar) archive=$word ;; "--customize-hook=tar-in"*) hook=$word ;; esac
done
files=${hook#*tar-in }
tar -tvf "${files% /}" >"$POOL/guest-files"
echo "I: extracting archives..." >&2
readlink /proc/self/ns/mnt >"$POOL/mounts"
if [ -e "$POOL/slow" ]; then
    trap 'echo cleared >"$POOL/cleared"; exit 1' INT
    for _ in 1 2 3 4 5 6 7 8 9 10; do sleep 6; done
fi
[ -e "$POOL/broken" ] && { echo "E: no such suite" >&2; exit 1; }
tar -cf "$archive" -C "$POOL/system" .
"""


def offer_a_system(pool: Pool, tmp_path: Path) -> None:
    """An mmdebstrap that installs what is in the folder `system`."""
    programs = tmp_path / "programs"
    (programs / "mmdebstrap").write_text(MMDEBSTRAP)
    (programs / "mmdebstrap").chmod(0o755)
    apt_get = (programs / "apt-get").read_text()
    target = "http://deb.example/debian/|bookworm|main|Debian|bookworm|amd64"
    start = f"#!/bin/sh\ncase \"$*\" in *indextargets*) echo '{target}'; exit ;; esac\n"
    (programs / "apt-get").write_text(apt_get.replace("#!/bin/sh\n", start, 1))
    for path, data in {
        "boot/vmlinuz-6.1": b"the disk's kernel",
        "etc/motd": b"hello",
        "lib/modules/6.1/kernel/drivers/xen-blkfront.ko": module_file(),
        "lib/modules/6.1/kernel/drivers/xen-netfront.ko": module_file(),
        "var/lib/dpkg/status": "".join(
            f"Package: {name}\nStatus: ok\nVersion: 1:2\nDescription: x\n y\n\n"
            for name in debian_disk.PACKAGES
        ).encode(),
    }.items():
        file = pool.folder / "system" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    pool.add("busybox-static", **{"bin/busybox": BUSYBOX})


def in_file_system(disk: Path, request: str) -> str:
    """What debugfs answers to a command."""
    command = ["/sbin/debugfs", "-R", request, str(disk)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


needs_e2fsprogs = pytest.mark.skipif(
    shutil.which("mke2fs", path="/usr/sbin:/sbin") is None, reason="no e2fsprogs"
)


@needs_e2fsprogs
def test_pull_makes_a_disk_of_a_whole_system(pool: Pool, tmp_path: Path) -> None:
    offer_a_system(pool, tmp_path)

    image = images.pull_image("debian-disk")

    assert image == images.find("debian-disk")
    assert image.disk is not None
    assert image.kernel.read_bytes() == b"the disk's kernel"
    assert b"xen-blkfront.ko" in read_back(image.ramdisk.read_bytes())["etc/modules"][0].data
    assert in_file_system(image.disk, "cat /etc/motd") == "hello"
    assert re.search(r"User: +0 +Group: +0 ", in_file_system(image.disk, "stat /etc/motd"))
    assert image.disk.stat().st_size == 4 << 30
    assert image.size < 100 << 20
    assert image.packages["cloud-init"] == "1:2"
    arguments = (pool.folder / "mmdebstrap.log").read_text().splitlines()
    assert arguments[-1] == "deb http://deb.example/debian bookworm main"
    guest_files = (pool.folder / "guest-files").read_text()
    for path in ("etc/apt/sources.list", "etc/cloud/cloud.cfg.d/90_pyxen.cfg", "etc/fstab"):
        assert re.search(rf"^-rw-r--r-- 0/0 .* {path}$", guest_files, re.MULTILINE)
    assert "etc/systemd/system/apt-daily.timer -> /dev/null" in guest_files
    assert left(tmp_path) == [".lock", "debian-disk"]


@needs_e2fsprogs
def test_a_disk_is_made_again_only_when_there_is_something_newer(
    pool: Pool, tmp_path: Path
) -> None:
    offer_a_system(pool, tmp_path)
    first = images.pull_image("debian-disk")
    (pool.folder / "mmdebstrap.log").unlink()

    # The same version, and an older one.
    pool.add("cloud-init", version="1:2")
    pool.add("kmod", version="9")
    assert images.pull_image("debian-disk") == first
    assert not (pool.folder / "mmdebstrap.log").exists()

    pool.add("udev", version="1:3")
    images.pull_image("debian-disk")
    assert (pool.folder / "mmdebstrap.log").exists()


@needs_e2fsprogs
def test_a_disk_that_cannot_be_made_is_told_in_one_line(pool: Pool, tmp_path: Path) -> None:
    offer_a_system(pool, tmp_path)
    (pool.folder / "broken").touch()

    with pytest.raises(PyxenError, match=r"^Debian was not installed: no such suite$"):
        images.pull_image("debian-disk")
    assert left(tmp_path) == [".lock"]


@needs_e2fsprogs
def test_an_interrupted_installation_clears_up_and_has_no_mounts_of_the_machine(
    pool: Pool, tmp_path: Path
) -> None:
    offer_a_system(pool, tmp_path)
    (pool.folder / "slow").touch()
    program = "from pyxen.toolstack import images; images.pull_image('debian-disk')"
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            if (pool.folder / "mounts").exists() and (pool.folder / "mounts").read_text():
                break
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert (pool.folder / "cleared").exists()
    assert left(tmp_path) == [".lock"]
    if os.geteuid() == 0 and subprocess.call(["unshare", "--mount", "true"]) == 0:
        here = os.readlink("/proc/self/ns/mnt")
        assert (pool.folder / "mounts").read_text().strip() != here


def test_without_mmdebstrap_a_disk_is_not_made(
    pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer_a_system(pool, tmp_path)
    (tmp_path / "programs/mmdebstrap").unlink()
    monkeypatch.setattr(debian_disk, "_search_path", lambda: str(tmp_path))

    with pytest.raises(
        PyxenError, match=r"made with mmdebstrap.*: install .*apt-get install mmdeb"
    ):
        images.pull_image("debian-disk")


@pytest.mark.parametrize("how", (signal.SIGINT, signal.SIGKILL))
def test_an_interrupted_pull_leaves_nothing_half_done(
    pool: Pool, tmp_path: Path, how: signal.Signals
) -> None:
    pool.fill()
    (pool.folder / "hang").touch()
    program = textwrap.dedent(
        """
        from pyxen.toolstack import images
        try:
            images.pull_image("debian")
        except KeyboardInterrupt:
            raise SystemExit(130)
        """
    )
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    deadline = time.monotonic() + 30
    while not (pool.folder / "log").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert any(name.startswith(".tmp-") for name in left(tmp_path))

    os.killpg(process.pid, how)
    assert process.wait(timeout=30) in (130, -signal.SIGKILL)

    assert images.list() == []
    if how is signal.SIGINT:
        assert left(tmp_path) == [".lock"]
    (pool.folder / "hang").unlink()
    images.pull_image("debian")
    assert left(tmp_path) == [".lock", "debian"]


def test_initramfs_is_built_with_the_modules_of_a_package(pool: Pool, tmp_path: Path) -> None:
    pool.fill()

    images.build_initramfs(
        tmp_path / "out", kernel_modules=pool.folder / "linux-image-6.1-amd64.deb"
    )

    entries = read_back((tmp_path / "out").read_bytes())
    assert entries["bin/busybox"][0].data.decode() == BUSYBOX
    assert "lib/modules/6.1/kernel/drivers/net/xen-netfront.ko" in entries


def test_initramfs_from_a_file_that_is_no_package_is_told(pool: Pool, tmp_path: Path) -> None:
    pool.fill()
    (tmp_path / "x.deb").write_bytes(b"hello")

    with pytest.raises(PyxenError, match=r"x\.deb was not unpacked: "):
        images.build_initramfs(tmp_path / "out", kernel_modules=tmp_path / "x.deb")


def test_initramfs_where_nothing_can_be_written_is_told(pool: Pool, tmp_path: Path) -> None:
    pool.fill()

    with pytest.raises(PyxenError, match="was not written: No such file or directory"):
        images.build_initramfs(tmp_path / "absent/out")


def test_debians_packages_make_an_image(debian_image: images.Image) -> None:
    """The real thing, where apt and a network are there."""
    assert debian_image.kernel.read_bytes()[0x202:0x206] == b"HdrS"
    entries = read_back(debian_image.ramdisk.read_bytes())
    listed = entries["etc/modules"][0].data.decode().splitlines()
    assert {Path(path).name for path in listed} >= {"xen-blkfront.ko", "xen-netfront.ko"}
    assert entries["bin/sh"][0].data == b"busybox"
