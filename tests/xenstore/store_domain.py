# SPDX-License-Identifier: GPL-2.0-or-later
"""A process in which a domain lives, without the domain: a page, a ring and a thread for both.

As a program it is told on its standard input what the guest is to do, a line for each request,
and prints what comes of it:

    python store_domain.py SOCKET DOMID
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from store_guest import ERROR, FrontEnd

from pyxen.abi import io_xs_wire as abi
from pyxen.xenstore import GuestConnection, GuestRing, SocketStore, StoreError
from pyxen.xenstore.address import connect
from pyxen.xenstore.requests import unpack

TIMEOUT = 20.0


class DomainProcess(FrontEnd):
    """What a process has for its domain: this thread, which is that of the vCPUs, and one for I/O.

    ``client`` is the tool stack's; what the guest reads and writes are its own requests.
    """

    def __init__(self, path: Path, domid: int) -> None:
        super().__init__()
        self.domid = domid
        self.works: queue.Queue[Callable[[], None]] = queue.Queue()
        self.notified = 0
        self.lost = 0
        self.received = b""
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        home = f"/local/domain/{domid}"
        self.client = SocketStore(path, self.works.put, self.loop, lost=self._count_loss)
        removes = [home, f"/local/domain/0/backend/*/{domid}"]
        self.connection = GuestConnection(
            lambda: connect(path),
            domid,
            self.works.put,
            self.loop,
            removes=removes,
            timeout=TIMEOUT,
        )
        self.client.mkdir(home)
        self.client.set_permissions(home, [f"n{domid}"])
        self.client.write(f"/local/domain/0/backend/vbd/{domid}/0/state", "1")
        self.client.introduce(domid, 5, 1)
        self.ring = GuestRing(self.connection, memoryview(self.page), self._notify)

    def _notify(self) -> None:
        self.notified += 1

    def _count_loss(self) -> None:
        self.lost += 1

    def close(self) -> None:
        self.ring.close()
        self.connection.close()
        self.client.close()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def __enter__(self) -> DomainProcess:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def run_until(self, condition: Callable[[], object], seconds: float = TIMEOUT) -> None:
        """Do what is posted until something holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            try:
                self.works.get(timeout=max(0.0, deadline - time.monotonic()))()
            except queue.Empty:
                raise TimeoutError from None

    def run_for(self, seconds: float) -> None:
        """Do what is posted, for so long."""
        with contextlib.suppress(TimeoutError):
            self.run_until(lambda: False, seconds)

    def collect(self) -> list[tuple[int, int, int, bytes]]:
        """The messages that have arrived whole; events are kept apart."""
        while piece := self.take():
            self.received += piece
            self.ring.serve()
        answers = []
        while len(self.received) >= 16:
            size = 16 + struct.unpack_from("<I", self.received, 12)[0]
            if len(self.received) < size:
                break
            (message,) = self.messages(self.received[:size])
            self.received = self.received[size:]
            if message[0] == abi.XS_WATCH_EVENT:
                self.events.append(tuple(unpack(message[3])))
            else:
                answers.append(message)
        return answers

    def send(self, data: bytes) -> None:
        """Put bytes into the ring as there is room."""

        def all_sent() -> bool:
            nonlocal data
            while data and (size := self.put(data)):
                data = data[size:]
                self.ring.serve()
            return not data

        self.run_until(all_sent)

    def request(self, kind: int, payload: bytes, transaction: int = 0) -> bytes:
        self.number += 1
        self.send(struct.pack("<4I", kind, self.number, transaction, len(payload)) + payload)
        answers: list[tuple[int, int, int, bytes]] = []

        def answered() -> bool:
            answers.extend(self.collect())
            return bool(answers)

        self.run_until(answered)
        ((answer_kind, number, _, answer),) = answers
        assert number == self.number
        if answer_kind == abi.XS_ERROR:
            raise StoreError(unpack(answer)[0])
        return answer

    def wait_for_event(self) -> tuple[str, ...]:
        def heard() -> bool:
            assert not self.collect()
            return bool(self.events)

        self.run_until(heard)
        return self.events.pop(0)


def main(path: Path, domid: int) -> None:
    with DomainProcess(path, domid) as domain:
        print("ready", flush=True)
        for line in sys.stdin:
            word, *arguments = line.split()
            try:
                if word == "event":
                    answer = " ".join(domain.wait_for_event())
                elif word == "error":
                    answer = str(domain.get(ERROR))
                else:
                    kind = getattr(abi, f"XS_{word}")
                    payload = "".join(f"{each}\0" for each in arguments).encode()
                    if word == "WRITE":
                        payload = payload[:-1]
                    answer = domain.request(kind, payload).decode().rstrip("\0")
            except StoreError as error:
                answer = f"refused {error.name}"
            print(answer, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
