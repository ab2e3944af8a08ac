# SPDX-License-Identifier: GPL-2.0-or-later
"""What can be asked of a domain while it runs, from any thread.

Each request is done by the thread of the vCPUs, between two instructions of the guest; what comes
of it is in a future.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Final, TypeVar

from msgspec.structs import replace

from pyxen.errors import PyxenError
from pyxen.hypervisor.domain import Domain
from pyxen.hypervisor.instruments import Statistics
from pyxen.toolstack.core_dump import dump_core
from pyxen.toolstack.devices.channel import parse_channel
from pyxen.toolstack.devices.disk import parse_disk, virtual_device_number
from pyxen.toolstack.devices.live import CHANNEL, DISK, NIC, Devices
from pyxen.toolstack.devices.nic import parse_nic
from pyxen.xenstore.error import StoreError, StoreGone
from pyxen.xenstore.watching import WatchingClient

log = logging.getLogger("pyxen")

DETACH_SECONDS: Final = 10.0
"""So long xl waits for a front end, too."""
REQUEST_SECONDS: Final = 60.0
"""And so long for a guest to take notice of a request."""

Result = TypeVar("Result")


class RunningDomain:
    """See the module. ``domain``, ``devices`` and ``client``, which is the store's, are for the
    thread of the vCPUs alone."""

    def __init__(
        self,
        domain: Domain,
        client: WatchingClient,
        devices: Devices,
        loop: asyncio.AbstractEventLoop,
        device_statistics: Callable[[], dict[str, dict[str, int]]],
        dump: Callable[[Domain, Path], None] = dump_core,
    ) -> None:
        self.domid = domain.domid
        self.domain = domain
        self.client = client
        self.devices = devices
        self._loop = loop
        self._device_statistics = device_statistics
        self._dump = dump

    def call(self, work: Callable[[], Result]) -> Future[Result]:
        """Do this in the thread of the vCPUs; what it raises goes into the future."""
        future: Future[Result] = Future()

        def attempt() -> None:
            try:
                result = work()
            except Exception as error:  # the caller's affair, not the guest's
                future.set_exception(error)
            else:
                future.set_result(result)

        self.domain.post(attempt)
        return future

    def attach_disk(self, spec: str) -> Future[int]:
        """Add a disk, in xl's syntax; the result is its number."""
        return self.call(lambda: self.devices.attach_disk(parse_disk(spec)).devid)

    def attach_nic(self, spec: str) -> Future[int]:
        """Add a network card, in xl's syntax; the result is its number."""
        return self.call(lambda: self.devices.attach_nic(parse_nic(spec)).devid)

    def attach_channel(self, spec: str) -> Future[int]:
        """Add a console, in xl's syntax; the result is its number."""
        return self.call(lambda: self.devices.attach_channel(parse_channel(spec)).devid)

    def detach_disk(
        self, vdev: str, *, force: bool = False, seconds: float = DETACH_SECONDS
    ) -> Future[None]:
        """Remove a disk, and wait until the guest has let go of it. PyxenError when it does not."""
        return self._detach(DISK, lambda: virtual_device_number(vdev), vdev, force, seconds)

    def detach_nic(
        self, devid: int, *, force: bool = False, seconds: float = DETACH_SECONDS
    ) -> Future[None]:
        """The same with a network card."""
        return self._detach(NIC, lambda: devid, str(devid), force, seconds)

    def detach_channel(
        self, devid: int, *, force: bool = False, seconds: float = DETACH_SECONDS
    ) -> Future[None]:
        """The same with a console."""
        return self._detach(CHANNEL, lambda: devid, str(devid), force, seconds)

    def _detach(
        self, kind: str, number: Callable[[], int], name: str, force: bool, seconds: float
    ) -> Future[None]:
        future: Future[None] = Future()

        def done() -> None:
            if not future.done():
                future.set_result(None)

        def refuse(error: PyxenError) -> None:
            if not future.done():
                future.set_exception(error)

        def begin() -> None:
            try:
                self.devices.detach(kind, number(), force=force, done=done)
            except PyxenError as error:
                refuse(error)
                return
            late = PyxenError(f"{name}: the guest has not let go of it within {seconds:g} s")
            self._post_later(seconds, lambda: refuse(late))

        self.domain.post(begin)
        return future

    def statistics(self) -> Future[Statistics]:
        """What it has done so far, and what its back ends have."""
        return self.call(
            lambda: replace(self.domain.statistics(), devices=self._device_statistics())
        )

    def dump_core(self, path: Path) -> Future[None]:
        """Write its memory and vCPUs to a file, see ``core_dump``; its time stands meanwhile."""

        def dump() -> None:
            self.domain.pause()
            try:
                self._dump(self.domain, path)
            finally:
                self.domain.unpause()

        return self.call(dump)

    def request(self, action: str, seconds: float = REQUEST_SECONDS) -> Future[None]:
        """Ask the guest for a ``poweroff`` or ``reboot``, as ``xl shutdown`` does.

        The result comes when the guest has acknowledged it, by taking the word away; PyxenError if
        it does not, the request then still stands.
        """
        path = f"/local/domain/{self.domid}/control/shutdown"
        future: Future[None] = Future()
        watches: list[object] = []

        def finish(error: PyxenError | None = None) -> None:
            if future.done():
                return
            for watch in watches:
                self.client.unwatch(watch)  # type: ignore[arg-type]
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        def look(_path: str) -> None:
            if not future.done() and not self.client.read(path):
                finish()

        def begin() -> None:
            try:
                self.client.write(path, action)
                watches.append(self.client.watch(path, look))
            except StoreError as error:
                finish(PyxenError(f"xenstored: {error}"))
                return
            late = PyxenError(
                f"the guest has not acknowledged the request ({action}) within {seconds:g} s"
            )
            self._post_later(seconds, lambda: finish(late))

        self.domain.post(begin)
        return future

    def write_name(self, name: str) -> None:
        """Tell the store of a new name; in the thread of the vCPUs. One that has ended is no error:
        others find the domain by its folder."""
        try:
            for place in (f"/local/domain/{self.domid}", f"/vm/{self.domain.uuid}"):
                self.client.write(f"{place}/name", name)
        except StoreGone as error:
            log.warning("%s: the store does not know the new name: %s", name, error)

    def _post_later(self, seconds: float, work: Callable[[], None]) -> None:
        def post() -> None:
            self.domain.post(work)

        self._loop.call_soon_threadsafe(self._loop.call_later, seconds, post)
