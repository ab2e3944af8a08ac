# SPDX-License-Identifier: GPL-2.0-or-later
"""The domains of this host and user: their numbers, names and folders.

Everything is in files, and there is no daemon. Each domain has a folder ``domains/ID`` in the run
folder, made by the domain's process, with

- ``lock``, which that process holds locked (flock) as long as it lives: the sign of life, which
  the kernel gives up however the process ends;
- ``state.json``, what is known of it without asking: a ``Record``;
- ``config.json``, its configuration;
- ``control.sock``, ``console.sock`` and ``turn.sock``, see ``toolstack/control``,
  ``console_server`` and ``hypervisor/run_queue``.

Beside them is what they have in common: the ``message_ring``.

A folder whose lock can be had was left behind by a process that did not end in order. It is told of
by ``list``, and taken away by the next command that changes something (``tidy``). After a reboot of
the host, which the kernel's boot id tells, nothing of all this is true, and it is removed.

Numbers ascend, as Xen's do, and come again only when all have been used. Whoever makes, renames or
removes a folder holds ``domains.lock``; who only looks needs nothing, as a folder appears and
vanishes whole, by a rename. What was not finished when its process was killed has a fixed name, and
goes with the next change.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import asdict, replace

from pyxen.errors import PyxenError
from pyxen.hypervisor import run_queue
from pyxen.toolstack import message_ring
from pyxen.toolstack.folders import make_private, run_folder

FIRST_DOMAIN: Final = 1
LAST_DOMAIN: Final = 0x7FEF
"""Xen's DOMID_FIRST_RESERVED is the next."""
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_COMES: Final = ".new"
_GOES: Final = ".gone"
"""Folders of a domain that is being made, or removed, by the holder of the lock."""
_FILE_COMES: Final = ".new-"


class Record(Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a domain without asking its process. ``started`` is seconds since 1970."""

    domid: int
    name: str
    uuid: str
    pid: int
    started: float
    log: str
    memory_mib: int
    vcpus: int


class Entry(Struct, frozen=True):
    """A domain that was found: its folder, and whether its process lives."""

    record: Record
    folder: Path
    alive: bool

    @property
    def reason(self) -> str:
        """Why a domain is dead, as far as its folder tells."""
        return (
            f"{self.record.name} ({self.record.domid}): its process {self.record.pid} was killed "
            f"or failed; what it has said is in {self.record.log}"
        )


class Registry:
    """See the module."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or run_folder()
        self._domains = self.folder / "domains"

    # Looking

    def entries(self) -> list[Entry]:
        """All domains, dead ones too, by number. Raises PyxenError if the folder is not ours."""
        if not self.folder.exists():
            return []
        make_private(self.folder)
        if not self.is_of_this_boot():
            return []
        while True:
            folders = self._folders()
            found = [_read_entry(folder) for folder in folders]
            # One that has vanished may have another number now.
            if None not in found or all(folder.exists() for folder in folders):
                entries = [entry for entry in found if entry is not None]
                return sorted(entries, key=lambda entry: entry.record.domid)

    def _folders(self) -> list[Path]:
        try:
            return [folder for folder in self._domains.iterdir() if folder.name.isdigit()]
        except FileNotFoundError:
            return []

    def find(self, qualifier: str) -> Entry:
        """By number, if it is one, or by name. Raises PyxenError, in xl's words."""
        is_number = qualifier.isascii() and qualifier.isdigit()
        for entry in self.entries():
            name = str(entry.record.domid) if is_number else entry.record.name
            if name == qualifier:
                return entry
        raise PyxenError(f"{qualifier} is an invalid domain identifier")

    def is_of_this_boot(self) -> bool:
        """Whether what the folder holds was made since the host was started."""
        try:
            return (self.folder / "boot-id").read_text() == _boot_id()
        except FileNotFoundError:
            return True  # nothing was made yet

    # Changing

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone with the folders, which are those of this boot."""
        make_private(self.folder)
        with open(self.folder / "domains.lock", "w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if not self.is_of_this_boot():
                shutil.rmtree(self._domains, ignore_errors=True)
                for name in ("next-domid", run_queue.FILE, message_ring.FILE):
                    (self.folder / name).unlink(missing_ok=True)
            self._domains.mkdir(mode=0o700, exist_ok=True)
            for leftover in self._leftovers():
                if leftover.is_dir():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.unlink()
            _write(self.folder / "boot-id", _boot_id())
            yield

    def _leftovers(self) -> list[Path]:
        """What the holder of the lock works at; to him, what others have left."""
        folders = [self._domains / name for name in (_COMES, _GOES)]
        return [path for path in (*folders, *self.folder.glob(f"{_FILE_COMES}*")) if path.exists()]

    def add(self, make: Callable[[int], Record], config: Any) -> Membership:
        """Give a number to a new domain, whose process this is, and make its folder.

        ``make`` makes the record when the number is known. Raises PyxenError if the name is in use.
        """
        with _told(self.folder), self._locked():
            record = make(self._next_number())
            self._check_name(record.name)
            folder = self._domains / _COMES
            folder.mkdir(mode=0o700)
            try:
                lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _write(folder / "config.json", json.dumps(config, indent=2))
                _write(folder / "state.json", json.dumps(asdict(record), indent=2))
                folder.rename(self._domains / str(record.domid))
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise
            return Membership(self, record, lock)

    def _check_name(self, name: str, own: int = 0) -> None:
        for entry in self.entries():
            if entry.alive and entry.record.name == name and entry.record.domid != own:
                raise PyxenError(
                    f"name: there is a domain {name} already, number {entry.record.domid}"
                )

    def _next_number(self) -> int:
        """The next one that is free, and note it as used."""
        path = self.folder / "next-domid"
        try:
            domid = int(path.read_text())
        except (FileNotFoundError, ValueError):
            domid = FIRST_DOMAIN
        for _ in range(LAST_DOMAIN):
            if not FIRST_DOMAIN <= domid <= LAST_DOMAIN:
                domid = FIRST_DOMAIN
            if not (self._domains / str(domid)).exists():
                _write(path, str(domid + 1))
                return domid
            domid += 1
        raise PyxenError(f"there are {LAST_DOMAIN} domains, which is all that there can be")

    def tidy(self) -> list[Entry]:
        """Take away what dead domains have left. Returns them, to be told of."""
        if all(entry.alive for entry in self.entries()) and not self._leftovers():
            return []
        with _told(self.folder), self._locked():
            dead = [entry for entry in self.entries() if not entry.alive]
            for entry in dead:
                self._remove(entry.folder)
        return dead

    def _remove(self, folder: Path) -> None:
        """At once, for those who look."""
        gone = self._domains / _GOES
        folder.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


class Membership:
    """A domain's own place in the registry, for its process: ``leave`` at the end."""

    def __init__(self, registry: Registry, record: Record, lock: int) -> None:
        self.record = record
        self._registry = registry
        self._lock = lock

    @property
    def folder(self) -> Path:
        return self._registry._domains / str(self.record.domid)

    def dup_lock(self) -> int:
        """The sign of life for another process, to be passed on: the domain lives as long as one of
        the two."""
        return os.dup(self._lock)

    def renumber(self, started: float, memory_mib: int, vcpus: int) -> int:
        """The domain begins anew: it has the next number from now on."""
        registry = self._registry
        with _told(registry.folder), registry._locked():
            old, domid = self.folder, registry._next_number()
            self.record = replace(
                self.record, domid=domid, started=started, memory_mib=memory_mib, vcpus=vcpus
            )
            self._write_record(old)
            old.rename(self.folder)
        return domid

    def rename(self, name: str, uuid: str | None = None) -> None:
        """Raises PyxenError if the name is in use."""
        with _told(self._registry.folder), self._registry._locked():
            self._registry._check_name(name, own=self.record.domid)
            self.record = replace(self.record, name=name, uuid=uuid or self.record.uuid)
            self._write_record(self.folder)

    def save_config(self, config: Any) -> None:
        """The configuration has changed."""
        with _told(self.folder):
            _write(self.folder / "config.json", json.dumps(config, indent=2))

    def _write_record(self, folder: Path) -> None:
        _write(folder / "state.json", json.dumps(asdict(self.record), indent=2))

    def leave(self) -> None:
        """The domain is no more."""
        with self._registry._locked():
            self._registry._remove(self.folder)
        os.close(self._lock)


def _read_entry(folder: Path) -> Entry | None:
    """None for a folder that has just gone."""
    try:
        alive = holds_lock(folder / "lock")
        record = Record(**json.loads((folder / "state.json").read_bytes()))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):
        # What a full disk has left of it; the process, if it lives, goes on.
        record = Record(int(folder.name), f"domain-{folder.name}", "", 0, 0.0, "", 0, 0)
    return Entry(record, folder, alive)


def holds_lock(path: Path) -> bool:
    """Whether somebody holds a domain's lock. Those who look take it for a moment, shared."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def _write(path: Path, text: str) -> None:
    """The file has the old content or the new, at any moment."""
    new = path.with_name(f"{_FILE_COMES}{path.name}")
    try:
        new.write_text(text)
        new.replace(path)
    except OSError:
        new.unlink(missing_ok=True)
        raise


def _boot_id() -> str:
    return _BOOT_ID.read_text().strip()


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """What the disk refuses is told in one line."""
    try:
        yield
    except OSError as error:
        raise PyxenError(f"{error.filename or folder}: {error.strerror or error}") from None
