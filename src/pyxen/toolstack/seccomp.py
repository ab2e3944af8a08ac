# SPDX-License-Identifier: GPL-2.0-or-later
"""The system calls that are left to the process of a domain, see ``sandbox.py``.

libseccomp makes a program of the list, which the kernel runs at each call; for a call that is
allowed whatever its arguments are, the kernel remembers the result.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
from functools import cache
from typing import Final

_LIBRARY: Final = "libseccomp.so.2"
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_OPTIMIZE: Final = 8  # SCMP_FLTATR_CTL_OPTIMIZE, of which 2 is a binary tree
_EQUAL: Final = 4
_MASKED_EQUAL: Final = 7

_CALLS: Final = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range
    dup dup2 dup3 pipe pipe2 fsync fdatasync sync_file_range fallocate ftruncate flock fadvise64
    fstat stat lstat newfstatat statx fstatfs access faccessat faccessat2 readlink readlinkat getcwd
    openat getdents64 unlink unlinkat fchmod umask

    mmap mprotect munmap mremap madvise msync mincore brk membarrier memfd_create

    poll ppoll select pselect6 epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd2
    timerfd_create timerfd_settime timerfd_gettime

    bind listen accept accept4 getsockname getpeername getsockopt setsockopt shutdown
    sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg

    futex futex_waitv set_robust_list rseq exit exit_group sched_yield getcpu sched_getaffinity
    gettid getpid getppid getuid geteuid getgid getegid getresuid getresgid getpgrp getsid uname
    sysinfo getrusage times getrandom getrlimit capget restart_syscall

    rt_sigaction rt_sigprocmask rt_sigpending rt_sigreturn rt_sigsuspend rt_sigtimedwait sigaltstack

    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time
    timer_create timer_settime timer_gettime timer_getoverrun timer_delete getitimer setitimer
"""

_CLONE_THREAD: Final = 0x00010000
_KINDS: Final = 0xF  # of sockets, without flags
_FCNTLS: Final = (0, 1, 2, 3, 4, 5, 6, 7, 36, 37, 38, 1030, 1031, 1032, 1033, 1034)
"""Duplicates, flags, locks, size of a pipe, seals; not who is sent signals."""
_IOCTLS: Final = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451, 0x1277)
"""TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX, BLKDISCARD."""
_PRCTLS: Final = (15, 16, 0x53564D41)
"""PR_SET_NAME, PR_GET_NAME, PR_SET_VMA, with which glibc names its memory."""


class FilterError(Exception):
    """There can be no filter."""


class _Comparison(ctypes.Structure):
    """``struct scmp_arg_cmp``: of the argument of this number with a value, or, masked, of what the
    first leaves of it with the second."""

    _fields_ = (
        ("number", ctypes.c_uint),
        ("kind", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


@cache
def _library() -> ctypes.CDLL:
    """Raises FilterError."""
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError:
        raise FilterError(f"there is no {_LIBRARY} (Debian: libseccomp2)") from None
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_load.argtypes = (ctypes.c_void_p,)
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    )
    return library


def filter_reason() -> str:
    """Why there can be no filter; empty if there can."""
    try:
        _library()
    except FilterError as error:
        return str(error)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, None, 0, 0)
    return "" if ctypes.get_errno() == errno.EFAULT else "the kernel has none"


def load_filter() -> None:
    """From now on this thread has no other calls, nor has what it starts. Raises FilterError."""
    if reason := filter_reason():
        raise FilterError(reason)
    library = _library()
    context = library.seccomp_init(_ERRNO | errno.ENOSYS)
    try:
        for name in _CALLS.split():
            _allow(context, name)
        own = os.getpid()
        _allow(context, "clone", _Comparison(0, _MASKED_EQUAL, _CLONE_THREAD, _CLONE_THREAD))
        _allow(context, "tgkill", _Comparison(0, _EQUAL, own))
        _allow(context, "prlimit64", _Comparison(0, _EQUAL, 0))
        for thread in (0, own):
            _allow(context, "sched_setaffinity", _Comparison(0, _EQUAL, thread))
        for name in ("socket", "socketpair"):
            family = _Comparison(0, _EQUAL, socket.AF_UNIX)
            kind = _Comparison(1, _MASKED_EQUAL, _KINDS, socket.SOCK_STREAM)
            _allow(context, name, family, kind)
        for name, place, values in (
            ("fcntl", 1, _FCNTLS),
            ("ioctl", 1, _IOCTLS),
            ("prctl", 0, _PRCTLS),
        ):
            for value in values:
                _allow(context, name, _Comparison(place, _EQUAL, value))
        library.seccomp_attr_set(context, _OPTIMIZE, 2)  # older libraries do without
        if error := library.seccomp_load(context):
            raise FilterError(os.strerror(-error))
    finally:
        library.seccomp_release(context)


def _allow(context: int, name: str, *arguments: _Comparison) -> None:
    """Allow a call with such arguments, if the library knows it."""
    library = _library()
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:
        array = (_Comparison * len(arguments))(*arguments)
        error = library.seccomp_rule_add_array(context, _ALLOW, number, len(arguments), array)
        if error:
            raise FilterError(f"{name}: {os.strerror(-error)}")
