# SPDX-License-Identifier: GPL-2.0-or-later
"""Images made from the distribution's packages.

A Debian kernel package holds everything that a guest needs except a root file system: the kernel as
a bzImage in `boot/` and its modules in `lib/modules/`. `linux-image-amd64` itself is empty and
depends on the package of the current kernel release. The kernel is copied as it is; the ramdisk is
pyxen's own (see `initramfs`), with the busybox of the package busybox-static. An image with a disk
has its kernel from the system on that disk (see `debian_disk`), which has the modules that fit.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from msgspec import Struct

from pyxen.errors import PyxenError
from pyxen.toolstack.images import debian_disk, initramfs, store
from pyxen.toolstack.images.packages import (
    Apt,
    AptError,
    Package,
    apt_with_own_lists,
    check_programs,
    closure,
    newer,
    unpack,
)
from pyxen.toolstack.images.sources import machine_sources
from pyxen.toolstack.progress import Progress, SilentProgress

BUSYBOX_PACKAGE = "busybox-static"
# Newer releases split the kernel and its modules off into packages of their own.
_KERNEL_PREFIXES = ("linux-image-", "linux-binary-", "linux-modules-")


_T = TypeVar("_T")


class Recipe(Struct, frozen=True):
    """What an image is made from; `disk` if it is a whole system."""

    description: str
    kernel_package: str
    disk: bool = False


RECIPES = {
    "debian": Recipe("Debian's generic kernel with busybox", "linux-image-amd64"),
    "debian-cloud": Recipe("Debian's cloud kernel with busybox", "linux-image-cloud-amd64"),
    "debian-disk": Recipe("a whole Debian on a disk", debian_disk.KERNEL_PACKAGE, disk=True),
}
"""The images that can be pulled, by name."""


def pull_image(name: str, progress: Progress | None = None) -> store.Image:
    """Fetch an image, or return it when it is there and nothing newer is to be had.

    Nothing is left behind when this is interrupted, or it is cleared away by the next call.

    Raises:
        PyxenError: unknown name, no apt, package not found, no network, disk full.
    """
    if name not in RECIPES:
        raise PyxenError(f"there is no image {name} (expected one of {', '.join(RECIPES)})")
    progress = progress or SilentProgress()
    with _disk_errors_told(f"image {name} was not made"), store.locked_store():
        return _with_apt(lambda apt: _pull(apt, name, progress), progress)


def build_initramfs(
    output: Path,
    *,
    busybox: Path | None = None,
    kernel_modules: Path | None = None,
    modules: Sequence[str] = initramfs.FRONT_ENDS,
    files: Iterable[tuple[Path, str]] = (),
    progress: Progress | None = None,
) -> None:
    """Write an initramfs for a kernel of the user's own.

    The arguments are those of `initramfs.write_initramfs`, except that `busybox` is downloaded when
    it is None and `kernel_modules` may be a .deb package.

    Raises:
        PyxenError: a file that cannot be read or does not fit, or busybox could not be had.
    """
    progress = progress or SilentProgress()
    with (
        _disk_errors_told(f"{output} was not written"),
        tempfile.TemporaryDirectory(prefix="pyxen-") as name,
    ):
        work = Path(name)
        if busybox is None:
            busybox = _with_apt(lambda apt: _busybox(apt, work, progress), progress)
        if kernel_modules is not None and kernel_modules.is_file():
            unpacked = work / "kernel"
            unpack(kernel_modules, unpacked)
            kernel_modules = unpacked
        initramfs.write_initramfs(
            output, busybox=busybox, kernel_modules=kernel_modules, modules=modules, files=files
        )


def _with_apt(work: Callable[[Apt], _T], progress: Progress) -> _T:
    """Do the work with the system's package lists, and else with freshly fetched ones."""
    check_programs()
    try:
        return work(Apt())
    except AptError:
        return work(apt_with_own_lists(store.cache_folder() / "apt", progress))


def _pull(apt: Apt, name: str, progress: Progress) -> store.Image:
    recipe = RECIPES[name]
    make = _make_disk_image if recipe.disk else _make_ramdisk_image
    make(apt, name, recipe, progress)
    return store.find_image(name)


def _make_ramdisk_image(apt: Apt, name: str, recipe: Recipe, progress: Progress) -> None:
    kernel_packages = closure(apt, recipe.kernel_package, _KERNEL_PREFIXES)
    versions = {p.name: p.version for p in (*kernel_packages, apt.show(BUSYBOX_PACKAGE))}
    there = _there(name)
    if there is not None and (there.packages, there.recipe) == (versions, initramfs.recipe()):
        return
    with store.new_image(name) as folder:
        with _workspace(folder) as work:
            for package in kernel_packages:
                _fetch(apt, package, work / "kernel", progress)
            busybox = _busybox(apt, work, progress)
            with progress.step("initramfs"):
                _add_kernel(folder, work / "kernel", busybox)
        _describe(folder, recipe, versions, initramfs.recipe())


def _make_disk_image(apt: Apt, name: str, recipe: Recipe, progress: Progress) -> None:
    debian_disk.check_programs()
    sources = machine_sources(apt)
    mark = f"{initramfs.recipe()} {debian_disk.recipe()} {sources.codename}"
    there = _there(name)
    if there is not None and there.recipe == mark:
        # mmdebstrap fetches lists of its own: what it has installed may be newer than ours say.
        listed = apt.versions(there.packages)
        if not any(newer(listed[package], there.packages[package]) for package in listed):
            return
    with store.new_image(name) as folder:
        with _workspace(folder) as work:
            busybox = _busybox(apt, work, progress)
            tree = work / "tree"
            debian_disk.build_disk(folder / "disk", tree, sources, progress)
            _add_kernel(folder, tree, busybox)
            versions = debian_disk.installed_versions(tree)
        _describe(folder, recipe, versions, mark)


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """Give a folder for what does not become a part of the image."""
    # Unpacked, a kernel package takes several hundred megabytes: not in /tmp, which may be
    # memory, and gone before the image takes its place.
    work = folder / "work"
    work.mkdir()
    yield work
    shutil.rmtree(work)


def _add_kernel(folder: Path, tree: Path, busybox: Path) -> None:
    """Put the kernel into the image, and a ramdisk with its modules."""
    shutil.copyfile(_kernel_file(tree), folder / "kernel")
    initramfs.write_initramfs(folder / "ramdisk", busybox=busybox, kernel_modules=tree)


def _describe(folder: Path, recipe: Recipe, versions: dict[str, str], mark: str) -> None:
    store.describe(
        folder,
        description=recipe.description,
        packages=versions,
        recipe=mark,
        pulled=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _there(name: str) -> store.Image | None:
    try:
        return store.find_image(name)
    except PyxenError:
        # None there, or a damaged one: both are made anew.
        return None


def _fetch(apt: Apt, package: Package, folder: Path, progress: Progress) -> None:
    """Download a package and unpack it into a folder."""
    with tempfile.TemporaryDirectory(prefix="download-", dir=folder.parent) as name:
        with progress.step(package.name, total=package.size) as report:
            file = apt.download(package, Path(name), report)
        unpack(file, folder)


def _busybox(apt: Apt, work: Path, progress: Progress) -> Path:
    _fetch(apt, apt.show(BUSYBOX_PACKAGE), work / "busybox", progress)
    for path in ("bin/busybox", "usr/bin/busybox"):
        if (work / "busybox" / path).is_file():
            return work / "busybox" / path
    raise PyxenError(f"package {BUSYBOX_PACKAGE}: no bin/busybox in it")


def _kernel_file(folder: Path) -> Path:
    kernels = sorted(folder.glob("boot/vmlinuz-*")) + sorted(
        folder.glob("usr/lib/modules/*/vmlinuz")
    )
    if not kernels:
        raise PyxenError("the kernel package holds no boot/vmlinuz-*")
    return kernels[0]


@contextmanager
def _disk_errors_told(consequence: str) -> Iterator[None]:
    """Turn what the disk refuses into one line for the user."""
    try:
        yield
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        raise PyxenError(f"{consequence}: {error.strerror or error}{place}") from error
