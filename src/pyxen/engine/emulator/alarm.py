# SPDX-License-Identifier: GPL-2.0-or-later
"""A timer of the kernel's that ends guest code at a moment.

While guest code runs nobody looks at the clock: a look at each block of code would cost about a
sixth of its speed, and a thread that sleeps until then wakes late. So the kernel sends this process
a signal (``timer_create``), whose handler is one instruction of ours: it stores the *kick* that
guest code looks for anyway. It does not matter which thread takes the signal, and Python does not
get to know of it; a system call that it interrupts is made again.
"""

from __future__ import annotations

import ctypes
import functools
import os
import signal
import time
import weakref
from typing import TYPE_CHECKING, Final

from pyxen.engine.emulator import machine_code
from pyxen.errors import PyxenError

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNAL: Final = signal.SIGRTMAX - 1

_CLOCK_MONOTONIC: Final = 1
_SIGEV_SIGNAL: Final = 0
_SA_RESTART: Final = 0x10000000
_SECOND: Final = 1_000_000_000
_EARLY: Final = 1000
"""Nanoseconds that are added, because the two clocks are compared to so much."""


class _SignalAction(ctypes.Structure):
    """``struct sigaction`` of glibc."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_uint64 * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


class _SignalEvent(ctypes.Structure):
    """``struct sigevent``."""

    _fields_ = (
        ("value", ctypes.c_uint64),
        ("signo", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("rest", ctypes.c_uint8 * 48),
    )


@functools.cache
def _library() -> ctypes.CDLL:
    """The C library, with the handler in its place. Raises PyxenError if that is not permitted."""
    library = ctypes.CDLL(None, use_errno=True)
    action = _SignalAction(machine_code.base() + machine_code.ALARM)
    action.flags = _SA_RESTART
    if library.sigaction(SIGNAL, ctypes.byref(action), None):
        raise PyxenError(f"emulator: no handler for signal {SIGNAL}: {_last_error()}")
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {SIGNAL})
    return library


def _last_error() -> str:
    return os.strerror(ctypes.get_errno())


class Alarm:
    """Kicks when a time-stamp counter has come to a value.

    ``read_tsc`` reads that counter, whose speed is measured from the making of the object on.
    """

    def __init__(self, read_tsc: Callable[[], int]) -> None:
        self._read_tsc = read_tsc
        library = _library()
        self._set = library.timer_settime
        self._set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
        self._timer = ctypes.c_void_p()
        event = _SignalEvent(signo=SIGNAL, notify=_SIGEV_SIGNAL)
        if library.timer_create(_CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)):
            raise PyxenError(f"emulator: no timer: {_last_error()}")
        self._setting = (ctypes.c_int64 * 4)()  # struct itimerspec
        self._armed = False
        self._setting_address = ctypes.addressof(self._setting)
        self._start_tsc = read_tsc()
        self._start_ns = time.monotonic_ns()
        self.close = weakref.finalize(self, library.timer_delete, self._timer)

    def set(self, ticks: int) -> None:
        """Kick in so many ticks of the counter from now on, which are more than none."""
        passed_ns = time.monotonic_ns() - self._start_ns
        passed = self._read_tsc() - self._start_tsc
        self._arm(ticks * passed_ns // max(1, passed) + _EARLY)

    def clear(self) -> None:
        """Do not kick any more."""
        if self._armed:
            self._arm(0)

    def _arm(self, nanoseconds: int) -> None:
        self._armed = nanoseconds != 0
        self._setting[2] = nanoseconds // _SECOND
        self._setting[3] = nanoseconds % _SECOND
        self._set(self._timer, 0, self._setting_address, None)
