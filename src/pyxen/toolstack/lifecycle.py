# SPDX-License-Identifier: GPL-2.0-or-later
"""The life of a domain in this process: build, run, reboot, end.

Two threads take part. The calling thread runs the vCPUs and writes what the guest prints. The
other one runs an asyncio loop, in which the console's user side reads its input and the time limit
runs. The vCPUs' thread may be deep in guest code or wait for a reader of the console, so whoever
ends a run does two things: he posts the stop to the domain, and lets go of the console.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import Final, Protocol
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from pyxen import engine as engines
from pyxen.abi.errno import ERRNO_NAMES
from pyxen.abi.grant_table import GNTTAB_RESERVED_CONSOLE, GNTTAB_RESERVED_XENSTORE
from pyxen.backends.console.buffer import Scrollback
from pyxen.backends.console.log_file import LogFile
from pyxen.backends.console.primary import PrimaryConsole
from pyxen.builder.files import OpenFile, open_for_reading
from pyxen.builder.image import KernelImage, load_kernel
from pyxen.builder.pv import PvStart, build_pv
from pyxen.builder.symbols import SymbolTable, load_symbols
from pyxen.engine.protocol import Engine, EngineError
from pyxen.errors import PyxenError, XenError
from pyxen.hypervisor.crash import DomainCrash
from pyxen.hypervisor.crash_report import describe_crash
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.events import BACK_END_DOMAIN
from pyxen.hypervisor.features import FEATURES
from pyxen.hypervisor.grant_access import GrantAccess
from pyxen.hypervisor.grants import GrantLimits
from pyxen.hypervisor.instruments import Instrument, Statistics
from pyxen.hypervisor.page_flags import PAGE_SHIFT
from pyxen.toolstack.config import DomainConfig
from pyxen.toolstack.domain_store import DomainNodes
from pyxen.toolstack.host import Host
from pyxen.toolstack.running import RunningDomain
from pyxen.toolstack.threads import IoThread

log = logging.getLogger("pyxen")

SWITCH_INTERVAL: Final = 0.0005
"""The thread of the vCPUs gets the interpreter back this soon from the others, in seconds."""
SPARE_PAGES: Final = 1024
"""Memory of the machine beyond its domain's, so that pages can be exchanged for others."""
_PAGES_PER_MIB: Final = (1 << 20) >> PAGE_SHIFT
_FIRST_DOMAIN: Final = 1
_NO_STORE: Final = 0
"""A kernel that finds no port of the store does not wait for its answers."""
CRASHES: Final = ("crash", "watchdog")
_REPORTED_LINES: Final = 10


class Outcome(Struct, frozen=True):
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

    def leave(self) -> None:
        """Make ``serve`` return and ``output`` wait no more. Called in any thread."""


def run(
    config: DomainConfig,
    console: ConsoleEndpoint,
    instruments: Sequence[Instrument] = (),
    started: Callable[[RunningDomain], None] = lambda running: None,
    *,
    timeout: float | None = None,
) -> Outcome:
    """Run a guest to its end; after a reboot, if ``on_reboot`` is "restart", once more, as a new
    domain. Of the actions at the end no other is heeded: the run ends.

    The instruments are told of each hypercall and trap, from the first. ``started`` is called
    before each start, in the thread of the vCPUs. The run takes ``timeout`` seconds at most. Raises
    PyxenError for bad input.
    """
    sys.setswitchinterval(SWITCH_INTERVAL)
    kernel = load_kernel(config.kernel)
    symbols = Symbols(kernel, config.system_map)
    with ExitStack() as stack:
        if config.console_log is not None:
            log_file = stack.enter_context(closing(config.console_log.open()))
            console = Recorded(console, log_file)
        host = stack.enter_context(Host(timeout, started))
        for domid in count(_FIRST_DOMAIN):
            outcome = run_once(config, kernel, symbols, console, host, domid, instruments)
            if outcome.exit_reason != "reboot" or config.on_reboot != "restart":
                return outcome
            log.info("the guest reboots")
    raise AssertionError


class Recorded:
    """A console whose output goes into a file first, as its reader may be slow."""

    def __init__(self, console: ConsoleEndpoint, log_file: LogFile) -> None:
        self.serve = console.serve
        self.leave = console.leave
        self._output = console.output
        self._record = log_file.write

    def output(self, data: bytes) -> None:
        self._record(data)
        self._output(data)


def run_once(
    config: DomainConfig,
    kernel: KernelImage,
    symbols: Symbols,
    console: ConsoleEndpoint,
    host: Host,
    domid: int,
    instruments: Sequence[Instrument] = (),
    ended: Callable[[Domain, Outcome], None] = lambda domain, outcome: None,
) -> Outcome:
    """Build a domain, run it to its end, and let go of all that it had.

    ``ended`` is called in between, when it has stopped and still is there: the domain is preserved
    until it returns.
    """
    engine = make_engine(config)
    scrollback = Scrollback()

    def output(data: bytes) -> None:
        scrollback.append(data)
        console.output(data)

    try:
        domain = make_domain(engine, config, domid, output)
        domain.instruments.extend(instruments)
        try:
            built = build_domain(domain, kernel, config, open_file=host.open_file)
            try:
                ring = host.introduce(domain, built.grants, built.nodes, output)
                host.add_devices(domain, config)
                outcome = _run_domain(domain, symbols, ring, console, scrollback, host)
                figures = replace(outcome.statistics, devices=host.device_statistics())
                outcome = replace(outcome, statistics=figures)
                host.shut_down(domain)
                ended(domain, outcome)
                return outcome
            finally:
                host.remove(domain)
        finally:
            domain.close()
    finally:
        engine.close()


def make_engine(config: DomainConfig) -> Engine:
    """The machine: memory for all that the domain may grow to, and its CPUs."""
    pages = config.top_memory_mib * _PAGES_PER_MIB
    return engines.create(config.engine, pages + SPARE_PAGES, config.top_vcpus)


def make_domain(
    engine: Engine,
    config: DomainConfig,
    domid: int = _FIRST_DOMAIN,
    output: Callable[[bytes], None] = lambda data: None,
) -> Domain:
    """A domain on it, with nothing in its memory yet."""
    domain = Domain(
        engine,
        config.memory_mib * _PAGES_PER_MIB,
        max_pages=config.top_memory_mib * _PAGES_PER_MIB,
        domid=domid,
        max_event_channels=config.max_event_channels,
        console_output=output,
        grant_limits=GrantLimits(
            config.max_grant_frames, config.max_maptrack_frames, config.max_grant_version
        ),
    )
    domain.scheduler.set_cap(config.cap)
    domain.cpuid_overrides = config.cpuid
    if config.uuid:
        domain.uuid = UUID(config.uuid)
    return domain


class Built(Struct, frozen=True):
    """What a domain is connected with, once it is in its memory."""

    grants: GrantAccess
    nodes: DomainNodes


def build_domain(
    domain: Domain,
    kernel: KernelImage,
    config: DomainConfig,
    *,
    with_store: bool = True,
    open_file: OpenFile = open_for_reading,
) -> Built:
    """Fill the domain's memory; it is then ready to run, when its store and its console are served.

    Without a store it finds none. ``open_file`` opens its ramdisk.
    """
    store_port = domain.events.alloc_unbound(BACK_END_DOMAIN) if with_store else _NO_STORE
    console_port = domain.events.alloc_unbound(BACK_END_DOMAIN)
    start = build_pv(
        domain,
        kernel,
        config.ramdisk,
        config.command_line,
        console_port=console_port,
        store_port=store_port,
        offered_features=FEATURES,
        open_file=open_file,
    )
    # The tools grant these pages to domain 0 in the guest's place.
    domain.grants.seed(GNTTAB_RESERVED_CONSOLE, start.console_mfn)
    domain.grants.seed(GNTTAB_RESERVED_XENSTORE, start.store_mfn)
    try:
        domain.start(start.entry, start.stack_pointer, start.start_info_address, start.l4_mfn)
    except XenError as error:
        name = ERRNO_NAMES.get(error.errno, str(error.errno))
        raise PyxenError(f"{config.kernel}: its initial page tables are refused: {name}") from None
    grants = GrantAccess(domain.grants, domain.forget_code)
    return Built(grants, _nodes(domain, config, start, store_port, console_port))


def _nodes(
    domain: Domain, config: DomainConfig, start: PvStart, store_port: int, console_port: int
) -> DomainNodes:
    """What the store tells of the domain."""
    image = {"kernel": str(config.kernel), "cmdline": config.command_line}
    if config.ramdisk is not None:
        image["ramdisk"] = str(config.ramdisk)
    return DomainNodes(
        domid=domain.domid,
        name=config.name,
        uuid=str(domain.uuid),
        memory=config.memory_mib << 10,
        max_memory=config.top_memory_mib << 10,
        vcpus=config.vcpus,
        max_vcpus=config.top_vcpus,
        store_port=store_port,
        store_mfn=start.store_mfn,
        console_port=console_port,
        console_mfn=start.console_mfn,
        image=image,
    )


def _run_domain(
    domain: Domain,
    symbols: Symbols,
    ring: PrimaryConsole,
    console: ConsoleEndpoint,
    scrollback: Scrollback,
    host: Host,
) -> Outcome:
    def time_is_up() -> None:
        domain.post(lambda: domain.stop("timeout"))
        console.leave()

    def left(_future: Future[None]) -> None:
        domain.post(lambda: domain.stop("detached"))

    # The deadline first: when it has passed already, the console ends at once, for that reason.
    host.deadline.attach(time_is_up)
    try:
        user = _start_serving(console, domain, ring, host.io)
        user.add_done_callback(left)
        try:
            reason, crash = _run_to_its_end(domain)
        finally:
            # While the last output waits for its reader, all that ends a run still must.
            ring.drain()
            user.cancel()
    finally:
        host.deadline.detach()
    if not user.cancelled():
        user.result()
    report = None
    if crash is not None:
        report = describe_crash(domain, crash, symbols.lookup, scrollback.tail(_REPORTED_LINES))
    return Outcome(reason, report, domain.statistics())


def _start_serving(
    console: ConsoleEndpoint, domain: Domain, ring: PrimaryConsole, io: IoThread
) -> Future[None]:
    """Return when ``serve`` has begun: from then on signals end the run by way of it."""
    begun = threading.Event()

    async def serve() -> None:
        user = asyncio.ensure_future(
            console.serve(
                lambda data: domain.post(lambda: ring.write_input(data)), ring.pending_input
            )
        )
        await asyncio.sleep(0)
        begun.set()
        await user

    future = io.start(serve())
    try:
        begun.wait()
    except BaseException:
        future.cancel()
        raise
    return future


def _run_to_its_end(domain: Domain) -> tuple[str, str | None]:
    """Run the domain. Returns the exit reason and, if it crashed, what to say of that.

    Whatever a guest does is the guest's affair: what we did not think of crashes it, not us.
    """
    try:
        reason = domain.run()
    except (DomainCrash, EngineError) as error:
        return "crash", str(error)
    except PyxenError:
        raise
    except Exception as error:
        log.debug("pyxen failed while serving the guest", exc_info=True)
        message = " ".join(str(error).split())
        return "crash", f"pyxen failed while serving the guest: {type(error).__name__}: {message}"
    return reason, f"the guest shut down: {reason}" if reason in CRASHES else None


class Symbols:
    """The kernel's own names of addresses, or none if it has no symbols that we can read.

    Read when they are first needed; a file that the user names is read at once, so that its
    mistakes are told before the run and not in place of a report. ``open_file`` opens it.
    """

    def __init__(
        self,
        kernel: KernelImage,
        system_map: Path | None,
        open_file: OpenFile = open_for_reading,
    ) -> None:
        self._kernel = kernel
        self._loaded = system_map is not None
        self._table: SymbolTable | None = None
        if system_map is not None:
            self._table = load_symbols(kernel, system_map, open_file)

    def lookup(self, address: int) -> tuple[str, int] | None:
        if not self._loaded:
            self._table = load_symbols(self._kernel)
            self._loaded = True
        return self._table.lookup(address) if self._table is not None else None
