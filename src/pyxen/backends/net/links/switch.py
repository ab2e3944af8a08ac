# SPDX-License-Identifier: GPL-2.0-or-later
"""``switch=NAME``: a private network of domains of the same user, without a program of its own.

A network is a folder that only its user can enter, and each card on it has a *port*, a socket in
this folder. Whoever comes connects to all ports that are there, and those that come later connect
to him; a lock keeps two from coming at the same moment. So there is one stream (``stream``) between
each two ports, and its end tells both sides when one of them is gone. A file of a port that nobody
listens at any more was left behind by somebody who was killed, and is removed.

Each port does its part of what a switch does: it remembers through which stream frames came from an
address, sends frames to that address there, and those to groups or to unknown addresses to all. The
header before each frame (``vnet``) lets frames pass unfinished.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyxen.backends.net.link import Frame, Receive
from pyxen.backends.net.links import vnet
from pyxen.backends.net.links.inbox import Inbox
from pyxen.backends.net.links.stream import FrameStream
from pyxen.backends.opened import Opened
from pyxen.errors import PyxenError

if TYPE_CHECKING:
    from pyxen.backends.doors import Doors

log = logging.getLogger("pyxen")

_LARGEST: Final = vnet.HEADER.size + 65535
_MOST_ADDRESSES: Final = 4096
_BACKLOG: Final = 128
_LOCK: Final = "lock"
_PORT: Final = "port-"


class SwitchLink:
    """See the module: a link by the port that ``join`` has made."""

    takes_unfinished = True

    def __init__(self, doors: Doors, opened: Opened) -> None:
        self._opened = opened
        self._loop = doors.loop
        self._inbox = Inbox(doors, self._go_on)
        self._peers: list[FrameStream] = []
        """Replaced, never changed: the thread of the vCPUs goes through it."""
        self._addresses: dict[bytes, FrameStream] = {}
        self._lost = 0
        """Frames that could not be sent to those who have gone."""
        self._malformed = 0
        self._released = False
        listener, *peers = [socket.socket(fileno=file) for file in opened.files]
        self._listener = listener
        self._listener.setblocking(False)
        for sock in peers:
            self._add(sock)
        doors.loop.call_soon_threadsafe(doors.loop.add_reader, self._listener, self._accept)

    # Link

    def open(self, receive: Receive) -> None:
        self._inbox.open(receive)

    def send(self, frames: Sequence[Frame]) -> None:
        bundles: dict[FrameStream, list[tuple[bytes, bytes]]] = {}
        peers = self._peers
        for frame in frames:
            destination = frame.data[:6]
            known = None if destination[0] & 1 else self._addresses.get(destination)
            parts = (vnet.pack(frame), frame.data)
            for peer in peers if known is None else (known,):
                bundles.setdefault(peer, []).append(parts)
        for peer, bundle in bundles.items():
            peer.send(bundle)

    def resume(self) -> None:
        self._inbox.resume()

    def close(self) -> None:
        self._inbox.close()

    def release(self) -> None:
        if self._released:
            return
        self._released = True
        self._inbox.close()
        self._opened.release()
        self._loop.call_soon_threadsafe(self._dispose)

    def statistics(self) -> dict[str, int]:
        return {
            "link_tx_dropped": self._lost + sum(peer.dropped for peer in self._peers),
            "link_rx_dropped": self._inbox.dropped + self._malformed,
            "link_peers": len(self._peers),
        }

    # In the I/O thread

    def _dispose(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for peer in self._peers:
            peer.dispose()
        self._peers = []

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError as error:
            if not isinstance(error, BlockingIOError):
                log.warning("net: switch: a port could not be let in: %s", error.strerror)
            return
        self._add(sock)

    def _add(self, sock: socket.socket) -> None:
        peer = FrameStream(self._loop, sock, _LARGEST, self._on_frames, self._on_end)
        self._peers = [*self._peers, peer]
        peer.start()

    def _on_frames(self, peer: FrameStream, packets: list[bytes]) -> None:
        frames = []
        for packet in packets:
            frame = vnet.unpack(packet)
            if frame is None:
                self._malformed += 1
                continue
            self._learn(frame.data[6:12], peer)
            frames.append(frame)
        if frames and not self._inbox.put(frames):
            peer.pause_reading()

    def _learn(self, address: bytes, peer: FrameStream) -> None:
        if self._addresses.get(address) is peer or address[0] & 1:
            return
        self._addresses[address] = peer
        if len(self._addresses) > _MOST_ADDRESSES:
            del self._addresses[next(iter(self._addresses))]

    def _on_end(self, peer: FrameStream) -> None:
        self._lost += peer.dropped
        self._peers = [each for each in self._peers if each is not peer]
        for address in [a for a, each in self._addresses.items() if each is peer]:
            del self._addresses[address]

    def _go_on(self) -> None:
        for peer in self._peers:
            peer.resume_reading()


def join(network: Path) -> Opened:
    """Make a port on the network of this folder, which nobody else can enter: the socket that
    listens, and connections with the other ports. Raises PyxenError."""
    port = f"{_PORT}{secrets.token_hex(8)}"
    listener = socket.socket(socket.AF_UNIX)
    with _told(network):
        folder = os.open(network, os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _locked(folder):
                others = _ports(folder)
                listener.bind(_address(folder, port))
                listener.listen(_BACKLOG)
                peers = [peer for name in others if (peer := _connect(folder, name)) is not None]
        except OSError:
            listener.close()
            os.close(folder)
            raise

    def leave() -> None:
        with suppress(FileNotFoundError):  # somebody has emptied the folder
            os.unlink(port, dir_fd=folder)
        os.close(folder)

    return Opened((listener.detach(), *(peer.detach() for peer in peers)), leave)


def remove_leftovers(network: Path) -> None:
    """Remove the ports of those who were killed, as whoever joins the network next would do, too.
    Raises PyxenError."""
    with _told(network):
        folder = os.open(network, os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _locked(folder):
                for name in _ports(folder):
                    sock = _connect(folder, name)
                    if sock is not None:
                        sock.close()
        finally:
            os.close(folder)


@contextmanager
def _told(network: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PyxenError(f"net: switch {network}: {error.strerror}") from None


@contextmanager
def _locked(folder: int) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    lock = os.open(_LOCK, flags, 0o600, dir_fd=folder)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _ports(folder: int) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(_PORT)]


def _address(folder: int, name: str) -> str:
    """A path for a socket, however long that of the folder is."""
    return f"/proc/self/fd/{folder}/{name}"


def _connect(folder: int, name: str) -> socket.socket | None:
    """Connect to a port. None if it does not answer; if nobody listens there, it is removed."""
    sock = socket.socket(socket.AF_UNIX)
    sock.setblocking(False)
    try:
        sock.connect(_address(folder, name))
    except ConnectionRefusedError:
        sock.close()
        os.unlink(name, dir_fd=folder)
    except OSError as error:
        sock.close()
        log.warning("net: switch: port %s does not answer: %s", name, error.strerror)
    else:
        return sock
    return None
