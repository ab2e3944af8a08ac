# SPDX-License-Identifier: GPL-2.0-or-later
"""The devices of a running domain: added and removed at any time, as ``xl block-attach`` does.

To add one is to open what it needs of the host, to write both directories into the store, as libxl
does, and to set its back end going. To remove one is to ask the front end, and when that has closed
to remove both directories. A front end that is in use may refuse for ever; with ``force`` it is not
asked.

All of it happens in the thread of the vCPUs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct
from msgspec.structs import replace

from pyxen.abi.io_xenbus import XenbusStateInitialising
from pyxen.backends.doors import Doors
from pyxen.backends.opened import Opened
from pyxen.backends.xenbus import BACK_END_DIRECTORY, Backend
from pyxen.errors import PyxenError
from pyxen.toolstack.devices import FACTORIES
from pyxen.toolstack.devices.channel import ChannelConfig
from pyxen.toolstack.devices.disk import DiskConfig
from pyxen.toolstack.devices.nic import NicConfig, stable_mac
from pyxen.toolstack.domain_store import make_node, remove_tree
from pyxen.xenstore.error import StoreGone
from pyxen.xenstore.watching import WatchingClient

if TYPE_CHECKING:
    from pyxen.toolstack.devices import Factory

log = logging.getLogger("pyxen")

DISK: Final = "vbd"
NIC: Final = "vif"
CHANNEL: Final = "console"
DeviceConfig = DiskConfig | NicConfig | ChannelConfig
OpenDevice = Callable[[str, DeviceConfig], Opened]
_NAMES: Final = {DISK: "disk", NIC: "network card", CHANNEL: "console"}


class Device(Struct, frozen=True):
    """One device and its places in the store."""

    kind: str
    devid: int
    config: Any
    backend: Backend
    frontend_path: str
    backend_path: str
    libxl_path: str

    @property
    def name(self) -> str:
        """As in statistics: ``vbd-51712``."""
        return f"{self.kind}-{self.devid}"


class Devices:
    """See the module. ``client`` writes the directories; ``domain_name`` is what cards without an
    address get theirs from. ``open_device``, if given, opens what a device of a kind and a
    configuration needs of the host, in place of its factory."""

    def __init__(
        self,
        doors: Doors,
        client: WatchingClient,
        domain_name: str,
        factories: Mapping[str, Factory] = FACTORIES,
        open_device: OpenDevice | None = None,
    ) -> None:
        self._doors = doors
        self._client = client
        self._domain_name = domain_name
        self._factories = factories
        self._open_device = open_device or self._open_here
        self._devices: dict[tuple[str, int], Device] = {}

    def find(self, kind: str, devid: int) -> Device | None:
        return self._devices.get((kind, devid))

    def all(self) -> list[Device]:
        return list(self._devices.values())

    def statistics(self) -> dict[str, dict[str, int]]:
        """Counters of each device's back end, by its name."""
        return {device.name: device.backend.statistics() for device in self.all()}

    # Adding

    def attach_disk(self, config: DiskConfig) -> Device:
        """Raises PyxenError if there is one of this vdev, or it cannot be opened."""
        return self._attach(DISK, config.number, config)

    def attach_nic(self, config: NicConfig) -> Device:
        """Without a device number it gets the lowest that is free."""
        devid = config.devid
        if devid is None:
            devid = 0
            while self.find(NIC, devid) is not None:
                devid += 1
        mac = config.mac or stable_mac(self._domain_name, devid)
        return self._attach(NIC, devid, replace(config, devid=devid, mac=mac))

    def attach_channel(self, config: ChannelConfig) -> Device:
        """Without a device number it gets the lowest that is free, from 1 on."""
        devid = config.devid
        if devid is None:
            devid = 1
            while self.find(CHANNEL, devid) is not None:
                devid += 1
        return self._attach(CHANNEL, devid, replace(config, devid=devid))

    def _attach(self, kind: str, devid: int, config: DeviceConfig) -> Device:
        name = _NAMES[kind]
        if self.find(kind, devid) is not None:
            raise PyxenError(f"{name} {devid}: the domain has one of this number")
        factory = self._factories.get(kind)
        if factory is None:
            raise PyxenError(f"{name}: pyxen has no back end for it yet")
        domid = self._doors.domid
        frontend_path = f"/local/domain/{domid}/device/{kind}/{devid}"
        backend_path = f"{BACK_END_DIRECTORY}/backend/{kind}/{domid}/{devid}"
        opened = self._open_device(kind, config)
        backend = factory.make(self._doors, backend_path, frontend_path, config, opened)
        libxl_path = f"/libxl/{domid}/device/{kind}/{devid}"
        device = Device(kind, devid, config, backend, frontend_path, backend_path, libxl_path)
        self._write(device, config)
        self._devices[kind, devid] = device
        backend.machine.ended.append(lambda: self._forget(device))
        backend.machine.attach()
        return device

    def _open_here(self, kind: str, config: DeviceConfig) -> Opened:
        return self._factories[kind].open(config, self._doors.domid)

    def _write(self, device: Device, config: DeviceConfig) -> None:
        """Both directories, and the tool stack's copy. The back end's first: when the guest finds
        its own, all is there."""
        client, domid = self._client, self._doors.domid
        initialising = str(XenbusStateInitialising)
        back = {
            "frontend": device.frontend_path,
            "frontend-id": str(domid),
            "online": "1",
            "state": initialising,
            **config.backend_nodes(),
        }
        front = {
            "backend": device.backend_path,
            "backend-id": "0",
            **config.frontend_nodes(),
            "state": initialising,
        }
        links = {"frontend": device.frontend_path, "backend": device.backend_path}
        for path in (device.libxl_path, device.backend_path, device.frontend_path):
            remove_tree(client, path)
        client.write_many({f"{device.libxl_path}/{k}": v for k, v in (links | back).items()})
        make_node(client, device.backend_path, ("n0", f"r{domid}"))
        client.write_many({f"{device.backend_path}/{k}": v for k, v in back.items()})
        make_node(client, device.frontend_path, (f"n{domid}", "r0"))
        for name, value in config.readonly_nodes().items():
            path = f"{device.frontend_path}/{name}"
            make_node(client, path, ("n0", f"r{domid}"))
            client.write(path, value)
        client.write_many({f"{device.frontend_path}/{k}": v for k, v in front.items()})

    # Removing

    def detach(
        self,
        kind: str,
        devid: int,
        *,
        force: bool = False,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """Remove a device; ``done`` is called when it has gone. Raises PyxenError for none."""
        device = self.find(kind, devid)
        if device is None:
            raise PyxenError(f"{_NAMES[kind]} {devid}: the domain has none of this number")
        device.backend.machine.ended.append(done)
        device.backend.machine.detach(force)

    def _forget(self, device: Device) -> None:
        del self._devices[device.kind, device.devid]
        for path in (device.frontend_path, device.backend_path, device.libxl_path):
            remove_tree(self._client, path)
        error = device.backend_path.replace("/backend/", "/error/backend/", 1)
        remove_tree(self._client, error)

    def close(self) -> None:
        """The domain ends: let go of all at once."""
        for device in self.all():
            try:
                device.backend.machine.detach(force=True)
            except StoreGone as error:
                log.error("%s: %s", device.name, error)
