# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of a domain in this process: build, run, reboot, end.

The calling thread runs the vCPUs. A second thread runs an asyncio loop, in which the console's user side does its I/O.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from pyxen import engine as engines
from pyxen.abi.errno import ERRNO_NAMES
from pyxen.backends.console import ConsoleBackend, Scrollback
from pyxen.builder.image import KernelImage, load_kernel
from pyxen.builder.pv import build_pv
from pyxen.builder.symbols import load_symbols
from pyxen.engine.protocol import EngineError
from pyxen.errors import PyxenError, XenError
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.crash_report import describe_crash
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.features import FEATURES
from pyxen.hypervisor.instruments import Statistics
from pyxen.hypervisor.page_flags import PAGE_SHIFT, PAGE_SIZE

log = logging.getLogger("pyxen")

_PAGES_PER_MIB: Final = (1 << 20) >> PAGE_SHIFT
_NO_STORE: Final = 0
"""A kernel that finds no port of the store does not wait for its answers."""
CRASHES: Final = ("crash", "watchdog")


@dataclass(frozen=True)
class RunOptions:
    """What to run: files, sizes, and for how many seconds at most (None: no limit)."""

    kernel: Path
    ramdisk: Path | None
    command_line: str
    memory_mib: int
    vcpus: int
    engine: str
    timeout: float | None
    restart_on_reboot: bool


@dataclass(frozen=True)
class Outcome:
    """How it ended. ``exit_reason`` is a shutdown reason of Xen's, "timeout" or "detached"."""

    exit_reason: str
    report: str | None
    statistics: Statistics


class ConsoleEndpoint(Protocol):
    """The user's side of the console."""

    def output(self, data: bytes) -> None:
        """What the guest prints; may block while the reader is slow. Called in any thread."""

    async def serve(
        self, write_input: Callable[[bytes], None], pending_input: Callable[[], int]
    ) -> None:
        """Hand in what the user types until the user leaves. Runs in the I/O thread."""


def run(options: RunOptions, console: ConsoleEndpoint) -> Outcome:
    """Run a guest to its end; after a reboot, if that is wanted, once more.

    Raises PyxenError for bad input.
    """
    kernel = load_kernel(options.kernel)
    with _IoThread() as io:
        deadline = _Deadline(io.loop, options.timeout)
        while True:
            outcome = _run_once(options, kernel, console, io, deadline)
            if outcome.exit_reason != "reboot" or not options.restart_on_reboot:
                return outcome
            log.info("the guest reboots")


def _run_once(
    options: RunOptions,
    kernel: KernelImage,
    console: ConsoleEndpoint,
    io: _IoThread,
    deadline: _Deadline,
) -> Outcome:
    engine = engines.create(options.engine, options.memory_mib * _PAGES_PER_MIB, options.vcpus)
    scrollback = Scrollback()

    def output(data: bytes) -> None:
        scrollback.append(data)
        console.output(data)

    try:
        domain = Domain(engine, options.memory_mib * _PAGES_PER_MIB, console_output=output)
        try:
            ring = _build(domain, kernel, options, output)
            return _run_domain(domain, kernel, ring, console, scrollback, io, deadline)
        finally:
            domain.close()
    finally:
        engine.close()


def _build(
    domain: Domain, kernel: KernelImage, options: RunOptions, output: Callable[[bytes], None]
) -> ConsoleBackend:
    """Fill the domain's memory and connect its console; the domain is then ready to run."""
    ring: list[ConsoleBackend] = []
    console_port = domain.events.bind_back_end(lambda: ring[0].on_event())
    start = build_pv(
        domain,
        kernel,
        options.ramdisk,
        options.command_line,
        console_port=console_port,
        store_port=_NO_STORE,
        offered_features=FEATURES,
    )
    page = start.console_mfn * PAGE_SIZE
    ring.append(
        ConsoleBackend(
            domain.memory.bytes[page : page + PAGE_SIZE],
            lambda: domain.events.set_pending(console_port),
            output,
        )
    )
    try:
        domain.start(start.entry, start.stack_pointer, start.start_info_address, start.l4_mfn)
    except XenError as error:
        name = ERRNO_NAMES.get(error.errno, str(error.errno))
        raise PyxenError(f"{options.kernel}: its initial page tables are refused: {name}") from None
    return ring[0]


def _run_domain(
    domain: Domain,
    kernel: KernelImage,
    ring: ConsoleBackend,
    console: ConsoleEndpoint,
    scrollback: Scrollback,
    io: _IoThread,
    deadline: _Deadline,
) -> Outcome:
    def left(_future: Future[None]) -> None:
        domain.post(lambda: domain.stop("detached"))

    user = io.start(
        console.serve(lambda data: domain.post(lambda: ring.write_input(data)), ring.pending_input)
    )
    user.add_done_callback(left)
    deadline.attach(lambda: domain.post(lambda: domain.stop("timeout")))
    report = None
    try:
        reason = domain.run()
        if reason in CRASHES:
            report = describe_crash(domain, f"the guest shut down: {reason}", _symbols(kernel))
    except (DomainCrash, EngineError) as error:
        reason = "crash"
        report = describe_crash(domain, str(error), _symbols(kernel))
    finally:
        deadline.detach()
        user.cancel()
        ring.drain()
    return Outcome(reason, report, domain.statistics())


def _symbols(kernel: KernelImage) -> Callable[[int], tuple[str, int] | None]:
    """The kernel's own names of addresses, or none if it has no symbols that we can read."""
    table = load_symbols(kernel)
    return table.lookup if table is not None else lambda address: None


class _IoThread:
    """The thread that runs the asyncio loop."""

    def __enter__(self) -> _IoThread:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, name="pyxen-io", daemon=True)
        self._thread.start()
        return self

    def start(self, work: object) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self.loop)  # type: ignore[arg-type]

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


class _Deadline:
    """The time limit of the whole run, over reboots."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float | None) -> None:
        self._expire: Callable[[], None] | None = None
        self._expired = False
        if seconds is not None:
            loop.call_soon_threadsafe(loop.call_later, seconds, self._ring)

    def attach(self, expire: Callable[[], None]) -> None:
        """Call this when the time is over, at once if it is."""
        self._expire = expire
        if self._expired:
            expire()

    def detach(self) -> None:
        self._expire = None

    def _ring(self) -> None:
        self._expired = True
        expire = self._expire
        if expire is not None:
            expire()
