# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain that outlives the command that has made it: its life in a process of its own.

The process has the domain's number, serves its console and its control socket, and does what the
configuration says when the domain ends. A restart makes another domain in the same process, with
the next number: the folder is renamed, and whoever reads the console goes on reading.

As under xend, a domain that was restarted and wants it again within ten seconds is left destroyed:
it would do so for ever.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from msgspec.structs import replace

from pyxen import engine as engines
from pyxen.builder.files import OpenFile, open_for_reading
from pyxen.builder.image import load_kernel
from pyxen.errors import PyxenError
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.run_queue import ALL, FILE, RunQueue
from pyxen.toolstack import sandbox
from pyxen.toolstack.broker.client import Broker
from pyxen.toolstack.config import DomainConfig
from pyxen.toolstack.config.cpulist import format_cpus
from pyxen.toolstack.console_log import default_console_log
from pyxen.toolstack.console_server import ConsoleServer
from pyxen.toolstack.control.messages import Event
from pyxen.toolstack.control.server import ControlServer
from pyxen.toolstack.folders import run_folder
from pyxen.toolstack.host import Host
from pyxen.toolstack.host_store import HostStore
from pyxen.toolstack.lifecycle import SWITCH_INTERVAL, Outcome, Recorded, Symbols, run_once
from pyxen.toolstack.message_ring import MessageRing, RingHandler
from pyxen.toolstack.process.report import Report
from pyxen.toolstack.process.requests import Requests
from pyxen.toolstack.registry import Record
from pyxen.toolstack.running import RunningDomain

log = logging.getLogger("pyxen")

MIN_RESTART_SECONDS: Final = 10.0
DESTROYED: Final = "destroyed"
COREDUMP: Final = "coredump-"
_SUFFIX: Final = "-%Y%m%dT%H%MZ"


class DomainProcess:
    """See the module.

    Args:
        config: what the domain is to be; ``uuid`` is given, paths are absolute.
        broker: does what this process may not do itself while the guest runs.
        report: told when the domain is ready to run for the first time.
        paused: whether it begins paused.
        restarted: when a domain of this name was last restarted, of CLOCK_MONOTONIC; None: never.
    """

    def __init__(
        self,
        config: DomainConfig,
        broker: Broker,
        report: Report,
        *,
        paused: bool = False,
        restarted: float | None = None,
    ) -> None:
        self.config = config
        self.broker = broker
        self.running: RunningDomain | None = None
        self.shutdown_reason = ""
        self.destroying = False
        self.messages = MessageRing(run_folder())
        self._run_queue: RunQueue
        self._report = report
        self._paused = paused
        self._restarted = restarted
        self._restarting = False
        self._updated: DomainConfig | None = None
        self._stop: Callable[[], None] = lambda: None
        self._tell: Callable[[Event], None] = lambda event: None

    def run(self) -> None:
        """The whole life of the domain. Raises PyxenError if it cannot begin."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        self._load()
        engines.load(self.config.engine)
        self.broker.join()
        try:
            self.messages.append(())  # the file is there now
            log.addHandler(RingHandler(self.messages, lambda: self.record.domid))
            with closing(self._enter_run_queue()) as self._run_queue:
                self.check_affinity(self.config)
                sandbox.enter(self.broker.folder, self.config.top_memory_mib)
                with Host(
                    None,
                    self._begins,
                    lambda io: HostStore(self.broker, io.loop),
                    open_device=self.broker.open_device,
                    dump=self.broker.dump_core,
                    open_file=self.broker.open_file,
                ) as host:
                    self._serve(host)
        finally:
            self.broker.leave()

    @property
    def record(self) -> Record:
        """What is known of it without asking."""
        return self.broker.record

    @property
    def _folder(self) -> Path:
        """By its descriptor it is found by whatever name it has, and has a short path."""
        return Path(f"/proc/self/fd/{self.broker.folder}")

    def _load(self, open_file: OpenFile = open_for_reading) -> None:
        """Read the kernel. Raises PyxenError."""
        config = self.config
        self._kernel = load_kernel(config.kernel, open_file=open_file)
        self._symbols = Symbols(self._kernel, config.system_map, open_file)

    def _serve(self, host: Host) -> None:
        with ExitStack() as stack:
            log_config = self.config.console_log or default_console_log(self.config.name)
            log_file = log_config.open(self.broker.open_console_log)
            stack.enter_context(closing(log_file))
            server = stack.enter_context(ConsoleServer(self._folder / "console.sock"))
            stack.enter_context(self._turns(host))
            requests = Requests(self)
            control = stack.enter_context(
                ControlServer(self._folder / "control.sock", host.io.loop, requests.handle)
            )
            self._tell = control.tell
            stack.enter_context(self._signals(host))
            self._live(host, Recorded(server, log_file))

    def _live(self, host: Host, console: Recorded) -> None:
        while True:
            domid = self.record.domid

            def ended(domain: Domain, outcome: Outcome) -> None:
                self._ended(host, domain, outcome)

            self._restarting = False
            run_once(self.config, self._kernel, self._symbols, console, host, domid, ended=ended)
            self.running = None
            self._stop = lambda: None
            if not self._restarting or self.destroying:
                log.info("domain %d has been destroyed", domid)
                return
            self._restarted = time.monotonic()
            self.shutdown_reason = ""
            self._take_update()
            new = self.broker.renumber()
            self._run_queue.renumber(new)
            self._tell(Event("restarted", new))
            log.info("domain %d goes on as %d", domid, new)

    def _begins(self, running: RunningDomain) -> None:
        """In the thread of the vCPUs: the domain is built, and begins when this returns."""
        self.running = running
        domain = running.domain
        self._stop = lambda: domain.post(lambda: domain.stop(DESTROYED))
        domain.scheduler.share(self._run_queue)
        self.schedule(domain)
        if self._paused:
            self._paused = False
            domain.pause()
        if self.destroying:
            self._stop()
        log.info("domain %d has been created: %s", domain.domid, self.config.name)
        self._report.ready(domain.domid)

    # The end

    def destroy(self) -> None:
        """From any thread: end the domain for good, whatever it does."""
        self.destroying = True
        self._stop()

    def _ended(self, host: Host, domain: Domain, outcome: Outcome) -> None:
        """The domain has stopped and is still there."""
        reason = outcome.exit_reason
        if outcome.report is not None:
            log.error("%s", outcome.report)
        if self.destroying:
            return
        self.shutdown_reason = reason
        action = self._action(reason)
        log.info("domain %d has shut down: %s; action: %s", domain.domid, reason, action)
        if action.startswith(COREDUMP):
            self._dump(domain)
            action = action.removeprefix(COREDUMP)
        if action == "restart":
            self._restarting = True
        self._tell(Event("shutdown", domain.domid, reason))
        if action == "rename-restart":
            self._restart_elsewhere(host)
        if action in ("preserve", "rename-restart"):
            domain.linger(lambda: self.destroying)

    def _action(self, reason: str) -> str:
        action = self.config.action(reason)
        if action.endswith("restart") and self._restarted is not None:
            seconds = time.monotonic() - self._restarted
            if seconds < MIN_RESTART_SECONDS:
                log.error(
                    "domain %d was restarted %.1f s ago and ends again: it is not restarted",
                    self.record.domid,
                    seconds,
                )
                return f"{COREDUMP}destroy" if action.startswith(COREDUMP) else "destroy"
        return action

    def _dump(self, domain: Domain) -> None:
        """Write a core dump in place of the last one; what goes wrong stops nothing, as with xl."""
        try:
            self.broker.dump_core(domain)
            log.info("domain %d: its core was dumped", domain.domid)
        except (PyxenError, OSError) as error:
            log.error("domain %d: no core dump: %s", domain.domid, error)

    def _restart_elsewhere(self, host: Host) -> None:
        """Leave the name and the devices to a new domain in another process."""
        config = self._next_config()
        try:
            self.rename(config.name + time.strftime(_SUFFIX, time.gmtime()), str(uuid4()))
            host.close_devices()
            self.broker.spawn(config)
        except PyxenError as error:
            log.error("%s: it could not be restarted: %s", config.name, error)

    def rename(self, name: str, uuid: str | None = None) -> None:
        """In the thread of the vCPUs. Raises PyxenError if the name is in use."""
        assert self.running is not None
        self.broker.rename(name, uuid)
        self.configure(replace(self.config, name=name, uuid=uuid or self.config.uuid))
        self.running.write_name(name)

    def configure(self, config: DomainConfig) -> None:
        """What a restart goes by from now on."""
        self.config = config
        self.broker.configure(config)

    def update(self, config: DomainConfig) -> None:
        """From any thread: a restart goes by this one, whatever changes until then.

        Raises PyxenError for what a domain keeps over restarts.
        """
        if config.name != self.config.name:
            raise PyxenError(f"name: {config.name}: it is {self.config.name}, over restarts too")
        if config.uuid not in ("", self.config.uuid):
            raise PyxenError(f"uuid: {config.uuid}: it is {self.config.uuid}, over restarts too")
        if config.console_log != self.config.console_log:
            raise PyxenError("console_log: the file stays open over restarts")
        self.check_affinity(config)
        self._updated = config

    def _next_config(self) -> DomainConfig:
        """What the next restart goes by."""
        if self._updated is None:
            return self.config
        return replace(self._updated, name=self.config.name, uuid=self.config.uuid)

    def _take_update(self) -> None:
        if self._updated is not None:
            log.info("the configuration of config-update is used")
            self.configure(self._next_config())
            self._updated = None
            self._load(self.broker.open_file)

    # The processors of the host

    def _enter_run_queue(self) -> RunQueue:
        """Share the host's processors with other domains. Raises PyxenError."""
        folder = run_folder()
        table = folder / FILE
        try:
            return RunQueue(table, self._folder, folder / "domains", self.record.domid)
        except (OSError, TimeoutError) as error:
            raise PyxenError(f"{table}: {error.strerror or error}") from None

    @contextmanager
    def _turns(self, host: Host) -> Iterator[None]:
        """Hear from the run queue."""
        queue, loop = self._run_queue, host.io.loop

        def look() -> None:
            queue.drain()
            if self.running is not None:
                self.running.domain.ring()

        host.io.call(lambda: loop.add_reader(queue, look))
        try:
            yield
        finally:
            host.io.call(lambda: loop.remove_reader(queue))

    def check_affinity(self, config: DomainConfig) -> None:
        """Raises PyxenError if a vCPU could run nowhere."""
        for vcpu, mask in enumerate(config.hard_affinity):
            if not self._run_queue.usable(mask):
                cpus, usable = format_cpus(mask), format_cpus(self._run_queue.usable(ALL))
                raise PyxenError(
                    f"cpus: vCPU {vcpu} may run on {cpus}, and this process may use {usable}"
                )

    def schedule(self, domain: Domain) -> None:
        """In the thread of the vCPUs: let the domain have the share of the processors that its
        configuration says."""
        config = self.config
        self._run_queue.set_weight(config.weight)
        domain.scheduler.set_cap(config.cap)
        for vcpu in domain.vcpus:
            vcpu.hard_affinity = _mask_for(vcpu.index, config.hard_affinity)
            vcpu.soft_affinity = _mask_for(vcpu.index, config.soft_affinity)
        domain.scheduler.affinity_changed()

    @contextmanager
    def _signals(self, host: Host) -> Iterator[None]:
        """SIGTERM destroys the domain; SIGHUP does nothing to it.

        The main thread may be deep in guest code; the I/O thread reads of a signal from a pipe.
        """
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

        def read() -> None:
            for number in os.read(reader, 64):
                if number == signal.SIGTERM:
                    log.info("SIGTERM: the domain is destroyed")
                    self.destroy()

        loop = host.io.loop
        previous = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGTERM, _nothing)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        loop.call_soon_threadsafe(loop.add_reader, reader, read)
        try:
            yield
        finally:
            # What comes from now on finds a domain that is ending.
            signal.set_wakeup_fd(previous)
            host.io.call(lambda: loop.remove_reader(reader))
            os.close(reader)
            os.close(writer)


def _mask_for(vcpu: int, masks: tuple[int, ...]) -> int:
    return masks[vcpu] if vcpu < len(masks) else ALL


def _nothing(number: int, frame: Any) -> None:
    """The signal is seen in the I/O thread."""
