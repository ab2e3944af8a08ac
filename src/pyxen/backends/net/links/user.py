# SPDX-License-Identifier: GPL-2.0-or-later
"""``user``: the guest uses the host's network as one of the user's programs does, without root.

The program passt is at the other end of a socket. It is a router, a DHCP server and, where need be,
a resolver to the guest, and for each of the guest's connections it makes one of its own with
ordinary sockets. The addresses are those that users of QEMU know: the guest is 10.0.2.15, the
router 10.0.2.2. passt ends when the socket is closed, however that happens.

A packet to the host's loopback must not reach it. passt makes 127.0.0.1 of the router's address,
unless it is told ``--no-map-gw``; and versions of 2023 connect to whatever address the guest names,
127.0.0.1 included. So such packets are not given to passt (``Border``). It also needs that address
to tell replies to forwarded datagrams of local programs, and to reach a resolver on the loopback;
``Border`` then lets through what belongs to those, and passt does IPv4 only.

passt reads lengths from headers and computes no checksums of what the guest sends, so that it takes
unfinished frames.
"""

from __future__ import annotations

import ipaddress
import logging
import os
import shutil
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from pyxen.backends.net.link import Frame, Receive
from pyxen.backends.net.links.inbox import Inbox
from pyxen.backends.net.links.stream import LENGTH, FrameStream
from pyxen.backends.opened import PATIENCE, Opened, Program, last_words
from pyxen.errors import PyxenError

if TYPE_CHECKING:
    from pyxen.backends.doors import Doors

log = logging.getLogger("pyxen")

PROGRAM: Final = "passt"
GUEST: Final = "10.0.2.15"
ROUTER: Final = "10.0.2.2"
LARGEST_MTU: Final = 65520
"""What passt tells the guest by DHCP unless asked otherwise. The fewer packets, the faster."""

_ROUTER_MAC: Final = "52:55:0a:00:02:02"
_PREFIX_LENGTH: Final = 24
_LARGEST_FRAME: Final = 65535
_BUFFER: Final = 8 << 20
_SO_SNDBUFFORCE: Final = 32  # for root, beyond net.core.wmem_max
_NOISE: Final = "Failed to send"
"""passt says so for each message where there is no syslog."""
_LOCAL_RESOLVER: Final = "resolver_is_local"


class Forward(Protocol):
    """Connections to a port of the host that go to one of the guest. ``protocol`` is tcp or udp."""

    @property
    def protocol(self) -> str: ...

    @property
    def host_address(self) -> str: ...

    @property
    def host_port(self) -> int: ...

    @property
    def guest_port(self) -> int: ...


class UserLink:
    """See the module: a link with the passt that ``start_passt`` has started, for the same
    ``forwards`` and ``host_loopback``."""

    takes_unfinished = True

    def __init__(
        self,
        doors: Doors,
        opened: Opened,
        *,
        forwards: Sequence[Forward] = (),
        host_loopback: bool = False,
    ) -> None:
        self._opened = opened
        self._border = None if host_loopback else Border(forwards, opened.facts[_LOCAL_RESOLVER])
        self._log_text = b""
        sock, self._messages = opened.files
        log.info("net: %s started, process %d", PROGRAM, opened.pid)
        os.set_blocking(self._messages, False)
        self._tell_messages(logging.INFO)
        self._loop = doors.loop
        self._inbox = Inbox(doors, self._go_on)
        self._stream = FrameStream(
            doors.loop,
            socket.socket(fileno=sock),
            _LARGEST_FRAME,
            self._on_frames,
            lambda _stream: self._on_end(),
        )
        self._refused = 0
        self._released = False
        self._stream.start()
        doors.loop.call_soon_threadsafe(doors.loop.add_reader, self._messages, self._read_messages)

    # Link

    def open(self, receive: Receive) -> None:
        self._inbox.open(receive)

    def send(self, frames: Sequence[Frame]) -> None:
        if self._border is not None:
            passed = [frame for frame in frames if self._border.lets_out(frame.data)]
            self._refused += len(frames) - len(passed)
            frames = passed
        self._stream.send([(frame.data,) for frame in frames])

    def resume(self) -> None:
        self._inbox.resume()

    def close(self) -> None:
        self._inbox.close()

    def release(self) -> None:
        if self._released:
            return
        self._released = True
        self._inbox.close()
        self._stream.close()
        self._opened.release()
        self._loop.call_soon_threadsafe(self._close_messages)

    def statistics(self) -> dict[str, int]:
        return {
            "link_tx_dropped": self._stream.dropped,
            "link_tx_refused": self._refused,
            "link_rx_dropped": self._inbox.dropped,
        }

    # In the I/O thread

    def _on_frames(self, stream: FrameStream, frames: list[bytes]) -> None:
        if self._border is not None:
            for data in frames:
                self._border.note_incoming(data)
        if not self._inbox.put([Frame(data, checksum_valid=True) for data in frames]):
            stream.pause_reading()

    def _go_on(self) -> None:
        self._stream.resume_reading()

    def _on_end(self) -> None:
        if not self._released:
            log.warning("net: %s has ended; the card is not connected to anything", PROGRAM)

    def _read_messages(self) -> None:
        if not self._tell_messages(logging.WARNING):
            self._close_messages()

    def _tell_messages(self, level: int) -> bool:
        """Log what passt has said: at its start much, later only what went wrong. False if it will
        say nothing any more."""
        try:
            text = os.read(self._messages, 4096)
        except BlockingIOError:
            return True
        *lines, self._log_text = (self._log_text + text)[-4096:].split(b"\n")
        for line in lines:
            message = line.decode(errors="replace").strip()
            if message and not message.startswith(_NOISE):
                log.log(level, "net: %s: %s", PROGRAM, message)
        return bool(text)

    def _close_messages(self) -> None:
        if self._messages >= 0:
            self._loop.remove_reader(self._messages)
            os.close(self._messages)
            self._messages = -1


def start_passt(
    mac: str,
    *,
    forwards: Sequence[Forward] = (),
    host_loopback: bool = False,
    mtu: int = LARGEST_MTU,
) -> Opened:
    """Start passt, and return when it works: our end of its socket, and its messages. Raises
    PyxenError if it cannot, for instance because a port of ``forwards`` is in use."""
    program = shutil.which(PROGRAM)
    if program is None:
        raise PyxenError(
            f"net: a card in mode user needs {PROGRAM}, which is not installed (Debian: {PROGRAM})"
        )
    local_resolver = _resolver_is_local()
    border = None if host_loopback else Border(forwards, local_resolver)
    ours, theirs = socket.socketpair()
    with theirs:
        _enlarge(theirs)
        command = [program, *arguments(forwards, mtu, border), "--fd", str(theirs.fileno())]
        passt = Program(command, [theirs.fileno()])
    try:
        _wait_until_ready(ours, mac)
    except OSError:
        ours.close()
        passt.stop()
        raise PyxenError(f"net: {PROGRAM}: {_reason(passt.messages)}") from None
    facts = {_LOCAL_RESOLVER: local_resolver}
    return Opened((ours.detach(), passt.messages), passt.stop, passt.pid, facts)


def _reason(messages: int) -> str:
    """What passt said before it ended, on one line."""
    lines = last_words(messages).splitlines()
    said = [line for line in lines if line and not line.startswith(_NOISE)]
    return " ".join(said[-2:]) or "it has ended"


def _enlarge(sock: socket.socket) -> None:
    """What passt cannot send at once is lost, and it sends a whole window of TCP at once."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)


def arguments(forwards: Sequence[Forward], mtu: int, border: Border | None) -> list[str]:
    """What passt is started with, but for its end of the socket."""
    options = ["--foreground", "--quiet", "--stderr", "--mtu", str(mtu)]
    options += ["--address", GUEST, "--netmask", str(_PREFIX_LENGTH)]
    options += ["--gateway", ROUTER, "--mac-addr", _ROUTER_MAC]
    if border is not None:
        options.append("--no-map-gw" if border.shut else "--ipv4-only")
    interface = _interface()
    if interface is not None:
        options += ["--interface", interface]
    for each in forwards:
        option = "--tcp-ports" if each.protocol == "tcp" else "--udp-ports"
        options += [option, f"{each.host_address}/{each.host_port}:{each.guest_port}"]
    return options


def _interface() -> str | None:
    """The interface that passt is to look at: it finds that of the default route for IPv4 itself,
    and without one would give the guest no IPv4 at all. Without any route, guests can still be
    reached from the host."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == fields[7] == "00000000":
            return None
    ipv6 = Path("/proc/net/ipv6_route")  # not there if the kernel speaks none
    for line in ipv6.read_text().splitlines() if ipv6.exists() else ():
        fields = line.split()
        if fields[1] == "00" and set(fields[0]) == {"0"} and fields[-1] != "lo":
            return fields[-1]
    return "lo"


def _resolver_is_local() -> bool:
    """The host asks a resolver on its own loopback only, systemd's for instance."""
    local = False
    try:
        text = Path("/etc/resolv.conf").read_text(errors="replace")
    except OSError:
        return False
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ipaddress.IPv4Address(words[1])
        except ValueError:
            continue
        if not address.is_loopback:
            return False
        local = True
    return local


def _wait_until_ready(sock: socket.socket, mac: str) -> None:
    """Ask who the router is, as the guest, whose address passt learns by that. Raises OSError if
    passt does not answer."""
    sender = bytes.fromhex(mac.replace(":", ""))
    request = struct.pack(
        "!6s6sHHHBBH6s4s6s4s",
        b"\xff" * 6,
        sender,
        0x0806,  # ARP
        1,  # Ethernet
        0x0800,  # IPv4
        6,
        4,
        1,  # request
        sender,
        socket.inet_aton(GUEST),
        bytes(6),
        socket.inet_aton(ROUTER),
    )
    sock.settimeout(PATIENCE)
    sock.sendall(LENGTH.pack(len(request)) + request)
    (length,) = LENGTH.unpack(_receive(sock, LENGTH.size))
    _receive(sock, length)


def _receive(sock: socket.socket, count: int) -> bytes:
    received = b""
    while len(received) < count:
        part = sock.recv(count - len(received))
        if not part:
            raise ConnectionResetError
        received += part
    return received


class Border:
    """What of the guest's traffic may go out: all but packets to the host's loopback.

    If ``shut``, passt makes nothing of the router's address. Otherwise that is the host's loopback,
    and the guest may ask the resolver there, answer what has come from it, and no more.
    """

    _MOST_FLOWS: Final = 1024
    _ETHERNET: Final = 14
    _IPV4: Final = b"\x08\x00"
    _IPV6: Final = b"\x86\xdd"
    _ROUTER: Final = socket.inet_aton(ROUTER)
    _TCP: Final = 6
    _UDP: Final = 17
    _SYN_ACK: Final = 0x12
    _SYN: Final = 0x02
    _DHCP: Final = 67  # never leaves passt
    _DNS: Final = 53

    def __init__(self, forwards: Sequence[Forward], resolver_is_local: bool) -> None:
        self._guest_ports = {each.guest_port for each in forwards if each.protocol == "udp"}
        self._resolver_is_local = resolver_is_local
        self.shut = not self._guest_ports and not resolver_is_local
        self._flows: dict[tuple[int, int], None] = {}
        """Ports of the guest and of the host's loopback between which datagrams go, the most recent
        last."""

    def lets_out(self, data: bytes) -> bool:
        kind = data[12:14]
        if kind == self._IPV4:
            destination = data[30:34]
            if destination[:1] in (b"\x7f", b"\x00"):
                return False
            return destination != self._ROUTER or self.shut or self._may_reach_router(data)
        if kind == self._IPV6:
            # Unspecified and loopback, and addresses of IPv4 in those of IPv6.
            return data[38:48] != bytes(10)
        return True

    def _may_reach_router(self, data: bytes) -> bool:
        start = self._ports_at(data)
        if start is None:
            return False
        guest, host = struct.unpack_from("!HH", data, start)
        if data[23] == self._TCP:
            # Whoever has no connection makes one by SYN alone; passt ignores all else.
            return len(data) > start + 13 and data[start + 13] & self._SYN_ACK != self._SYN
        if data[23] == self._UDP:
            resolver = self._resolver_is_local and host == self._DNS
            return resolver or host == self._DHCP or (guest, host) in self._flows
        return False

    def note_incoming(self, data: bytes) -> None:
        """In the I/O thread: who sends datagrams to the guest may be answered."""
        if not self._guest_ports or data[12:14] != self._IPV4 or data[26:30] != self._ROUTER:
            return
        start = self._ports_at(data)
        if start is None or data[23] != self._UDP:
            return
        host, guest = struct.unpack_from("!HH", data, start)
        if guest not in self._guest_ports:
            return
        self._flows.pop((guest, host), None)
        self._flows[guest, host] = None
        if len(self._flows) > self._MOST_FLOWS:
            del self._flows[next(iter(self._flows))]

    def _ports_at(self, data: bytes) -> int | None:
        """Where the ports of a packet of IPv4 are; None for what has none, such as fragments."""
        if len(data) < self._ETHERNET + 20:
            return None
        start = self._ETHERNET + (data[self._ETHERNET] & 0xF) * 4
        fragmented = data[20] & 0x3F or data[21]
        return None if fragmented or len(data) < start + 4 else start
