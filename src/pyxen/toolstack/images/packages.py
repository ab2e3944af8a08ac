# SPDX-License-Identifier: GPL-2.0-or-later
"""Packages of the distribution, downloaded and unpacked without installing them.

`apt-get download` and `dpkg-deb` need no root: they only read apt's package lists. Those lists may
be absent (small containers remove them) or so old that the server has dropped what they name.
Both are cured by lists of our own, in the user's cache folder, which need no root either.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

from msgspec import Struct

from pyxen.errors import PyxenError
from pyxen.toolstack.progress import Progress, Report

_PROGRAMS = ("apt-get", "apt-cache", "dpkg-deb")


class Package(Struct, frozen=True):
    """A package that apt could download; `size` in bytes, `depends` as names without versions."""

    name: str
    version: str
    size: int
    depends: tuple[str, ...]


class AptError(PyxenError):
    """A package that cannot be had with the package lists in use."""


class Apt:
    """apt, with the system's package lists or with lists of our own."""

    def __init__(self, options: Sequence[str] = ()) -> None:
        # A sandbox user could not write to the folders that we download to.
        self._options = ["-q", "-o", "APT::Sandbox::User=root", *options]

    def show(self, name: str) -> Package:
        """Look a package up in the lists.

        Raises:
            AptError: there is no such package.
        """
        result = _run(["apt-cache", *self._options, "show", "--no-all-versions", name])
        fields = _first_stanza(result.stdout)
        if result.returncode != 0 or "Filename" not in fields:
            raise AptError(
                f"package {name} is not in apt's lists: is this Debian, and "
                "does `apt-get update` work?"
            )
        return Package(
            name=fields["Package"],
            version=fields["Version"],
            size=int(fields["Size"]),
            depends=tuple(_dependency_names(fields.get("Depends", ""))),
        )

    def versions(self, names: Iterable[str]) -> dict[str, str]:
        """Return the versions of those packages that are in the lists, in one look."""
        text = _run(["apt-cache", *self._options, "show", "--no-all-versions", *names]).stdout
        stanzas = [_first_stanza(stanza) for stanza in text.split("\n\n") if stanza.strip()]
        # One without a version is virtual.
        return {entry["Package"]: entry["Version"] for entry in stanzas if "Version" in entry}

    def download(self, package: Package, folder: Path, report: Report) -> Path:
        """Download a package into an empty folder and return its file.

        Raises:
            AptError: apt could not, with apt's own reason.
        """
        reader, writer = os.pipe()
        command = ["apt-get", *self._options, "-o", f"APT::Status-Fd={writer}", "download"]
        process = subprocess.Popen(
            [*command, f"{package.name}={package.version}"],
            cwd=folder,
            env=_environment(),
            pass_fds=[writer],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(writer)
        with process, os.fdopen(reader) as status:
            try:
                for line in status:
                    # dlstatus:ITEM:PERCENT:TEXT
                    kind, _, percent, *_ = f"{line}:::".split(":")
                    if kind == "dlstatus":
                        report(int(float(percent) / 100 * package.size))
                _, errors = process.communicate()
            except BaseException:
                process.kill()
                raise
        files = list(folder.glob("*.deb"))
        if process.returncode != 0 or len(files) != 1:
            raise AptError(f"package {package.name} was not downloaded: {_reason(errors)}")
        return files[0]

    def update(self) -> None:
        """Fetch the package lists.

        Raises:
            PyxenError: a list could not be fetched.
        """
        result = _run(["apt-get", *self._options, "-o", "APT::Update::Error-Mode=any", "update"])
        if result.returncode != 0:
            raise PyxenError(f"apt's package lists were not fetched: {_reason(result.stderr)}")

    def index_targets(self, form: str) -> list[str]:
        """Return a line for each list of binary packages that apt is configured to use."""
        command = ["apt-get", *self._options, "indextargets", "--format", form]
        return _run([*command, "Created-By: Packages"]).stdout.splitlines()

    def setting(self, name: str) -> str:
        """Return a setting of apt's configuration; empty if it has none."""
        text = _run(["apt-config", *self._options, "shell", "value", name]).stdout
        match = re.fullmatch(r"value='(.*)'\n", text)
        return match[1] if match is not None else ""


def check_programs() -> None:
    """Raise PyxenError when this machine has no apt."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        raise PyxenError(
            f"{', '.join(missing)} not found: images are made from Debian packages with apt; "
            "elsewhere use --kernel and --ramdisk with files of your own"
        )


def apt_with_own_lists(folder: Path, progress: Progress) -> Apt:
    """Return apt with package lists in `folder`, freshly fetched.

    Raises:
        PyxenError: the lists could not be fetched.
    """
    lists, cache = folder / "lists", folder / "cache"
    for path in (lists / "partial", cache / "archives/partial"):
        path.mkdir(parents=True, exist_ok=True)
    apt = Apt(["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={cache}"])
    with progress.step("apt's package lists"):
        apt.update()
    return apt


def closure(apt: Apt, name: str, prefixes: tuple[str, ...]) -> list[Package]:
    """Return the package and those it depends on, as far as their names begin with a prefix.

    Raises:
        AptError: one of them is not in the lists.
    """
    found: dict[str, Package] = {}
    waiting = [name]
    while waiting:
        package = apt.show(waiting.pop())
        found[package.name] = package
        waiting += [
            depends
            for depends in package.depends
            if depends.startswith(prefixes) and depends not in found
        ]
    return list(found.values())


def newer(version: str, than: str) -> bool:
    """Whether the first of two package versions is the newer one."""
    return _run(["dpkg", "--compare-versions", version, "gt", than]).returncode == 0


def unpack(package: Path, folder: Path) -> None:
    """Unpack the files of a .deb package into a folder.

    Raises:
        PyxenError: not a package, or it does not fit on the disk.
    """
    result = _run(["dpkg-deb", "--extract", str(package), str(folder)])
    if result.returncode != 0:
        raise PyxenError(f"{package.name} was not unpacked: {_reason(result.stderr)}")


def _first_stanza(text: str) -> dict[str, str]:
    stanza = text.partition("\n\n")[0]
    return dict(re.findall(r"^([A-Za-z-]+): (.*)$", stanza, re.MULTILINE))


def _dependency_names(depends: str) -> Iterable[str]:
    # "a (>= 1), b | c": of alternatives the first is the one that the package prefers.
    for clause in filter(None, depends.split(",")):
        yield clause.split("|")[0].split("(")[0].split(":")[0].strip()


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


def _reason(errors: str) -> str:
    """Return the line of a program's error output that says what was wrong."""
    full = os.strerror(errno.ENOSPC)
    if full in errors:
        # tar says first how much it wrote, and of each file after the first.
        return full
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    marked = [line.partition(":")[2].strip() for line in lines if line.startswith(("E:", "Err:"))]
    return (marked or lines or ["no reason given"])[0]
