# SPDX-License-Identifier: GPL-2.0-or-later
"""What the tool stack writes into the store for a domain: the nodes of libxl.

A domain's own directory, ``/local/domain/DOMID``, is read by its kernel: how much memory it should
have (``memory/target``, for the balloon), which of its CPUs are to be online, what it is asked to
do (``control/shutdown``). Its kernel may write only where it has been given a node. ``/vm/UUID`` is
what stays the same when a domain moves, ``/libxl/DOMID`` the tool stack's own.

Reference: ``xenstore-paths``, and what libxl of Xen 4.17 writes.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from pyxen.backends.console.buffer import DEFAULT_LIMIT
from pyxen.xenstore.watching import WatchingClient

_FEATURES: Final = (
    "platform-feature-multiprocessor-suspend",
    "platform-feature-xs_reset_watches",
)
_READABLE: Final = ("cpu", "memory", "device", "control")
_WRITABLE: Final = (
    "device/suspend/event-channel",
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
)


class DomainNodes(Struct, frozen=True):
    """What a domain's nodes tell. Memory is in KiB; a frame is that of a ring."""

    domid: int
    name: str
    uuid: str
    memory: int
    max_memory: int
    vcpus: int
    max_vcpus: int
    store_port: int
    store_mfn: int
    console_port: int
    console_mfn: int
    image: Mapping[str, str]
    """The files it was built from: ``kernel``, ``ramdisk``, ``cmdline``."""

    @property
    def path(self) -> str:
        return f"/local/domain/{self.domid}"

    @property
    def vm_path(self) -> str:
        return f"/vm/{self.uuid}"

    @property
    def libxl_path(self) -> str:
        return f"/libxl/{self.domid}"


def places_of(domid: int, uuid: str) -> list[str]:
    """Where all nodes of a domain are, for the store to remove with it, whatever kinds of devices
    it has."""
    return [
        f"/local/domain/{domid}",
        f"/vm/{uuid}",
        f"/libxl/{domid}",
        f"/local/domain/0/backend/*/{domid}",
        f"/local/domain/0/error/backend/*/{domid}",
    ]


def make_node(client: WatchingClient, path: str, permissions: tuple[str, ...]) -> None:
    """A node with these permissions, which those below it get, too."""
    client.mkdir(path)
    client.set_permissions(path, permissions)


def write_domain(client: WatchingClient, domain: DomainNodes) -> None:
    """Write all that a domain finds at its start."""
    readable = ("n0", f"r{domain.domid}")
    path = domain.path
    for each in (path, domain.vm_path, domain.libxl_path):
        remove_tree(client, each)
    make_node(client, path, readable)
    make_node(client, domain.vm_path, readable)
    make_node(client, domain.libxl_path, ("n0",))
    client.mkdir(f"{domain.libxl_path}/device")
    client.write(f"{domain.libxl_path}/type", "pv")
    for name in _READABLE:
        make_node(client, f"{path}/{name}", readable)
    for name in _WRITABLE:
        make_node(client, f"{path}/{name}", (f"n{domain.domid}",))
    client.write_many({f"{path}/{name}": value for name, value in _values(domain).items()})
    client.write_many({f"{domain.vm_path}/{name}": value for name, value in _vm(domain).items()})
    _write_console(client, domain)


def _values(domain: DomainNodes) -> dict[str, str]:
    values = {
        "vm": domain.vm_path,
        "name": domain.name,
        "domid": str(domain.domid),
        "memory/static-max": str(domain.max_memory),
        "memory/target": str(domain.memory),
        "memory/videoram": "0",
        "store/port": str(domain.store_port),
        "store/ring-ref": str(domain.store_mfn),
    }
    values |= {f"control/{feature}": "1" for feature in _FEATURES}
    for index in range(domain.max_vcpus):
        values[f"cpu/{index}/availability"] = "online" if index < domain.vcpus else "offline"
    return values


def _vm(domain: DomainNodes) -> dict[str, str]:
    image = {f"image/{name}": value for name, value in domain.image.items()}
    return {
        "uuid": domain.uuid,
        "name": domain.name,
        "image/ostype": "linux",
        "start_time": f"{time.time():.2f}",
        **image,
    }


def _write_console(client: WatchingClient, domain: DomainNodes) -> None:
    """The primary console is no device of xenbus: both sides know its ring from the start."""
    front = f"{domain.path}/console"
    back = f"/local/domain/0/backend/console/{domain.domid}/0"
    make_node(client, front, ("n0", f"r{domain.domid}"))
    client.write_many(
        {
            f"{front}/backend": back,
            f"{front}/backend-id": "0",
            f"{front}/limit": str(DEFAULT_LIMIT),
            f"{front}/type": "xenconsoled",
            f"{front}/output": "pty",
            f"{front}/tty": "",
            f"{front}/port": str(domain.console_port),
            f"{front}/ring-ref": str(domain.console_mfn),
        }
    )
    make_node(client, back, ("n0", f"r{domain.domid}"))
    client.write_many(
        {
            f"{back}/frontend": front,
            f"{back}/frontend-id": str(domain.domid),
            f"{back}/online": "1",
            f"{back}/state": "1",
            f"{back}/protocol": "vt100",
        }
    )


def remove_domain(client: WatchingClient, domain: DomainNodes) -> None:
    """Forget a domain, when its back ends have let go of it."""
    for each in (domain.path, domain.vm_path, domain.libxl_path):
        remove_tree(client, each)
    for place in ("/local/domain/0/backend", "/local/domain/0/error/backend"):
        if client.exists(place):
            for kind in client.directory(place):
                remove_tree(client, f"{place}/{kind}/{domain.domid}")


def remove_tree(client: WatchingClient, path: str) -> None:
    """Remove a node with all below it, if it is there."""
    if client.exists(path):
        client.remove(path)
