# SPDX-License-Identifier: GPL-2.0-or-later
"""What the process of a domain gives up before the guest runs, for good.

A guest is not trusted, and nor is the emulator that it runs in: whoever breaks out of that has
this process. It can then do nothing on the host but what the domain does anyway: use the files and
sockets that it holds, and ask its broker (``toolstack/broker``). Each of these is given up where
the machine has the means:

- *privileges*: all of root's capabilities, and the way to new ones (``PR_SET_NO_NEW_PRIVS``);
- *limits*: core dumps, which would hold the guest's memory, and memory without end;
- *landlock*: all files but the domain's own folder, and Python's and the C library's for modules
  that are loaded late; TCP; signals and abstract sockets to other processes;
- *seccomp*: all system calls but those on the list here. There is none with which a program or a
  process could be started, a connection made, or another process touched. What is not on the list
  does not exist (ENOSYS): libraries are prepared to find a kernel without a call.

The last two bind the thread that asks for it and those that it starts, so there must be no other
one yet.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from pyxen.hypervisor import run_queue
from pyxen.toolstack import message_ring
from pyxen.toolstack.folders import run_folder
from pyxen.toolstack.seccomp import FilterError, filter_reason, load_filter

log = logging.getLogger("pyxen")

_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION_3: Final = 0x20080522
_MIB: Final = 1 << 20
_MOST_DATA: Final = 4096 * _MIB
"""Private memory beside the guest's: the emulator reserves much more than it uses."""
_MOST_FILES: Final = 4096

_SYS_LANDLOCK_CREATE_RULESET: Final = 444
_SYS_LANDLOCK_ADD_RULE: Final = 445
_SYS_LANDLOCK_RESTRICT_SELF: Final = 446
_LANDLOCK_CREATE_RULESET_VERSION: Final = 1
_LANDLOCK_RULE_PATH_BENEATH: Final = 1
_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE_FILE: Final = 1 << 5
_MAKE_SOCK: Final = 1 << 9
_TRUNCATE: Final = 1 << 14
_FILE_RIGHTS: Final = ((1, (1 << 13) - 1), (2, 1 << 13), (3, _TRUNCATE), (5, 1 << 15))
"""Rights to files by the version of landlock that they came with: all that there are."""
_TCP: Final = 0b11
_OTHERS: Final = 0b11
"""The scopes: abstract sockets, and signals."""

_READABLE: Final = (
    "/usr/lib",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/dev/null",
    "/dev/urandom",
    "/proc/meminfo",
    "/proc/self",
    "/sys/devices/system/cpu",
)
_SHARED: Final = (message_ring.FILE, run_queue.FILE)
"""Files of the run folder that all domains write to."""


class Mechanism(NamedTuple):
    """A means of the machine's; ``reason`` is why it cannot be used, or empty."""

    name: str
    usable: bool
    reason: str


def mechanisms() -> list[Mechanism]:
    """What this machine has."""
    reasons = {
        "privileges": "",
        "limits": "",
        "landlock": _landlock_reason(),
        "seccomp": filter_reason(),
    }
    return [Mechanism(name, not reason, reason) for name, reason in reasons.items()]


def enter(folder: int, memory_mib: int) -> None:
    """Give all of it up. ``folder`` is the domain's own, ``memory_mib`` the most that its guest may
    have. What the machine lacks is told in the log."""
    assert len(os.listdir("/proc/self/task")) == 1, "there are other threads already"
    steps: dict[str, Callable[[], None]] = {
        "privileges": _drop_privileges,
        "limits": lambda: _limit(memory_mib),
        "landlock": lambda: _restrict_files(folder),
        "seccomp": load_filter,
    }
    lacking = []
    for name, step in steps.items():
        try:
            step()
        except (OSError, FilterError) as error:
            lacking.append(f"{name} ({error})")
    if lacking:
        log.warning("the domain is less shut in than it could be, without %s", ", ".join(lacking))


_libc: Final = ctypes.CDLL(None, use_errno=True)


def _system_call(number: int, *arguments: object) -> int:
    """Raises OSError."""
    words = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result


def _drop_privileges() -> None:
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "the kernel refuses")
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if _libc.capset(header, nothing):
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")


def _limit(memory_mib: int) -> None:
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_DATA: _MOST_DATA + memory_mib * _MIB,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_NOFILE: _MOST_FILES,
        resource.RLIMIT_RTPRIO: 0,
    }
    for name, most in limits.items():
        soft, hard = resource.getrlimit(name)
        values = [each for each in (soft, hard, most) if each != resource.RLIM_INFINITY]
        resource.setrlimit(name, (min(values), min(values)))


# Files


class _Ruleset(ctypes.Structure):
    """``struct landlock_ruleset_attr``."""

    _fields_ = (
        ("files", ctypes.c_uint64),
        ("network", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    )


class _PathBeneath(ctypes.Structure):
    """``struct landlock_path_beneath_attr``."""

    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("place", ctypes.c_int32))


def _landlock_version() -> int:
    """Raises OSError."""
    return _system_call(_SYS_LANDLOCK_CREATE_RULESET, None, 0, _LANDLOCK_CREATE_RULESET_VERSION)


def _landlock_reason() -> str:
    try:
        _landlock_version()
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return "the kernel has none"
        if error.errno == errno.EOPNOTSUPP:
            return "it is switched off in the kernel"
        return str(error.strerror)
    return ""


def _restrict_files(folder: int) -> None:
    if reason := _landlock_reason():
        raise OSError(errno.EOPNOTSUPP, reason)
    version = _landlock_version()
    handled = sum(rights for since, rights in _FILE_RIGHTS if since <= version)
    rules = _Ruleset(handled, _TCP if version >= 4 else 0, _OTHERS if version >= 6 else 0)
    ruleset = _system_call(
        _SYS_LANDLOCK_CREATE_RULESET, ctypes.byref(rules), ctypes.sizeof(rules), 0
    )
    try:
        _allow(ruleset, folder, _READ_FILE | _READ_DIR | _REMOVE_FILE | _MAKE_SOCK)
        for path in _readable():
            _allow_path(ruleset, path, _READ_FILE | (_READ_DIR if path.is_dir() else 0))
        for name in _SHARED:
            rights = (_READ_FILE | _WRITE_FILE | _TRUNCATE) & handled
            _allow_path(ruleset, run_folder() / name, rights)
        _system_call(_SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _readable() -> Iterator[Path]:
    """Where modules and shared libraries are, and what those read."""
    for place in dict.fromkeys((*sys.path, f"{sys.base_prefix}/lib", *_READABLE)):
        if os.path.isabs(place):
            yield Path(place)


def _allow_path(ruleset: int, path: Path, rights: int) -> None:
    with suppress(FileNotFoundError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            _allow(ruleset, place, rights)
        finally:
            os.close(place)


def _allow(ruleset: int, place: int, rights: int) -> None:
    rule = _PathBeneath(rights, place)
    _system_call(
        _SYS_LANDLOCK_ADD_RULE, ruleset, _LANDLOCK_RULE_PATH_BENEATH, ctypes.byref(rule), 0
    )
