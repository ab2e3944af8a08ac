# SPDX-License-Identifier: GPL-2.0-or-later
"""The run queue of the host: which of the domains that want a processor have one.

Each domain has a process, and its vCPUs take turns in one thread of it, so it can use one processor
at a time. It *takes* one before its guest runs, and *gives* it when none of its vCPUs can run.
While more domains want to run than there are processors, those wait that have had most: each has a
*virtual time*, which grows with the processor time that it uses, the slower the greater its weight
is, and the least is next. A domain runs for a time slice while others wait. One that wakes up and
has had less takes the place of a running one, when that has run for the rate limit, as in Xen's
credit2; but one that has slept is not owed all that time. The vCPUs of a domain that waits are
runnable, which its guest sees as stolen time.

While all domains have the same weight the host's scheduler does that just as well, and loses no
time between two domains: then there are no turns, and they *roam*.

There is no process in the middle. All domains map one file, the table, and change it while they
hold its lock. Who gives a processor up chooses the next domain, and sends an empty datagram to its
socket; the same tells a running domain that another one waits. Nothing that happens to a process
does lasting harm: one that is killed loses its slot (the lock of a byte, which the kernel gives
up), and one that was stopped, or is deep in something else, loses its processor after a tenth of a
second in which others wait; if it has the lock, the others run as they like meanwhile.

On which processor a domain really runs is the business of the host's scheduler, within the *hard
affinity* of its vCPU. Turns are taken for the processors of this affinity alone, and those of the
*soft affinity* are preferred.

Reference: Xen's ``xl.1``, ``sched-credit2`` and ``vcpu-pin``.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import socket
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

FILE: Final = "scheduler"
"""The table's name in the run folder."""
SLICE: Final = 30_000_000
PATIENCE: Final = 100_000_000
"""So long who has a processor, or the lock, may say nothing while others wait."""
DEFAULT_RATE_LIMIT_US: Final = 1000
RATE_LIMITS_US: Final = (100, 500_000)
DEFAULT_WEIGHT: Final = 256
ALL: Final = 0
"""The affinity to all processors."""
CPUS: Final = 512
"""Processors with higher numbers are not used."""

_PREFERENCE: Final = 10_000_000
"""So far before the others a domain that has slept is set."""
_LEAD: Final = 5_000_000
"""So far behind the running one is another one that takes its place within a slice."""
_LEAST_RUN: Final = 1_000_000
_LARGEST_LAG: Final = 100_000_000
_SETTLE: Final = 50_000_000
"""So often a domain that nobody waits for tells what it has used."""
_RETRY: Final = 0.0001
_RECOVERY: Final = 1_000_000_000
_SOCKET: Final = "turn.sock"

# The table: a header and slots, in 64-bit words.
_SLOTS: Final = 1024
_MAGIC: Final = 0x3165_7565_756E_7572
_MAGIC_AT, _FLOOR, _RATE_LIMIT, _SLOTS_USED, _UNEQUAL = range(5)
_HEADER: Final = 8
_SLOT: Final = 16
_STATE, _CPU, _TIME, _WEIGHT, _SINCE, _TOLD, _DOMAIN, _AFFINITY = range(8)
_SIZE: Final = (_HEADER + _SLOTS * _SLOT) * 8

# States. Who has lent its processor can have it back at once, unless another one has taken it.
_FREE, _IDLE, _WAITING, _RUNNING, _LENT, _ROAMING = range(6)

_FLOCK: Final = struct.Struct("@hhqqi4x")
"""struct flock: type, whence, start, length, process."""
_WORD: Final = 0xFFFF_FFFF_FFFF_FFFF


class Table:
    """The file, for whoever reads or changes it; made if it is not there. Raises OSError."""

    def __init__(self, path: Path) -> None:
        self.file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(self.file).st_size < _SIZE:
                os.ftruncate(self.file, _SIZE)
            self._map = mmap.mmap(self.file, _SIZE)
        except BaseException:
            os.close(self.file)
            raise
        self.words = memoryview(self._map).cast("Q")
        self._sick_until = 0
        with self.locked() as words:
            if words[_MAGIC_AT] != _MAGIC:
                words[_RATE_LIMIT] = DEFAULT_RATE_LIMIT_US
                words[_MAGIC_AT] = _MAGIC

    def close(self) -> None:
        self.words.release()
        self._map.close()
        os.close(self.file)

    @contextmanager
    def locked(self) -> Iterator[memoryview]:
        """Alone with the words of the table. Raises TimeoutError when another process has the lock
        and does not give it back, for a while at once."""
        self._lock()
        try:
            yield self.words
        finally:
            fcntl.flock(self.file, fcntl.LOCK_UN)

    def _lock(self) -> None:
        start = 0
        while True:
            try:
                fcntl.flock(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                now = time.monotonic_ns()
                start = start or now
                if now - start > PATIENCE:
                    self._sick_until = now + _RECOVERY
                if now < self._sick_until:
                    raise TimeoutError("the table of the run queue is locked") from None
                time.sleep(_RETRY)

    @property
    def rate_limit_us(self) -> int:
        """So long a domain runs at least, in microseconds."""
        return self.words[_RATE_LIMIT]

    @rate_limit_us.setter
    def rate_limit_us(self, value: int) -> None:
        self.words[_RATE_LIMIT] = value


class RunQueue:
    """A domain's place in the run queue, see the module. ``fileno`` and ``drain`` are for the I/O
    thread, the rest for that of the vCPUs.

    Args:
        table: the file.
        folder: the domain's own, where its socket is made.
        domains: the folder that has those of all domains, by their numbers.
        domid: the domain's number.

    Raises OSError.
    """

    slice = SLICE

    def __init__(self, table: Path, folder: Path, domains: Path, domid: int) -> None:
        self._host = cpu_mask(os.sched_getaffinity(0))
        self._placed = self._host
        self._weight = DEFAULT_WEIGHT
        self._domid = domid
        self._used = 0
        self._to_wake: list[int] = []
        self._told = False
        self._table = Table(table)
        self._domains = os.open(domains, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._address = f"{folder}/{_SOCKET}"
        self._socket.bind(self._address)
        self._at = self._enter()
        with self._changing() as words:
            self._compare_weights(words)

    def _enter(self) -> int:
        """Find a slot, and hold it for as long as this process lives."""
        with self._table.locked() as words:
            for slot in range(_SLOTS):
                if not self._is_held(slot):
                    byte = _FLOCK.pack(fcntl.F_WRLCK, 0, slot, 1, 0)
                    fcntl.fcntl(self._table.file, fcntl.F_OFD_SETLK, byte)
                    at = _HEADER + slot * _SLOT
                    words[at + _TIME] = 0
                    words[at + _WEIGHT] = self._weight
                    words[at + _DOMAIN] = self._domid
                    words[at + _STATE] = _IDLE
                    words[_SLOTS_USED] = max(words[_SLOTS_USED], slot + 1)
                    return at
        raise OSError(f"the run queue is full: it has {_SLOTS} places")

    def close(self) -> None:
        """Leave the run queue."""
        with suppress(TimeoutError), self._changing() as words:
            self._vacate(words)
            words[self._at + _STATE] = _FREE
            self._compare_weights(words)
        self._socket.close()
        with suppress(FileNotFoundError):  # somebody has emptied the folder
            os.unlink(self._address)
        os.close(self._domains)
        self._table.close()

    # For the I/O thread

    def fileno(self) -> int:
        """A file that is readable when there is news for this domain."""
        return self._socket.fileno()

    def drain(self) -> None:
        """Take the news: ``is_told`` is true until the domain has looked or taken a processor."""
        try:
            while True:
                self._socket.recv(1)
        except BlockingIOError:
            self._told = True

    # What the domain is

    def set_weight(self, weight: int) -> None:
        """From 1 to 65535, for what is used from now on."""
        with suppress(TimeoutError), self._changing() as words:
            self._settle(words)
            self._weight = words[self._at + _WEIGHT] = weight
            self._compare_weights(words)
        self._weight = weight

    def renumber(self, domid: int) -> None:
        """The domain begins anew with another number."""
        self._domid = domid
        with suppress(TimeoutError), self._changing() as words:
            self._settle(words)

    # Turns

    def charge(self, used: int) -> None:
        """So many ns of processor time were used."""
        self._used += used

    @property
    def is_told(self) -> bool:
        """Whether there is a reason to look."""
        return self._told

    def take(self, hard: int = ALL, soft: int = ALL) -> bool:
        """Take a processor, or keep the one that is held, for a vCPU with these affinities (masks).

        If there is none the domain waits from now on; it is told when it has one, and asks again
        after ``PATIENCE``, for the case that a holder is not well.
        """
        mask = self.usable(hard)
        self._told = False
        if not self._table.words[_UNEQUAL]:
            self._table.words[self._at + _STATE] = _ROAMING
            self._place(mask & soft or mask)
            return True
        try:
            with self._changing() as words:
                cpu = self._take(words, mask, soft)
        except TimeoutError:
            cpu = None
        else:
            if cpu is None:
                return False
        self._place(mask & soft if cpu is not None and soft >> cpu & 1 else mask)
        return True

    def give(self) -> None:
        """The domain has no use for a processor."""
        state = self._table.words[self._at + _STATE]
        if state == _ROAMING:
            self._table.words[self._at + _STATE] = _IDLE
        if state in (_IDLE, _LENT, _ROAMING):
            return
        with suppress(TimeoutError), self._changing() as words:
            self._settle(words)
            state, cpu = words[self._at + _STATE], _cpu(words, self._at)
            if state == _RUNNING and self._next(words, cpu) is None:
                words[self._at + _STATE] = _LENT
            else:
                self._vacate(words)

    def look(self) -> int | None:
        """Of a domain that runs: in how many ns it is to look again at the latest. None when its
        turn is over, and it waits for the next."""
        self._told = False
        if self._table.words[self._at + _STATE] == _ROAMING:
            self._used = 0
            return None if self._table.words[_UNEQUAL] else _SETTLE
        try:
            with self._changing() as words:
                return self._look(words)
        except TimeoutError:
            return SLICE

    def usable(self, hard: int) -> int:
        """Those processors of an affinity that this process may use."""
        return (hard or self._host) & self._host

    # With the lock

    @contextmanager
    def _changing(self) -> Iterator[memoryview]:
        """Alone with the table; who is to be told of the change is told afterwards."""
        with self._table.locked() as words:
            yield words
        while self._to_wake:
            self._wake(self._to_wake.pop())

    def _wake(self, domid: int) -> None:
        with suppress(OSError):  # it has not looked at earlier news yet, or is gone
            self._socket.sendto(b"", f"/proc/self/fd/{self._domains}/{domid}/{_SOCKET}")

    def _take(self, words: memoryview, mask: int, soft: int) -> int | None:
        """Returns the processor."""
        at = self._at
        if words[at + _STATE] == _ROAMING:
            words[at + _STATE] = _IDLE
        before = words[at + _STATE]
        if before in (_RUNNING, _LENT) and not mask >> _cpu(words, at) & 1:
            self._vacate(words)
        if before in (_IDLE, _LENT):
            least = words[_FLOOR] - min(words[_FLOOR], _PREFERENCE)
            words[at + _TIME] = max(words[at + _TIME], least)
        if words[at + _STATE] == _LENT:
            self._hand(words, at, _cpu(words, at))
        if words[at + _STATE] != _RUNNING:
            cpu = self._find(words, mask, soft)
            if cpu is None:
                self._wait(words, mask)
                return None
            self._hand(words, at, cpu)
        return _cpu(words, at)

    def _find(self, words: memoryview, mask: int, soft: int) -> int | None:
        """A processor that nobody has, or needs, or that is taken away from somebody unwell."""
        running, lent = [], {}
        free = mask
        for other in self._others(words):
            cpu = _cpu(words, other)
            if words[other + _STATE] == _RUNNING and mask >> cpu & 1:
                free &= ~(1 << cpu)
                running.append(other)
            elif words[other + _STATE] == _LENT and mask >> cpu & 1:
                free &= ~(1 << cpu)
                lent[cpu] = other
        if free:
            return _first(free & soft or free)
        if lent:
            cpu = next((each for each in lent if soft >> each & 1), next(iter(lent)))
            words[lent[cpu] + _STATE] = _IDLE
            return cpu
        for other in running:
            if not self._is_well(words, other):
                return _cpu(words, other)
        return None

    def _is_well(self, words: memoryview, holder: int) -> bool:
        """Whether the holder of a processor lives and does as it should; otherwise it has it no
        longer."""
        if not self._is_alive(holder):
            words[holder + _STATE] = _FREE
            return False
        if words[self._at + _STATE] == _WAITING:
            since = max(words[holder + _TOLD], words[self._at + _SINCE])
            if time.monotonic_ns() - since > PATIENCE:
                words[holder + _STATE] = _IDLE
                return False
        return True

    def _wait(self, words: memoryview, mask: int) -> None:
        """Wait, and tell the one of the holders that has had most."""
        at = self._at
        if words[at + _STATE] != _WAITING:
            words[at + _STATE] = _WAITING
            words[at + _SINCE] = time.monotonic_ns()
        for index in range(CPUS // 64):
            words[at + _AFFINITY + index] = mask >> 64 * index & _WORD
        holders = [
            other
            for other in self._others(words)
            if words[other + _STATE] == _RUNNING and mask >> _cpu(words, other) & 1
        ]
        if holders:
            most = max(holders, key=lambda other: words[other + _TIME])
            self._to_wake.append(words[most + _DOMAIN])

    def _look(self, words: memoryview) -> int | None:
        at = self._at
        if words[at + _STATE] != _RUNNING:
            return None  # its processor was taken away
        self._settle(words)
        other = self._next(words, _cpu(words, at))
        if other is None:
            return _SETTLE
        ahead = words[at + _TIME] - words[other + _TIME]
        ran = time.monotonic_ns() - words[at + _SINCE]
        if ahead <= 0:
            # Who cannot use all of its share, as it has but one thread, is not owed the rest.
            weight = max(1, min(self._weight, words[other + _WEIGHT]))
            words[at + _TIME] += max(0, -ahead - _LARGEST_LAG * DEFAULT_WEIGHT // weight)
            return SLICE
        if ran < SLICE and ahead < max(_LEAD, _LEAST_RUN * DEFAULT_WEIGHT // self._weight):
            return SLICE - ran
        limit = words[_RATE_LIMIT] * 1000
        if ran < limit:
            return limit - ran
        self._vacate(words)
        return None

    def _settle(self, words: memoryview) -> None:
        """Account for the time that was used, and show that all is well."""
        at = self._at
        used, self._used = self._used, 0
        virtual = words[at + _TIME] + used * DEFAULT_WEIGHT // self._weight
        words[at + _TIME] = min(virtual, _WORD)
        words[at + _WEIGHT], words[at + _DOMAIN] = self._weight, self._domid
        words[at + _TOLD] = time.monotonic_ns()
        least = min(
            (
                words[other + _TIME]
                for other in self._others(words)
                if words[other + _STATE] in (_WAITING, _RUNNING)
            ),
            default=_WORD,
        )
        if words[at + _STATE] in (_WAITING, _RUNNING):
            words[_FLOOR] = max(words[_FLOOR], min(least, words[at + _TIME]))

    def _compare_weights(self, words: memoryview) -> None:
        """See whether turns are needed. When they become so, nobody is owed anything."""
        members = [at for at in self._others(words) if self._is_alive(at)]
        if words[self._at + _STATE] != _FREE:
            members.append(self._at)
        unequal = len({words[at + _WEIGHT] for at in members}) > 1
        if unequal != bool(words[_UNEQUAL]):
            words[_UNEQUAL] = unequal
            words[_FLOOR] = 0
            for at in members:
                words[at + _TIME] = 0
                if at != self._at:
                    self._to_wake.append(words[at + _DOMAIN])

    def _vacate(self, words: memoryview) -> None:
        """Have no processor any more, and wait for none: the next gets it."""
        at = self._at
        before, words[at + _STATE] = words[at + _STATE], _IDLE
        if before in (_RUNNING, _LENT):
            other = self._next(words, _cpu(words, at))
            if other is not None:
                self._hand(words, other, _cpu(words, at))
                self._to_wake.append(words[other + _DOMAIN])

    def _next(self, words: memoryview, cpu: int) -> int | None:
        """Of those that wait for this processor the one that has had least."""
        word, bit = _AFFINITY + cpu // 64, cpu % 64
        waiting = [
            other
            for other in self._others(words)
            if words[other + _STATE] == _WAITING and words[other + word] >> bit & 1
        ]
        for other in sorted(waiting, key=lambda other: words[other + _TIME]):
            if self._is_alive(other):
                return other
            words[other + _STATE] = _FREE
        return None

    def _hand(self, words: memoryview, at: int, cpu: int) -> None:
        """It has this processor from now on."""
        words[at + _STATE] = _RUNNING
        words[at + _CPU] = cpu
        words[at + _SINCE] = words[at + _TOLD] = time.monotonic_ns()

    def _others(self, words: memoryview) -> Iterator[int]:
        """Where the slots of other domains begin."""
        for at in range(_HEADER, _HEADER + min(words[_SLOTS_USED], _SLOTS) * _SLOT, _SLOT):
            if words[at + _STATE] != _FREE and at != self._at:
                yield at

    def _is_alive(self, at: int) -> bool:
        """Whether the process of another domain's slot lives."""
        return self._is_held((at - _HEADER) // _SLOT)

    def _is_held(self, slot: int) -> bool:
        """Whether another process holds this slot."""
        query = _FLOCK.pack(fcntl.F_WRLCK, 0, slot, 1, 0)
        answer = fcntl.fcntl(self._table.file, fcntl.F_OFD_GETLK, query)
        return bool(_FLOCK.unpack(answer)[0] != fcntl.F_UNLCK)

    def _place(self, mask: int) -> None:
        """Let this thread run on these processors."""
        if mask != self._placed:
            os.sched_setaffinity(0, {cpu for cpu in range(CPUS) if mask >> cpu & 1})
            self._placed = mask


def _cpu(words: memoryview, at: int) -> int:
    return words[at + _CPU] % CPUS


def _first(mask: int) -> int:
    return (mask & -mask).bit_length() - 1


def cpu_mask(cpus: Iterable[int]) -> int:
    """A mask with a bit for each of these processors."""
    return sum(1 << cpu for cpu in cpus if cpu < CPUS)
