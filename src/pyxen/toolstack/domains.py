# SPDX-License-Identifier: GPL-2.0-or-later
"""The domains of this host as a tool sees them, and requests to them.

Domain 0 is the host. It is listed, as scripts expect it, and nothing can be done with it.
"""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import Struct

from pyxen.errors import PyxenError
from pyxen.hypervisor.run_queue import FILE, RATE_LIMITS_US, Table
from pyxen.toolstack.control.client import ControlClient, ControlError, opened
from pyxen.toolstack.control.messages import (
    Answer,
    Destroy,
    DomainInfo,
    Event,
    GetConfig,
    GetInfo,
    Request,
    Subscribe,
    VcpuInfo,
)
from pyxen.toolstack.folders import make_private, run_folder, switches_folder
from pyxen.toolstack.registry import Entry, Registry, holds_lock

DOMAIN_0: Final = "Domain-0"
_LOOK_SECONDS: Final = 5.0
"""A domain that does not say how it is within this time is listed as its folder has it."""
_DESTROY_SECONDS: Final = 10.0
_INTERVAL: Final = 0.01
_AT_ONCE: Final = 64

Result = TypeVar("Result")


class Listed(Struct, frozen=True):
    """A domain in a list. ``note`` is what has to be said of it, empty for nothing."""

    info: DomainInfo
    note: str = ""


def find(qualifier: str) -> Entry:
    """A living domain by number or name. Raises PyxenError."""
    entry = Registry().find(qualifier)
    if not entry.alive:
        raise PyxenError(entry.reason)
    return entry


def ask(qualifier: str, request: Request[Answer], timeout: float | None = None) -> Answer:
    """Make one request to a domain. Raises PyxenError."""
    with ControlClient(find(qualifier).folder, timeout) as client:
        return client.ask(request)


def list_domains(qualifier: str | None = None) -> list[Listed]:
    """All of them with domain 0, or one. Raises PyxenError if that is not there."""
    registry = Registry()
    if qualifier is not None:
        if qualifier in ("0", DOMAIN_0):
            return [Listed(host_info())]
        return [look(registry.find(qualifier))]
    return [Listed(host_info()), *at_once(look, registry.entries())]


def at_once(ask: Callable[[Entry], Result], entries: Sequence[Entry]) -> list[Result]:
    """Ask all of these domains something at the same time, so that those that are stuck are waited
    for but once."""
    if len(entries) < 2:
        return list(map(ask, entries))
    from concurrent.futures import ThreadPoolExecutor  # slow to load

    with ThreadPoolExecutor(min(_AT_ONCE, len(entries))) as pool:
        return list(pool.map(ask, entries))


def look(entry: Entry, seconds: float = _LOOK_SECONDS) -> Listed:
    """How a domain is. One that does not say so within this time has a note."""
    if not entry.alive:
        return Listed(_known(entry, "crash"), entry.reason)
    try:
        with ControlClient(entry.folder, seconds) as client:
            return Listed(client.ask(GetInfo()))
    except ControlError as error:
        if holds_lock(entry.folder / "lock"):
            return Listed(_known(entry), str(error))  # it begins, it ends, or it is stuck
        return Listed(_known(entry, "crash"), entry.reason)


def _known(entry: Entry, shutdown_reason: str = "") -> DomainInfo:
    """What its folder tells of a domain. One whose process is gone has nothing any more."""
    record = entry.record
    memory = 0 if shutdown_reason else record.memory_mib << 10
    return DomainInfo(
        domid=record.domid,
        name=record.name,
        uuid=record.uuid,
        pid=record.pid,
        started=record.started,
        memory_kib=memory,
        max_memory_kib=memory,
        paused=False,
        shutdown_reason=shutdown_reason,
        vcpus=(),
    )


def host_info() -> DomainInfo:
    """The host as domain 0."""
    meminfo = Path("/proc/meminfo").read_text()
    memory = int(meminfo.split()[1])
    return DomainInfo(
        domid=0,
        name=DOMAIN_0,
        uuid="00000000-0000-0000-0000-000000000000",
        pid=0,
        started=time.time() - float(Path("/proc/uptime").read_text().split()[0]),
        memory_kib=memory,
        max_memory_kib=memory,
        paused=False,
        shutdown_reason="",
        vcpus=tuple(_processors()),
    )


def get_rate_limit() -> int:
    """How long a domain runs at least while others wait, in microseconds. Raises PyxenError."""
    with _run_queue_table() as table:
        return table.rate_limit_us


def set_rate_limit(microseconds: int) -> None:
    """Raises PyxenError."""
    low, high = RATE_LIMITS_US
    if microseconds and not low <= microseconds <= high:
        raise PyxenError(
            f"ratelimit: {microseconds} us asked for, expected {low} to {high}, or 0 for none"
        )
    with _run_queue_table() as table:
        table.rate_limit_us = microseconds


@contextmanager
def _run_queue_table() -> Iterator[Table]:
    path = make_private(run_folder()) / FILE
    try:
        with closing(Table(path)) as table:
            yield table
    except OSError as error:
        raise PyxenError(f"{path}: {error.strerror or error}") from None


def _processors() -> Iterator[VcpuInfo]:
    """The processors of the host that are online. What was stolen from the host they waited for."""
    tick = 10**9 // os.sysconf("SC_CLK_TCK")
    for line in Path("/proc/stat").read_text().splitlines():
        if re.match(r"cpu\d", line):
            name, *fields = line.split()
            times = [int(field) * tick for field in fields]
            user, nice, system, idle, iowait, irq, softirq, steal = times[:8]
            used = user + nice + system + irq + softirq
            cpu = int(name[3:])
            yield VcpuInfo(cpu, True, True, False, used, steal, idle + iowait, cpu=cpu)


def configuration(info: DomainInfo) -> dict[str, Any]:
    """A domain's configuration in libxl's shape."""
    if not info.domid:
        return {"c_info": {"type": "pv", "name": info.name}, "b_info": {"type.pv": {}}}
    entry = Registry().find(str(info.domid))
    try:
        with ControlClient(entry.folder, _LOOK_SECONDS) as client:
            return client.ask(GetConfig()).config
    except ControlError:
        try:
            config: dict[str, Any] = json.loads((entry.folder / "config.json").read_bytes())
        except (OSError, ValueError) as error:
            raise PyxenError(f"{entry.folder}/config.json: {error}") from None
        return config


def destroy(qualifier: str) -> None:
    """End a domain, whatever it does; returns when it has gone. PyxenError if there is none."""
    end(Registry().find(qualifier))


def destroy_uuid(uuid: str) -> None:
    """The same with the domain of this UUID, however often it has begun anew. There may be none."""
    while found := [entry for entry in Registry().entries() if entry.record.uuid == uuid]:
        end(found[0])


def end(entry: Entry) -> None:
    """The same with one that was found."""
    with suppress(FileNotFoundError), opened(entry.folder) as folder:  # where it is after a restart
        lock = folder / "lock"
        with suppress(ControlError), ControlClient(folder, _LOOK_SECONDS) as client:
            client.ask(Destroy())
        if not _wait(lambda: not holds_lock(lock), _DESTROY_SECONDS) and entry.record.pid:
            with suppress(ProcessLookupError):
                os.kill(entry.record.pid, signal.SIGKILL)
            if not _wait(lambda: not holds_lock(lock), _DESTROY_SECONDS):
                raise PyxenError(
                    f"{entry.record.name}: its process {entry.record.pid} cannot be killed"
                )
    tidy()


def tidy() -> list[Entry]:
    """Take away what dead domains have left: their folders, and their ports on switches. Returns
    them, to be told of. Raises PyxenError."""
    dead = Registry().tidy()
    if dead and switches_folder().exists():
        from pyxen.backends.net.links.switch import remove_leftovers  # slow to load

        for folder in switches_folder().iterdir():
            remove_leftovers(folder)
    return dead


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_INTERVAL)
    return True


def living() -> list[Entry]:
    """All domains that have a process."""
    return [entry for entry in Registry().entries() if entry.alive]


class End:
    """Waits for the end of a domain; made before that is asked for. A context manager."""

    def __init__(self, entry: Entry) -> None:
        self._client = ControlClient(entry.folder)
        self._client.ask(Subscribe())

    def __enter__(self) -> End:
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def wait_event(self) -> Event | None:
        """The next thing that happens to it; None when it has gone."""
        try:
            return self._client.wait_event()
        except ControlError:
            return None

    def wait_gone(self) -> None:
        """Return when it is not there any more; one that was restarted is."""
        while self.wait_event() is not None:
            pass


@contextmanager
def console_socket(entry: Entry) -> Any:
    """The path of a domain's console, while in the context."""
    with opened(entry.folder) as folder:
        yield folder / "console.sock"
