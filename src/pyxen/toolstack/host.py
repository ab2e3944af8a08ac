# SPDX-License-Identifier: GPL-2.0-or-later
"""What the domains of a run have in common: the xenstore, the threads, the time limit; and what a
domain has of the host while it runs: its back ends."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from pyxen.backends.console.primary import PrimaryConsole
from pyxen.backends.doors import Doors
from pyxen.builder.files import OpenFile, open_for_reading
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.events_back_end import BackEndPort
from pyxen.hypervisor.grant_access import GrantAccess
from pyxen.toolstack.core_dump import dump_core
from pyxen.toolstack.devices.live import Devices, OpenDevice
from pyxen.toolstack.domain_store import DomainNodes
from pyxen.toolstack.running import RunningDomain
from pyxen.toolstack.threads import Deadline, IoThread
from pyxen.xenstore.watching import WatchingClient

if TYPE_CHECKING:
    from pyxen.toolstack.config import DomainConfig

_DISK_THREADS: Final = 8
"""They wait for the kernel; a disk may have so many requests under way at once."""


class Store(Protocol):
    """The xenstore as a host needs it; ``client`` is the tool stack's own."""

    @property
    def client(self) -> WatchingClient: ...

    def add(self, domain: Domain, grants: GrantAccess, nodes: DomainNodes) -> WatchingClient:
        """Connect a domain; returns a client for its back ends."""

    def shut_down(self, domid: int) -> None:
        """The domain runs no more."""

    def remove(self, domid: int) -> None:
        """Forget it."""


def _embedded(io: IoThread) -> Store:
    from pyxen.toolstack.store import EmbeddedStore  # with a server, that few need

    return EmbeddedStore()


class Host:
    """See the module. ``started`` is told of each domain before it runs; ``make_store`` makes the
    store, by default one in this process, when the I/O thread is there. ``open_device``, ``dump``
    and ``open_file`` do what a domain needs of the host's files, by default in this process."""

    def __init__(
        self,
        timeout: float | None,
        started: Callable[[RunningDomain], None] = lambda running: None,
        make_store: Callable[[IoThread], Store] = _embedded,
        *,
        open_device: OpenDevice | None = None,
        dump: Callable[[Domain, Path], None] = dump_core,
        open_file: OpenFile = open_for_reading,
    ) -> None:
        self._timeout = timeout
        self._started = started
        self._make_store = make_store
        self._open_device = open_device
        self._dump = dump
        self.open_file = open_file
        self.io = IoThread()
        self.executor = ThreadPoolExecutor(_DISK_THREADS, "pyxen-disk")
        self.devices: Devices | None = None
        self.console: PrimaryConsole | None = None

    def __enter__(self) -> Host:
        self.io.__enter__()
        self.deadline = Deadline(self.io.loop, self._timeout)
        self.store = self._make_store(self.io)
        return self

    def __exit__(self, *exception: object) -> None:
        self.executor.shutdown()
        self.io.__exit__(*exception)

    def introduce(
        self,
        domain: Domain,
        grants: GrantAccess,
        nodes: DomainNodes,
        output: Callable[[bytes], None],
    ) -> PrimaryConsole:
        """Connect a domain that has been built with the store, make its doors, and serve its
        console, whose output goes there."""
        client = self.store.add(domain, grants, nodes)

        def bind(guest_port: int, notify: Callable[[], None]) -> BackEndPort:
            port = domain.events.bind_back_end(guest_port)
            domain.post(lambda: port.listen(notify))  # not before the caller knows the port
            return port

        doors = Doors(
            domid=domain.domid,
            grants=grants,
            bind=bind,
            store=client,
            post=domain.post,
            call_later=domain.call_later,
            executor=self.executor,
            loop=self.io.loop,
        )
        self.devices = Devices(doors, self.store.client, nodes.name, open_device=self._open_device)
        self.console = PrimaryConsole(doors, f"{nodes.path}/console", output)
        self.console.attach()
        return self.console

    def add_devices(self, domain: Domain, config: DomainConfig) -> None:
        """Those that the domain has from its start. Raises PyxenError."""
        assert self.devices is not None
        for disk in config.disks:
            self.devices.attach_disk(disk)
        for nic in config.nics:
            self.devices.attach_nic(nic)
        for channel in config.channels:
            self.devices.attach_channel(channel)
        self._started(
            RunningDomain(
                domain,
                self.store.client,
                self.devices,
                self.io.loop,
                self.device_statistics,
                self._dump,
            )
        )

    def device_statistics(self) -> dict[str, dict[str, int]]:
        """Counters of back ends, by the device's name; the console is number 0 of its kind."""
        if self.console is None or self.devices is None:
            return {}
        return {"console-0": self.console.statistics(), **self.devices.statistics()}

    def close_devices(self) -> None:
        """Let go of the domain's devices, and of what they use of the host."""
        if self.devices is not None:
            self.devices.close()

    def shut_down(self, domain: Domain) -> None:
        """The domain has stopped: tell so."""
        self.store.shut_down(domain.domid)

    def remove(self, domain: Domain) -> None:
        """Let go of all that is the domain's."""
        if self.devices is not None:
            self.devices.close()
            self.devices = None
        if self.console is not None:
            self.console.detach()
            self.console = None
        self.store.remove(domain.domid)
