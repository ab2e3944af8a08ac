# SPDX-License-Identifier: GPL-2.0-or-later
"""``tap`` and ``bridge``: the guest is on a network of the host's kernel, through a tap device, as
it is through a vif of Xen's own.

What is written to a tap device, the kernel receives as from a cable, and the reverse. Before each
frame is a header (``vnet``), so that frames pass unfinished both ways. A device that is made here
goes with its file, however the process ends; one that was there before, made for the user by root,
stays. Making one needs CAP_NET_ADMIN.

Reference: Linux, ``Documentation/networking/tuntap.rst``; Xen's ``vif-bridge`` and ``vif-route``.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from pyxen.backends.net.link import Frame, Receive
from pyxen.backends.net.links import vnet
from pyxen.backends.net.links.inbox import Inbox
from pyxen.backends.opened import Opened
from pyxen.errors import PyxenError

if TYPE_CHECKING:
    from pyxen.backends.doors import Doors

log = logging.getLogger("pyxen")

_DEVICE: Final = "/dev/net/tun"
_LONGEST_NAME: Final = 15
_TUNSETIFF: Final = 0x400454CA
_TUNSETOFFLOAD: Final = 0x400454D0
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4, _TUN_F_TSO6 = 1, 2, 4
_IFREQ: Final = struct.Struct("16sH22x")
_LARGEST_FRAME: Final = 65535
_AT_ONCE: Final = 64


class TapLink:
    """See the module: a link by the device of this name, which ``open_tap`` has opened."""

    takes_unfinished = True

    def __init__(self, doors: Doors, name: str, opened: Opened) -> None:
        self.name = name
        self._loop = doors.loop
        self._inbox = Inbox(doors, self._start_reading)
        self._buffer = memoryview(bytearray(vnet.HEADER.size + _LARGEST_FRAME))
        self._dropped = 0
        self._released = False
        (self._file,) = opened.files
        doors.loop.call_soon_threadsafe(self._start_reading)

    # Link

    def open(self, receive: Receive) -> None:
        self._inbox.open(receive)

    def send(self, frames: Sequence[Frame]) -> None:
        for frame in frames:
            try:
                os.writev(self._file, (vnet.pack(frame), frame.data))
            except OSError:  # the device is down, or full, or the header makes no sense to it
                self._dropped += 1

    def resume(self) -> None:
        self._inbox.resume()

    def close(self) -> None:
        self._inbox.close()

    def release(self) -> None:
        if not self._released:
            self._released = True
            self._inbox.close()
            self._loop.call_soon_threadsafe(self._dispose)

    def statistics(self) -> dict[str, int]:
        return {"link_tx_dropped": self._dropped, "link_rx_dropped": self._inbox.dropped}

    # In the I/O thread

    def _start_reading(self) -> None:
        if not self._released:
            self._loop.add_reader(self._file, self._read)

    def _dispose(self) -> None:
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def _read(self) -> None:
        frames = []
        try:
            for _ in range(_AT_ONCE):
                count = os.readv(self._file, (self._buffer,))
                frame = vnet.unpack(bytes(self._buffer[:count]))
                if frame is not None:
                    frames.append(frame)
        except BlockingIOError:
            pass
        except OSError as error:
            self._loop.remove_reader(self._file)
            if not self._released:
                log.warning("net: tap device %s: %s", self.name, error.strerror)
        if frames and not self._inbox.put(frames):
            self._loop.remove_reader(self._file)


def open_tap(
    name: str, *, bridge: str = "", routes: Sequence[str] = (), mtu: int | None = None
) -> Opened:
    """The file of a device that is up and connected. ``bridge`` is the one that it joins,
    ``routes`` are the guest's addresses, which the host then finds through the device; ``mtu`` is
    the device's, if given. Raises PyxenError."""
    file = _open(name)
    try:
        _configure(name, bridge, routes, mtu)
    except BaseException:
        os.close(file)
        raise
    return Opened((file,))


def _open(name: str) -> int:
    """The file of the device of this name, which is made if it is not there."""
    if not 0 < len(name.encode()) <= _LONGEST_NAME or "/" in name or " " in name:
        raise PyxenError(
            f"net: {name!r} is no name for a device of at most {_LONGEST_NAME} letters"
        )
    try:
        file = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise PyxenError(f"net: {_DEVICE}: {error.strerror}") from None
    try:
        flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
        fcntl.ioctl(file, _TUNSETIFF, _IFREQ.pack(name.encode(), flags))
        fcntl.ioctl(file, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 | _TUN_F_TSO6)
    except OSError as error:
        os.close(file)
        why = {
            errno.EPERM: "making a tap device needs root, and using one that root has made for "
            "its owner",
            errno.EBUSY: "it is in use (vifname= names another one)",
            errno.EINVAL: "there is another device of this name, or one with other properties",
        }.get(error.errno or 0, error.strerror)
        raise PyxenError(f"net: tap device {name}: {why}") from None
    return file


def _configure(name: str, bridge: str, routes: Sequence[str], mtu: int | None) -> None:
    """Bring the device up, and connect it."""
    from pyroute2 import IPRoute
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as ip:
        index = _index(ip, name)
        if os.geteuid() != 0 and not (bridge or routes or mtu):
            return  # made for the user by root, who has brought it up too
        changes: dict[str, Any] = {"state": "up"}
        if bridge:
            changes["master"] = _bridge_index(ip, bridge)
        if mtu is not None:
            changes["mtu"] = mtu
        try:
            ip.link("set", index=index, **changes)
            for address in routes:
                ip.route("add", dst=address, oif=index, scope="link")
        except NetlinkError as error:
            reason = os.strerror(error.code)
            raise PyxenError(f"net: tap device {name}: {reason}") from None


def _index(ip: Any, name: str) -> int:
    found = ip.link_lookup(ifname=name)
    if not found:
        raise PyxenError(f"net: there is no device {name}")
    return int(found[0])


def _bridge_index(ip: Any, bridge: str) -> int:
    index = _index(ip, bridge)
    info = ip.get_links(index)[0].get_attr("IFLA_LINKINFO")
    if info is None or info.get_attr("IFLA_INFO_KIND") not in ("bridge", "openvswitch"):
        raise PyxenError(f"net: {bridge} is not a bridge")
    return index
