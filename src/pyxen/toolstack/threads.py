# SPDX-License-Identifier: GPL-2.0-or-later
"""The thread beside that of the vCPUs, and the time limit that runs in it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future


class IoThread:
    """The thread that runs the asyncio loop."""

    def __enter__(self) -> IoThread:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="pyxen-io", daemon=True)
        self._thread.start()
        return self

    def start(self, work: object) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)  # type: ignore[arg-type]

    def call(self, work: Callable[[], object]) -> None:
        """Do this in the thread, and return when it is done."""

        async def do() -> None:
            work()

        asyncio.run_coroutine_threadsafe(do(), self.loop).result()

    def __exit__(self, *_exception: object) -> None:
        async def finish() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(finish(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Deadline:
    """The time limit of the whole run, over reboots."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float | None) -> None:
        self._expire: Callable[[], None] | None = None
        self._expired = False
        self._lock = threading.Lock()
        if seconds is not None:
            loop.call_soon_threadsafe(loop.call_later, seconds, self._ring)

    def attach(self, expire: Callable[[], None]) -> None:
        """Call this when the time is over, at once if it is."""
        with self._lock:
            self._expire = expire
            if self._expired:
                expire()

    def detach(self) -> None:
        """From now on do nothing when the time is over, but remember it."""
        with self._lock:
            self._expire = None

    def _ring(self) -> None:
        with self._lock:
            self._expired = True
            if self._expire is not None:
                self._expire()
