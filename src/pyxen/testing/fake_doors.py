# SPDX-License-Identifier: GPL-2.0-or-later
"""A back end's doors without a guest: the front end is written in the test.

The grants and event channels are the real ones, of a domain on the fake engine that runs nothing.
The store is a small one of our own, and what is posted, or to be called later, waits for ``run``::

    with FakeDoors() as fake:
        backend = SomeBackend(fake.doors, BACKEND, FRONTEND)
        backend.machine.attach()
        fake.store.write(f"{FRONTEND}/ring-ref", str(fake.grant(0)))
        fake.store.write(f"{FRONTEND}/event-channel", str(port := fake.alloc_port()))
        fake.store.write(f"{FRONTEND}/state", "4")
        fake.run()
        fake.page(0)[:4] = request
        fake.notify(port)
        fake.run(until=lambda: fake.take_event(port))
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from heapq import heappop, heappush
from itertools import count
from typing import Final

from msgspec import Struct

from pyxen.abi.grant_table import GRANT_ENTRY_V1, GTF_permit_access, GTF_readonly
from pyxen.backends.doors import Doors, StoreError
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.events import BACK_END_DOMAIN
from pyxen.hypervisor.events_back_end import BackEndPort
from pyxen.hypervisor.grant_access import GrantAccess
from pyxen.hypervisor.page_flags import PAGE_SIZE
from pyxen.testing.fake_engine import FakeEngine

_FIRST_REF: Final = 8
_PATIENCE: Final = 20.0
_NAP: Final = 0.0005


class _Watch(Struct, eq=False):
    path: str
    callback: Callable[[str], None]
    live: bool = True


class FakeStore:
    """A store for one test: a StoreClient, without permissions. ``nodes`` are the values by
    path."""

    def __init__(self, post: Callable[[Callable[[], None]], None]) -> None:
        self.nodes: dict[str, bytes] = {}
        self.watches: list[_Watch] = []
        self._post = post

    def read(self, path: str) -> bytes:
        if path in self.nodes:
            return self.nodes[path]
        if self._below(path):
            return b""
        raise StoreError("ENOENT")

    def write(self, path: str, value: str | bytes) -> None:
        self.nodes[path] = value.encode("latin-1") if isinstance(value, str) else value
        self._fire(path)

    def write_many(self, values: Mapping[str, str | bytes]) -> None:
        for path, value in values.items():
            self.write(path, value)

    def remove(self, path: str) -> None:
        for each in [*self._below(path), path]:
            self.nodes.pop(each, None)
        self._fire(path)

    def directory(self, path: str) -> list[str]:
        start = path.rstrip("/") + "/"
        names = dict.fromkeys(each[len(start) :].split("/")[0] for each in self._below(path))
        if not names and path not in self.nodes:
            raise StoreError("ENOENT")
        return list(names)

    def watch(self, path: str, callback: Callable[[str], None]) -> object:
        watch = _Watch(path, callback)
        self.watches.append(watch)
        self._tell(watch, path)
        return watch

    def unwatch(self, handle: object) -> None:
        assert isinstance(handle, _Watch)
        handle.live = False
        self.watches.remove(handle)

    def _below(self, path: str) -> list[str]:
        start = path.rstrip("/") + "/"
        return [each for each in self.nodes if each.startswith(start)]

    def _fire(self, path: str) -> None:
        for watch in self.watches:
            if path == watch.path or path.startswith(watch.path + "/"):
                self._tell(watch, path)
            elif watch.path.startswith(path + "/"):  # what was above it has gone
                self._tell(watch, watch.path)

    def _tell(self, watch: _Watch, path: str) -> None:
        self._post(lambda: watch.callback(path) if watch.live else None)


class FakeDoors:
    """See the module. ``doors`` is what the back end gets; the methods are the front end's side."""

    def __init__(self, pages: int = 512) -> None:
        self._engine = FakeEngine(pages + 64, 1)
        self.domain = Domain(self._engine, pages)
        self._posted: deque[Callable[[], None]] = deque()
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._tickets = count()
        self._next_ref = _FIRST_REF
        self.store = FakeStore(self._posted.append)
        self.grants = GrantAccess(self.domain.grants, self.domain.forget_code)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fake-io")
        self._executor = ThreadPoolExecutor(4)
        self.doors = Doors(
            domid=self.domain.domid,
            grants=self.grants,
            bind=self._bind,
            store=self.store,
            post=self._posted.append,
            call_later=self._call_later,
            executor=self._executor,
            loop=self._loop,
        )

    def __enter__(self) -> FakeDoors:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._executor.shutdown()
        self.domain.close()
        self._engine.close()

    def _bind(self, guest_port: int, notify: Callable[[], None]) -> BackEndPort:
        port = self.domain.events.bind_back_end(guest_port)
        self._posted.append(lambda: port.listen(notify))
        return port

    def _call_later(self, seconds: float, work: Callable[[], None]) -> None:
        heappush(self._later, (time.monotonic() + seconds, next(self._tickets), work))

    # The front end's side

    def page(self, number: int) -> memoryview:
        """A page of the guest's memory."""
        start = self.domain.memory.p2m[number] * PAGE_SIZE
        return self.domain.memory.bytes[start : start + PAGE_SIZE]

    def grant(self, number: int, *, readonly: bool = False, domid: int = BACK_END_DOMAIN) -> int:
        """Grant a page of the guest's memory; returns the reference, a new one each time."""
        table = self.domain.grants
        ref = self._next_ref
        self._next_ref += 1
        table.grow(ref // (PAGE_SIZE // GRANT_ENTRY_V1.size) + 1)
        flags = GTF_permit_access | (GTF_readonly if readonly else 0)
        self._write_entry(ref, flags, domid, self.domain.memory.p2m[number])
        return ref

    def revoke(self, ref: int) -> None:
        """Take a grant back. Raises ValueError while it is in use."""
        if self.domain.grants.pins[ref]:
            raise ValueError(f"grant {ref} is in use")
        self._write_entry(ref, 0, 0, 0)

    def _write_entry(self, ref: int, flags: int, domid: int, frame: int) -> None:
        frame_number, place = divmod(ref, PAGE_SIZE // GRANT_ENTRY_V1.size)
        start = self.domain.grants.mfns[frame_number] * PAGE_SIZE + place * GRANT_ENTRY_V1.size
        GRANT_ENTRY_V1.pack_into(self.domain.memory.bytes, start, flags, domid, frame)

    def alloc_port(self) -> int:
        """A port that waits for the back end."""
        return self.domain.events.alloc_unbound(BACK_END_DOMAIN)

    def close_port(self, port: int) -> None:
        self.domain.events.close(port)

    def notify(self, port: int) -> None:
        """Send an event to the back end."""
        self.domain.events.send(port)

    def take_event(self, port: int) -> bool:
        """Whether the back end has sent an event since the last time."""
        operations = self.domain.events.operations
        if not operations.is_pending(port):
            return False
        operations.clear_pending(port)
        return True

    # The thread of the vCPUs

    def run(self, until: Callable[[], object] | None = None, timeout: float = _PATIENCE) -> None:
        """Do what was posted, until a condition holds, or at least until there is no more.

        Raises TimeoutError.
        """
        deadline = time.monotonic() + timeout
        while True:
            while self._later and self._later[0][0] <= time.monotonic():
                heappop(self._later)[2]()
            while self._posted:
                self._posted.popleft()()
            if until is None or until():
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {timeout} s")
            time.sleep(_NAP)

    def leaks(self) -> list[str]:
        """What the back end still holds of the guest: nothing, after its end."""
        pins = self.domain.grants.pins
        found = [f"grant {ref} is in use" for ref, pin in enumerate(pins) if pin]
        found += [f"port {number} is bound" for number in self.domain.events.back_end_ports]
        found += [f"{watch.path} is watched" for watch in self.store.watches]
        return found + self.domain.audit()
