# SPDX-License-Identifier: GPL-2.0-or-later
"""The small root file system that pyxen's images boot into.

Linux unpacks the ramdisk that it was started with into a file system in memory and runs `/init`
there. Ours holds busybox (one static program that is a shell and some 270 commands, chosen by the
name under which it is called), a link to it for each command, the Xen front-end modules of the
kernel that it goes with, and an `/init` that gives a shell on the console.

The archive is not compressed: an emulated guest would take longer to decompress it than to
copy it.
"""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path

from pyxen.errors import PyxenError
from pyxen.toolstack.images import cpio
from pyxen.toolstack.images.modules import Module, load_order, release_folder

FRONT_ENDS = ("xen-blkfront", "xen-netfront")
"""The Xen front ends that distributions build as modules; the console's is in the kernel."""

READY_MARKER = "pyxen: user space reached"
"""The line that `/init` writes to the console when the guest has reached user space."""

_FOLDERS = ("/dev", "/mnt", "/proc", "/root", "/run", "/sys", "/tmp")
_SCRIPTS = ("/init", "/etc/console", "/etc/udhcpc/default.script")
_TEXTS = ("/etc/inittab",)


def write_initramfs(
    output: Path,
    *,
    busybox: Path,
    kernel_modules: Path | None = None,
    modules: Sequence[str] = FRONT_ENDS,
    files: Iterable[tuple[Path, str]] = (),
) -> None:
    """Write the archive to `output`, which appears only when it is complete.

    Args:
        output: file to write.
        busybox: a statically linked busybox.
        kernel_modules: folder with the modules of one kernel release, see
            `modules.release_folder`; None for a guest without modules.
        modules: names of the modules to carry and to load at the start of the guest.
        files: (path on this machine, absolute path in the guest); folders are taken with all that
            is in them. They replace what would be there otherwise, `/init` too.

    Raises:
        PyxenError: a file that cannot be read or does not fit.
        OSError: `output` cannot be written.
    """
    entries = _base(busybox)
    if kernel_modules is not None:
        release = release_folder(kernel_modules)
        entries |= _module_entries(release.name, load_order(release, modules))
    for host, guest in files:
        entries |= _added(host, guest)
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            cpio.write_archive(stream, entries)
        partial.replace(output)
    except ValueError as error:
        raise PyxenError(f"{output}: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


def recipe() -> str:
    """Return a short hash that changes when pyxen would build a different initramfs."""
    sources = ("initramfs.py", "cpio.py", "modules.py")
    parts = [resources.files(__package__).joinpath(name).read_bytes() for name in sources]
    parts += [_own(path) for path in (*_SCRIPTS, *_TEXTS)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _base(busybox: Path) -> dict[str, cpio.Entry]:
    entries = {path: cpio.folder() for path in _FOLDERS}
    # The kernel opens the console for /init before anything is mounted on /dev.
    entries["/dev/console"] = cpio.character_device(5, 1)
    # The kernel calls its helpers by paths in /sbin, for example /sbin/poweroff.
    entries["/sbin"] = cpio.symlink("bin")
    entries["/bin/busybox"] = cpio.file(_read(busybox), permissions=0o755)
    for command in _commands(busybox):
        if command != "busybox":
            entries[f"/bin/{command}"] = cpio.symlink("busybox")
    entries |= {path: cpio.file(_own(path), permissions=0o755) for path in _SCRIPTS}
    entries |= {path: cpio.file(_own(path)) for path in _TEXTS}
    return entries


def _own(path: str) -> bytes:
    """Return the content of a guest file that comes with pyxen."""
    return resources.files(__package__).joinpath("guest" + path).read_bytes()


def _commands(busybox: Path) -> list[str]:
    """Ask busybox which commands it has: it is a static x86-64 program, as this machine's are."""
    try:
        result = subprocess.run(
            [busybox.absolute(), "--list"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise PyxenError(f"{busybox}: not a busybox that runs here: {error}") from error
    return result.stdout.split()


def _module_entries(release: str, modules: Sequence[Module]) -> dict[str, cpio.Entry]:
    paths = [f"/lib/modules/{release}/{module.path}" for module in modules]
    entries = {path: cpio.file(module.data) for path, module in zip(paths, modules, strict=True)}
    entries["/etc/modules"] = cpio.file("".join(f"{path}\n" for path in paths).encode())
    return entries


def _added(host: Path, guest: str) -> dict[str, cpio.Entry]:
    if not guest.startswith("/"):
        raise PyxenError(f"{guest}: the path in the guest must begin with /")
    guest = os.path.normpath(guest)
    try:
        mode = host.lstat().st_mode
        if stat.S_ISLNK(mode):
            return {guest: cpio.symlink(os.readlink(host))}
        if stat.S_ISDIR(mode):
            entries = {guest: cpio.folder(stat.S_IMODE(mode))}
            for child in sorted(host.iterdir()):
                entries |= _added(child, f"{guest}/{child.name}")
            return entries
    except OSError as error:
        raise PyxenError(f"{host}: {error.strerror}") from error
    if not stat.S_ISREG(mode):
        raise PyxenError(f"{host}: only files, folders and symbolic links can be added")
    return {guest: cpio.file(_read(host), stat.S_IMODE(mode))}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PyxenError(f"{path}: {error.strerror}") from error
