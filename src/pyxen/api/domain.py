# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain as an object."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from pyxen.api.console import EXPECT_SECONDS, CommandResult, Console
from pyxen.errors import PyxenError
from pyxen.toolstack import create, domains
from pyxen.toolstack.config import DomainConfig, read_file, read_text
from pyxen.toolstack.config.syntax import format_setting
from pyxen.toolstack.config.writer import format_disk, format_nic
from pyxen.toolstack.control import messages
from pyxen.toolstack.control.client import ControlClient, ControlError, ControlTimeout
from pyxen.toolstack.control.messages import DeviceInfo, DomainInfo, Event
from pyxen.toolstack.devices.disk import parse_disk
from pyxen.toolstack.devices.nic import parse_nic
from pyxen.toolstack.process.start import NewProcess

Option = str | int | os.PathLike[str] | Sequence[str]
SHUTDOWN_SECONDS: Final = 60.0
_ANSWER_SECONDS: Final = 60.0


class Domain:
    """See the package. A context manager: ``start`` when entered, ``destroy`` when left.

    Args:
        file: a configuration as ``pyxen create`` reads it, or None.
        paused: whether the domain begins paused.
        options: those of xl.cfg by name, which come after the file: ``kernel="vmlinuz"``,
            ``memory=64``, ``disk=["root.img,raw,xvda,rw"]``. Without a ``name`` it gets a new one.

    Raises PyxenError for a configuration that is none; ``notes`` says what of it was left out.
    """

    def __init__(
        self, file: str | os.PathLike[str] | None = None, *, paused: bool = False, **options: Option
    ) -> None:
        if file is None:
            options = {"name": f"pyxen-{uuid4().hex[:12]}", **options}
            reading = read_text("".join(_settings(options)), "configuration")
        else:
            reading = read_file(Path(file), list(_settings(options)))
        self.config: DomainConfig | None = reading.config
        self.notes = reading.notes
        self.name = reading.config.name
        self._paused = paused
        self._forget()

    @classmethod
    def connect(cls, qualifier: str | int) -> Domain:
        """A domain that runs already, by its name or number. ``close`` leaves it as it is."""
        domain = cls.__new__(cls)
        domain.config = None  # its process has it
        domain.notes = ()
        domain.name = ""
        domain._forget()
        domain._connect(str(qualifier))
        return domain

    def _forget(self) -> None:
        self._control: ControlClient | None = None
        self._events: ControlClient | None = None
        self._console: Console | None = None
        self._reason = ""
        self._uuid = ""
        self.domid = -1

    # Its life

    def __enter__(self) -> Domain:
        if self._control is None:
            self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.config is not None:
            self.destroy()
        self.close()

    def start(self) -> None:
        """Create the domain; returns when it is about to run. Raises PyxenError."""
        assert self.config is not None, "a domain that runs already cannot be started"
        with NewProcess() as process:
            config = create.complete(self.config)
            domid = create.create(config, process, paused=True)
        self._uuid = config.uuid
        try:
            # The first byte, and a domain that ends at once, are not missed.
            self._connect(str(domid))
            if not self._paused:
                self.unpause()
        except BaseException:
            self.destroy()
            raise

    def _connect(self, qualifier: str) -> None:
        entry = domains.find(qualifier)
        self.domid, self.name = entry.record.domid, entry.record.name
        self._uuid = entry.record.uuid
        self._control = ControlClient(entry.folder, _ANSWER_SECONDS)
        self._events = ControlClient(entry.folder)
        self._events.ask(messages.Subscribe())
        self._console = Console(entry.folder)

    def close(self) -> None:
        """Let go of the domain, which goes on. The text of its console can still be had."""
        for client in (self._control, self._events, self._console):
            if client is not None:
                client.close()
        self._control = self._events = None

    def destroy(self) -> None:
        """End the domain, whatever it does and whatever its number is by now; nothing happens if it
        has gone."""
        if self._uuid:
            domains.destroy_uuid(self._uuid)

    def pause(self) -> None:
        """Let none of its vCPUs run until ``unpause``."""
        self._ask(messages.Pause())

    def unpause(self) -> None:
        self._ask(messages.Unpause())

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Paused while in the context."""
        self.pause()
        try:
            yield
        finally:
            self.unpause()

    def shutdown(self, timeout: float = SHUTDOWN_SECONDS) -> str:
        """Ask the guest to power off, and wait until it has; returns as ``wait``."""
        end = time.monotonic() + timeout
        self._ask(messages.Shutdown("poweroff", timeout))
        return self.wait(max(0.0, end - time.monotonic()))

    def reboot(self, timeout: float = SHUTDOWN_SECONDS) -> None:
        """Ask the guest for a reboot, and wait until the domain begins anew, as another one with a
        new number."""
        end = time.monotonic() + timeout
        self._ask(messages.Shutdown("reboot", timeout))
        self._wait_event("restarted", max(0.0, end - time.monotonic()))

    def wait(self, timeout: float = SHUTDOWN_SECONDS) -> str:
        """Wait until the guest has ended: "poweroff", "reboot", "crash" or "watchdog"; "destroyed"
        if somebody else has ended it. PyxenError when it has not in time."""
        if not self._reason:
            self._wait_event("shutdown", timeout)
        return self._reason

    def _wait_event(self, name: str, timeout: float) -> Event:
        end = time.monotonic() + timeout
        assert self._events is not None, "the domain is not connected"
        while True:
            try:
                event = self._events.wait_event(max(0.0, end - time.monotonic()))
            except ControlTimeout:
                raise PyxenError(f"domain {self.domid}: no {name} within {timeout:g} s") from None
            except ControlError:
                self._reason = self._reason or "destroyed"
                event = Event("shutdown", self.domid, self._reason)
                if name != "shutdown":
                    raise PyxenError(
                        f"domain {self.domid}: it was not {name}: {self._reason}"
                    ) from None
            if event.event == "shutdown":
                self._reason = event.reason
            elif event.event == "restarted":
                self._reason = ""
                self.domid = event.domid
            if event.event == name:
                return event

    # What it prints, and takes

    @property
    def console(self) -> Console:
        assert self._console is not None, "the domain has not been started"
        return self._console

    def run(self, command: str, timeout: float = EXPECT_SECONDS) -> CommandResult:
        """Run a command in the guest: in the shell that has the console. See ``Console.run``."""
        return self.console.run(command, timeout)

    def sysrq(self, key: str) -> None:
        """Send a magic request to a Linux guest, such as ``"s"``."""
        self._ask(messages.Sysrq(key))

    # What it is

    def info(self) -> DomainInfo:
        """As ``pyxen list`` shows it."""
        return self._ask(messages.GetInfo())

    def statistics(self) -> Mapping[str, Any]:
        """Counters of hypercalls, traps and devices since it began."""
        return self._ask(messages.GetStatistics()).figures

    # What can be changed while it runs

    def set_vcpus(self, count: int) -> None:
        """So many are to be online; the guest does it when it likes."""
        self._ask(messages.SetVcpus(count))

    def set_memory(self, mib: int) -> None:
        """The target of the guest's balloon."""
        self._ask(messages.SetMemory(mib << 10))

    def attach_disk(self, spec: str) -> int:
        """Add a disk, in xl's syntax; returns its number."""
        disk = create.absolute_disk(parse_disk(spec))
        return self._ask(messages.AttachDisk(format_disk(disk))).devid

    def detach_disk(self, vdev: str, *, force: bool = False) -> None:
        """Remove one, when the guest has let go of it."""
        self._ask(messages.DetachDisk(vdev, force))

    def attach_nic(self, spec: str) -> int:
        """Add a network card, in xl's syntax; returns its number."""
        nic = create.absolute_nic(parse_nic(spec))
        return self._ask(messages.AttachNic(format_nic(nic))).devid

    def detach_nic(self, devid: int) -> None:
        """Remove one, when the guest has let go of it."""
        self._ask(messages.DetachNic(str(devid)))

    def devices(self, kind: str) -> tuple[DeviceInfo, ...]:
        """Those of a kind, ``"vbd"`` or ``"vif"``."""
        return self._ask(messages.ListDevices(kind)).devices

    def _ask(self, request: messages.Request[messages.Answer]) -> messages.Answer:
        if self._control is None:
            raise PyxenError("the domain has not been started, or was let go of")
        return self._control.ask(request)


def _settings(options: Mapping[str, Option]) -> Iterator[str]:
    for name, value in options.items():
        plain = os.fspath(value) if isinstance(value, os.PathLike) else value
        yield format_setting(name, plain)
