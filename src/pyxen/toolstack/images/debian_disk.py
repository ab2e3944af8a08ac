# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole Debian system in a disk image.

mmdebstrap installs the packages into a folder, as root or in a user namespace, and hands the result
on as a tar archive. `mke2fs -d` makes an ext4 file system with the content of a folder. Nothing is
mounted. Who is not root cannot have files of other owners: then the archive is unpacked, and the
file system made, under fakeroot, which tells both programs the owners that were meant.

The image has no partitions and no boot loader. Its kernel is started from outside, with pyxen's
initramfs, which loads the front end of disks and changes over to the root file system: that takes
a second in an emulated guest, where Debian's initrd takes ten. What the guest is told beyond its
packages lies in `disk/`, as files with their paths in the guest.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import re
import shlex
import shutil
import signal
import subprocess
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, Final

from pyxen.errors import PyxenError
from pyxen.toolstack.images.sources import Sources
from pyxen.toolstack.progress import Progress

KERNEL_PACKAGE: Final = "linux-image-cloud-amd64"
PACKAGES: Final = (
    KERNEL_PACKAGE,
    "ca-certificates",
    "cloud-init",
    "dbus",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "nano",
    "netbase",
    "openssh-server",
    "procps",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
)
SIZE: Final = 4 << 30
"""Of the file system; the file has holes where nothing is."""

_NO_SOURCES: Final = "# The sources that this system was made from cannot be reached from a guest."
_PROGRAMS: Final = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "unshare": "util-linux"}
_SYSTEM_PATH: Final = "/usr/sbin:/sbin"
"""Where mke2fs is, which is not in the path of all users."""
_LEFT_OUT: Final = ("man", "locale", "doc", "info", "lintian")
_ENABLED: Final = ("systemd-networkd", "ssh-host-keys")
_MASKED: Final = (
    # hardware that a domain has not
    "getty@tty1.service",
    "getty-static.service",
    "modprobe@drm.service",
    "modprobe@efi_pstore.service",
    "systemd-pstore.service",
    "systemd-repart.service",
    # work in the background, which would slow an emulated guest down at any moment
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    # programs of other architectures
    "proc-sys-fs-binfmt_misc.automount",
    "systemd-binfmt.service",
)
# fakeroot loses files with extended attributes: ping gets what its package falls back to.
_FINISH: Final = f"""\
set -e
chroot "$1" systemctl --quiet enable {" ".join(_ENABLED)}
chroot "$1" passwd --quiet --delete root
if chroot "$1" setcap -q -r /usr/bin/ping; then chmod u+s "$1"/usr/bin/ping; fi
rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap \
    "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/resolv.conf
ln -s ../run/systemd/resolve/stub-resolv.conf "$1"/etc/resolv.conf
"""
_UNPACK: Final = """\
set -e
tar --extract --file="$1" --directory="$2" --numeric-owner --preserve-permissions \
    --exclude='./dev/*'
mke2fs -q -t ext4 -L root -m 1 -i 32768 -E lazy_itable_init=0,nodiscard -d "$2" "$3" "$4"
"""


def check_programs() -> None:
    """Raise PyxenError when this machine lacks what a disk image is made with."""
    needed = dict(_PROGRAMS)
    if os.geteuid() != 0:
        needed["fakeroot"] = "fakeroot"
    missing = [package for program, package in needed.items() if not _found(program)]
    if missing:
        raise PyxenError(
            f"a disk image is made with {' and '.join(missing)}: install "
            f"{'it' if len(missing) == 1 else 'them'} first (apt-get install {' '.join(missing)})"
        )


def build_disk(disk: Path, tree: Path, sources: Sources, progress: Progress) -> None:
    """Install Debian into the folder `tree`, which is made, and write its file system to `disk`.

    Raises:
        PyxenError: mmdebstrap or mke2fs failed, with their reason.
    """
    tree.mkdir()
    files, archive = tree.with_name("guest.tar"), tree.with_name("debian.tar")
    with files.open("wb") as stream:
        _write_guest_files(stream, sources)
    installation = _installation(files, archive, sources)
    with _program(installation, temporary=tree.parent) as installing:
        lines = list(_followed(installing, progress))
    if installing.returncode != 0:
        raise PyxenError(f"Debian was not installed: {_reason(lines)}")
    with progress.step("file system"), _program(_unpacking(archive, tree, disk)) as unpacking:
        _, errors = unpacking.communicate()
    if unpacking.returncode != 0:
        raise PyxenError(f"the file system was not made: {_reason(errors.splitlines())}")
    archive.unlink()


def installed_versions(tree: Path) -> dict[str, str]:
    """Return the versions of the packages that were asked for, by name."""
    status = (tree / "var/lib/dpkg/status").read_text()
    versions = dict(re.findall(r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)$", status, re.MULTILINE))
    return {name: versions[name] for name in PACKAGES}


def recipe() -> str:
    """Return a short hash that changes when pyxen would build a different disk."""
    digest = hashlib.sha256(resources.files(__package__).joinpath("debian_disk.py").read_bytes())
    for path, data in _own_files():
        digest.update(b"\0" + path.encode() + b"\0" + data)
    return digest.hexdigest()[:16]


def _installation(files: Path, archive: Path, sources: Sources) -> list[str]:
    return [
        *_own_mounts(),
        "mmdebstrap",
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join(PACKAGES)}",
        '--aptopt=APT::Install-Recommends "false"',
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _LEFT_OUT),
        f"--customize-hook=tar-in {shlex.quote(str(files))} /",
        f"--customize-hook={_FINISH}",
        sources.codename,
        str(archive),
        *(str(source) for source in sources.here),
    ]


def _own_mounts() -> list[str]:
    """What to put before mmdebstrap, so that its mounts are not the machine's.

    As root it mounts /proc, /sys and the machine's /dev/shm in its folder. One that is killed would
    leave them there, for whoever then removes the folder with all that is in it.
    """
    command = ["unshare", "--mount"]
    # Root in a container may not do this; then mmdebstrap mounts nothing, either.
    if os.geteuid() == 0 and _succeeds([*command, "true"]):
        return command
    return []


def _unpacking(archive: Path, tree: Path, disk: Path) -> list[str]:
    command = ["sh", "-c", _UNPACK, "sh", str(archive), str(tree), str(disk), f"{SIZE >> 20}M"]
    return command if os.geteuid() == 0 else ["fakeroot", *command]


@contextmanager
def _program(command: list[str], temporary: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a program that ends with the context, and clears up if that is earlier than its work."""
    # The kernel's own initrd would be made and never used.
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "PATH": _search_path(), "INITRD": "No"}
    # What is left of it then goes with the image. In a user namespace it could not get there.
    if temporary is not None and os.geteuid() == 0:
        environment["TMPDIR"] = str(temporary)
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            yield process
        except BaseException:
            # To all of its group, as from a terminal: mmdebstrap clears up when it gets this.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            raise


def _followed(installing: subprocess.Popen[str], progress: Progress) -> Iterator[str]:
    """Show what mmdebstrap says that it does, until it has done all; yield its lines."""
    assert installing.stderr is not None
    with ExitStack() as step:
        for line in installing.stderr:
            yield line
            if (match := re.match(r"I: (\S.*?)\.\.\.$", line)) is not None:
                step.close()
                step.enter_context(progress.step(f"Debian: {match[1]}"))


def _reason(lines: list[str]) -> str:
    """Return what the first error was: those after it follow from it."""
    full = os.strerror(errno.ENOSPC)
    if any(full in line for line in lines):
        return full
    marked = [line for line in lines if re.match(r"E: |dpkg: error|tar: |mke2fs: ", line)]
    reason = (marked or lines or ["no reason given"])[0].strip().removeprefix("E: ")
    if "chroot mode automatically" in reason:
        return "it needs root, or user namespaces with numbers in /etc/subuid, or fakechroot"
    return reason


def _write_guest_files(stream: IO[bytes], sources: Sources) -> None:
    """Write a tar archive of what the guest gets beyond its packages."""
    texts = dict(_own_files())
    texts["etc/apt/sources.list"] = _lines(sources.guest or [_NO_SOURCES])
    if sources.proxies:
        texts["etc/apt/apt.conf.d/90proxy"] = _lines(sources.proxies)
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, data in texts.items():
            member = tarfile.TarInfo(path)
            member.size = len(data)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(data))
        for unit in _MASKED:
            member = tarfile.TarInfo(f"etc/systemd/system/{unit}")
            member.type = tarfile.SYMTYPE
            member.linkname = "/dev/null"
            archive.addfile(member)


def _lines(items: Iterable[object]) -> bytes:
    return "".join(f"{item}\n" for item in items).encode()


def _own_files() -> Iterator[tuple[str, bytes]]:
    """Yield the files in `disk/`, with their paths in the guest, in a fixed order."""
    return _below(resources.files(__package__).joinpath("disk"), "")


def _below(folder: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.is_dir():
            yield from _below(entry, f"{prefix}{entry.name}/")
        else:
            yield f"{prefix}{entry.name}", entry.read_bytes()


def _found(program: str) -> bool:
    return shutil.which(program, path=_search_path()) is not None


def _search_path() -> str:
    return f"{os.environ.get('PATH', os.defpath)}:{_SYSTEM_PATH}"


def _succeeds(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
