# SPDX-License-Identifier: GPL-2.0-or-later
"""The guest on the host's network through passt: tests that speak as the guest does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from station import TCP, Connection, Station

from pyxen.backends.net.link import Frame
from pyxen.backends.net.links import user
from pyxen.backends.net.links.user import GUEST, ROUTER, Border, UserLink, start_passt
from pyxen.errors import PyxenError
from pyxen.testing.fake_doors import FakeDoors
from pyxen.toolstack.devices.nic import Forward

MAC = "00:16:3e:0a:0b:0c"
needs_passt = pytest.mark.usefixtures("passt")

MakeStation = Callable[..., Station]


@pytest.fixture
def fake() -> Iterator[FakeDoors]:
    with FakeDoors(pages=64) as fake:
        yield fake


@pytest.fixture
def make(fake: FakeDoors) -> Iterator[MakeStation]:
    """Makes a station on a link of its own, with the address that passt gives to the guest."""
    links: list[UserLink] = []

    def make(*forwards: Forward, host_loopback: bool = False, mtu: int = 65520) -> Station:
        opened = start_passt(MAC, forwards=forwards, host_loopback=host_loopback, mtu=mtu)
        link = UserLink(fake.doors, opened, forwards=forwards, host_loopback=host_loopback)
        links.append(link)
        station = Station(fake, link, MAC, GUEST)
        station.router_mac = station.resolve(ROUTER)
        return station

    yield make
    for link in links:
        link.release()


@contextmanager
def echo_server(family: int = socket.AF_INET, address: str = "127.0.0.1") -> Iterator[int]:
    """A server on the host that sends back what it gets, as long as there is something. The port
    on which it listens."""
    clients: list[socket.socket] = []
    with socket.socket(family) as listener:
        listener.bind((address, 0))
        listener.listen()

        def serve() -> None:
            with suppress(OSError):  # shut down
                while True:
                    client, _ = listener.accept()
                    clients.append(client)
                    while data := client.recv(65536):
                        client.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            for client in clients:
                with client, suppress(OSError):
                    client.shutdown(socket.SHUT_RDWR)
            thread.join()


def in_namespaces(program: str, before: str = "true") -> str:
    """What a program prints in network and mount namespaces of its own, after a shell command."""
    prefix = ["unshare", "--map-root-user", "--net", "--mount", "sh", "-ec"]
    tried = subprocess.run([*prefix, "ip link set lo up"], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip("there are no user namespaces, or no ip")
    prelude = (
        "import socket\n"
        "from station import Connection, Station\n"
        "from pyxen.backends.net.links.user import GUEST, ROUTER, UserLink, start_passt\n"
        "from pyxen.testing.fake_doors import FakeDoors\n"
        "from pyxen.toolstack.devices.nic import Forward\n"
        f"MAC = {MAC!r}\n"
        "def make(*forwards, host_loopback=False):\n"
        "    options = {'forwards': forwards, 'host_loopback': host_loopback}\n"
        "    link = UserLink(fake.doors, start_passt(MAC, **options), **options)\n"
        "    station = Station(fake, link, MAC, GUEST)\n"
        "    station.router_mac = station.resolve(ROUTER)\n"
        "    return station\n"
        "with FakeDoors(pages=64) as fake:\n"
    )
    script = prelude + textwrap.indent(textwrap.dedent(program), "    ")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [*prefix, f'ip link set lo up; {before}; exec "$0" "$@"', sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def outer_address() -> str:
    """An address of the host that is not of its loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.99", 9))
        except OSError:
            pytest.skip("the host has no network")
        return str(sock.getsockname()[0])


@needs_passt
class TestConfiguration:
    def test_dhcp_gives_an_address(self, make: MakeStation) -> None:
        station = make(mtu=1400)
        station.address = "0.0.0.0"
        options = station.dhcp()
        assert station.address == GUEST
        assert socket.inet_ntoa(options[1]) == "255.255.255.0"
        assert socket.inet_ntoa(options[3]) == ROUTER
        assert int.from_bytes(options[26], "big") == 1400

    def test_dhcp_names_the_hosts_resolver(
        self, make: MakeStation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        nameservers = [
            line.split()[1]
            for line in Path("/etc/resolv.conf").read_text().splitlines()
            if line.startswith("nameserver ")
        ]
        if not nameservers or ":" in nameservers[0]:
            pytest.skip("the host has no resolver with an IPv4 address")
        station = make()
        resolver = socket.inet_ntoa(station.dhcp()[6][:4])
        local = nameservers[0].startswith("127.")
        assert resolver == (ROUTER if local else nameservers[0])


@needs_passt
class TestOutgoing:
    def test_tcp(self, make: MakeStation) -> None:
        address = outer_address()
        with echo_server(address="0.0.0.0") as port:
            connection = Connection(make(), address, (40000, port))
            assert connection.connect()
            connection.send(b"hello")
            assert connection.receive(5) == b"hello"

    def test_large_segments_and_missing_checksums(self, make: MakeStation) -> None:
        """As guests send them to a card that helps: passt does not mind."""
        address = outer_address()
        data = os.urandom(30000)
        with echo_server(address="0.0.0.0") as port:
            station = make()
            connection = Connection(station, address, (40000, port))
            assert connection.connect()
            connection.send(data[:1000], unfinished=1460)
            assert connection.receive(1000) == data[:1000]
            connection.send(data, unfinished=1460)
            assert connection.receive(len(data)) == data
            assert station.link.takes_unfinished

    def test_udp(self, make: MakeStation) -> None:
        address = outer_address()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("0.0.0.0", 0))
            server.settimeout(20)
            station = make()
            station.send_udp(address, 5000, server.getsockname()[1], b"question")
            data, client = server.recvfrom(100)
            assert data == b"question"
            server.sendto(b"answer", client)
            assert station.take_udp(5000)[2] == b"answer"


@needs_passt
class TestForward:
    def test_tcp(self, make: MakeStation) -> None:
        port = free_port()
        station = make(Forward("tcp", port, 22))
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            connection = Connection(station, "", (22, 0))
            connection.accept()
            client.sendall(b"to the guest")
            assert connection.receive(12) == b"to the guest"
            connection.send(b"from the guest")
            assert client.recv(100) == b"from the guest"

    def test_udp(self, make: MakeStation) -> None:
        port = free_port(socket.SOCK_DGRAM)
        station = make(Forward("udp", port, 53))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(20)
            client.connect(("127.0.0.1", port))
            client.send(b"question")
            address, source, data = station.take_udp(53)
            assert data == b"question"
            station.send_udp(address, 53, source, b"answer")
            assert client.recv(100) == b"answer"

    def test_only_the_address_that_was_given_is_bound(self, make: MakeStation) -> None:
        port = free_port()
        make(Forward("tcp", port, 22, "127.0.0.3"))
        with socket.socket() as client:
            client.connect(("127.0.0.3", port))
        with socket.socket() as client, pytest.raises(ConnectionRefusedError):
            client.connect(("127.0.0.1", port))

    def test_several(self, make: MakeStation) -> None:
        ports = free_port(), free_port()
        make(*(Forward("tcp", port, 80 + port % 7) for port in ports))
        for port in ports:
            socket.create_connection(("127.0.0.1", port), timeout=20).close()

    def test_a_port_that_is_in_use_is_refused(self) -> None:
        with echo_server() as port, pytest.raises(PyxenError, match=f"passt: .*{port}"):
            start_passt(MAC, forwards=[Forward("tcp", port, 22)])


@needs_passt
class TestLoopback:
    """The guest reaches 127.0.0.1 of the host if it was asked for, and else by no name."""

    LOOPBACK = (ROUTER, "127.0.0.1", "127.9.9.9", "0.0.0.0")

    def test_tcp_if_asked(self, make: MakeStation) -> None:
        with echo_server() as port:
            connection = Connection(make(host_loopback=True), ROUTER, (40000, port))
            assert connection.connect()
            connection.send(b"hello")
            assert connection.receive(5) == b"hello"

    def test_udp_if_asked(self, make: MakeStation) -> None:
        station = make(host_loopback=True)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            server.settimeout(20)
            station.send_udp(ROUTER, 5000, server.getsockname()[1], b"question")
            data, client = server.recvfrom(100)
            server.sendto(b"answer to " + data, client)
            assert station.take_udp(5000)[2] == b"answer to question"

    @pytest.mark.parametrize("forwarding", [False, True])
    def test_tcp_is_refused(self, make: MakeStation, forwarding: bool) -> None:
        forwards = [Forward("udp", free_port(socket.SOCK_DGRAM), 5000)] if forwarding else []
        station = make(*forwards)
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
            for number, address in enumerate(self.LOOPBACK):
                station.send_tcp(address, (40000 + number, port), (1000, 0), 2)
            self._settle(station)
            listener.settimeout(0.2)
            with pytest.raises(TimeoutError):
                listener.accept()

    @pytest.mark.parametrize("address", ["::1", "::", "::ffff:127.0.0.1"])
    def test_tcp_is_refused_over_ipv6(self, make: MakeStation, address: str) -> None:
        station = make()
        with socket.socket(socket.AF_INET6) as listener:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind(("::", 0))
            listener.listen()
            station.send_tcp(address, (40000, listener.getsockname()[1]), (1000, 0), 2)
            self._settle(station)
            listener.settimeout(0.2)
            with pytest.raises(TimeoutError):
                listener.accept()

    @pytest.mark.parametrize("forwarding", [False, True])
    def test_udp_is_refused(self, make: MakeStation, forwarding: bool) -> None:
        forwards = [Forward("udp", free_port(socket.SOCK_DGRAM), 5000)] if forwarding else []
        station = make(*forwards)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.1", 0))
            for address in self.LOOPBACK:
                station.send_udp(address, 5000, server.getsockname()[1], b"?")
            self._settle(station)
            server.settimeout(0.2)
            with pytest.raises(TimeoutError):
                server.recv(10)

    def test_without_the_border_passt_would_connect(
        self, make: MakeStation, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the tests above rely on: that these packets would arrive, or be none of passt's."""
        monkeypatch.setattr(Border, "lets_out", lambda border, data: True)
        station = make(Forward("udp", free_port(socket.SOCK_DGRAM), 5000))
        with echo_server() as port:
            assert Connection(station, ROUTER, (40000, port)).connect()

    def _settle(self, station: Station) -> None:
        """passt has seen all that was sent before."""
        station.resolve(ROUTER)


def packet(destination: str, protocol: int = TCP, payload: bytes = bytes(20)) -> bytes:
    station = Station.__new__(Station)
    station.address = GUEST
    kind = b"\x86\xdd" if ":" in destination else b"\x08\x00"
    return bytes(12) + kind + station.packet(destination, protocol, payload)


class TestBorder:
    FORWARDS = (Forward("udp", 5353, 53),)
    SYN = bytes(13) + b"\x02" + bytes(6)
    ACKNOWLEDGEMENT = bytes(13) + b"\x10" + bytes(6)

    @pytest.mark.parametrize("forwards", [(), FORWARDS])
    @pytest.mark.parametrize(
        "address", ["127.0.0.1", "127.255.255.255", "0.0.0.0", "::1", "::", "::ffff:1.2.3.4"]
    )
    def test_never(self, address: str, forwards: tuple[Forward, ...]) -> None:
        assert not Border(forwards, False).lets_out(packet(address))

    @pytest.mark.parametrize("address", ["192.0.2.1", "10.0.2.3", "128.0.0.1", "fd00::1", "2001::"])
    def test_always(self, address: str) -> None:
        assert Border(self.FORWARDS, True).lets_out(packet(address))

    def test_the_router_if_passt_makes_nothing_of_it(self) -> None:
        assert Border((Forward("tcp", 1, 2),), False).lets_out(packet(ROUTER))

    def test_no_new_connection_to_the_loopback(self) -> None:
        border = Border(self.FORWARDS, False)
        assert not border.lets_out(packet(ROUTER, payload=self.SYN))
        assert border.lets_out(packet(ROUTER, payload=self.ACKNOWLEDGEMENT))
        assert not border.lets_out(packet(ROUTER, payload=self.SYN[:13]))

    def test_fragments_have_no_ports(self) -> None:
        border = Border(self.FORWARDS, True)
        whole = packet(ROUTER, payload=self.ACKNOWLEDGEMENT)
        assert border.lets_out(whole)
        for place, value in ((20, 0x20), (20, 0x01), (21, 0x01)):
            fragment = bytearray(whole)
            fragment[place] |= value
            assert not border.lets_out(bytes(fragment))

    def test_the_resolver(self) -> None:
        question = b"\x30\x39\x00\x35" + bytes(8)
        assert Border((), True).lets_out(packet(ROUTER, 17, question))
        assert not Border(self.FORWARDS, False).lets_out(packet(ROUTER, 17, question))

    def test_answers(self) -> None:
        border = Border(self.FORWARDS, False)
        arrived = bytearray(packet(GUEST, 17, b"\x30\x39\x00\x35" + bytes(4)))
        arrived[26:30] = socket.inet_aton(ROUTER)
        answer = packet(ROUTER, 17, b"\x00\x35\x30\x39" + bytes(4))
        assert not border.lets_out(answer)
        border.note_incoming(bytes(arrived))
        assert border.lets_out(answer)
        assert not border.lets_out(packet(ROUTER, 17, b"\x00\x35\x30\x3a" + bytes(4)))
        assert not border.lets_out(packet(ROUTER, 17, b"\x00\x36\x30\x39" + bytes(4)))

    def test_what_it_remembers_is_bounded(self) -> None:
        border = Border(self.FORWARDS, False)
        for port in range(5000):
            arrived = bytearray(packet(GUEST, 17, port.to_bytes(2, "big") + b"\x00\x35" + bytes(4)))
            arrived[26:30] = socket.inet_aton(ROUTER)
            border.note_incoming(bytes(arrived))
        newest = packet(ROUTER, 17, b"\x00\x35" + (4999).to_bytes(2, "big") + bytes(4))
        oldest = packet(ROUTER, 17, b"\x00\x35\x00\x00" + bytes(4))
        assert border.lets_out(newest)
        assert not border.lets_out(oldest)

    @pytest.mark.parametrize("forwards", [(), FORWARDS])
    def test_any_bytes_are_judged(self, forwards: tuple[Forward, ...]) -> None:
        border = Border(forwards, True)
        for address in ("127.0.0.1", ROUTER, "::1"):
            whole = packet(address)
            for length in range(len(whole)):
                border.lets_out(whole[:length])
                border.note_incoming(whole[:length])


@needs_passt
class TestOddHosts:
    def test_a_resolver_on_the_loopback_can_be_asked(self, tmp_path: Path) -> None:
        """As systemd's; but nobody else there."""
        resolv = tmp_path / "resolv.conf"
        resolv.write_text("nameserver 127.0.0.53\n")
        answer = in_namespaces(
            """
            server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            server.bind(("127.0.0.53", 53))
            other = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            other.bind(("127.0.0.1", 54))
            other.setblocking(False)
            listener = socket.create_server(("127.0.0.1", 80))
            listener.setblocking(False)
            station = make()
            station.address = "0.0.0.0"
            resolver = socket.inet_ntoa(station.dhcp()[6][:4])
            station.send_udp(resolver, 5000, 54, b"not you")
            station.send_tcp(resolver, (5000, 80), (1000, 0), 2)
            station.send_udp(resolver, 5000, 53, b"question")
            question, client = server.recvfrom(100)
            server.sendto(b"answer", client)
            print(question, station.take_udp(5000))
            for silent in (lambda: other.recv(10), listener.accept):
                try:
                    print(silent())
                except BlockingIOError:
                    pass
            station.link.release()
            """,
            f"mount --bind {resolv} /etc/resolv.conf",
        )
        assert answer == f"b'question' ('{ROUTER}', 53, b'answer')\n"

    def test_ping(self) -> None:
        """Where the host lets programs ping."""
        answer = in_namespaces(
            """
            station = make(host_loopback=True)
            request = b"\\x08\\x00\\xf7\\xfd\\x00\\x01\\x00\\x01"
            station.send(0x0800, station.packet("127.0.0.1", 1, request))
            reply = station.take(lambda frame: frame.data[23] == 1)
            print(reply.data[34:36], reply.data[38:42])
            station.link.release()
            """,
            "echo 0 0 >/proc/sys/net/ipv4/ping_group_range",
        )
        assert answer == repr(bytes(2)) + " " + repr(b"\0\1\0\1") + "\n"

    def test_a_host_without_a_network(self) -> None:
        """The guest can be reached all the same, and reach the host if it may."""
        answer = in_namespaces(
            """
            station = make(Forward("tcp", 2222, 22), host_loopback=True)
            client = socket.create_connection(("127.0.0.1", 2222), timeout=20)
            inside = Connection(station, "", (22, 0))
            inside.accept()
            client.sendall(b"in")
            print(inside.receive(2))
            listener = socket.create_server(("127.0.0.1", 80))
            print(Connection(station, ROUTER, (5000, 80)).connect())
            station.link.release()
            """
        )
        assert answer == "b'in'\nTrue\n"


class TestProcess:
    def test_without_passt(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(user, "PROGRAM", "no-such-passt")
        with pytest.raises(PyxenError, match=r"needs no-such-passt, which is not installed"):
            start_passt(MAC)

    def test_what_it_says_is_in_the_log(
        self,
        fake: FakeDoors,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """Of a program that only answers the first question."""
        program = tmp_path / "passt"
        program.write_text(
            f"#!{sys.executable}\n"
            "import socket, sys\n"
            "sock = socket.socket(fileno=int(sys.argv[-1]))\n"
            "print('Template interface: eth0', file=sys.stderr, flush=True)\n"
            "sock.sendall(sock.recv(46))\n"
            "sock.recv(1)\n"
            "print('Failed to send 47 bytes to syslog\\nit hurts', file=sys.stderr, flush=True)\n"
            "sock.recv(1)\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))
        with caplog.at_level("INFO"):
            link = UserLink(fake.doors, start_passt(MAC))
            link.send([Frame(packet("192.0.2.1"))])
            fake.run(until=lambda: "it hurts" in caplog.text)
        link.release()
        told = [
            (r.levelname, r.message) for r in caplog.records if r.message.startswith("net: passt: ")
        ]
        assert told == [
            ("INFO", "net: passt: Template interface: eth0"),
            ("WARNING", "net: passt: it hurts"),
        ]

    @needs_passt
    def test_it_ends_with_the_link(self, make: MakeStation) -> None:
        link = make().link
        assert isinstance(link, UserLink)
        place = Path(f"/proc/{link._opened.pid}")
        assert place.exists()
        link.release()
        assert not place.exists()
        link.release()

    @needs_passt
    def test_it_ends_when_we_are_killed(self, tmp_path: Path) -> None:
        program = (
            "import sys, time\n"
            "from pyxen.backends.net.links.user import start_passt\n"
            f"print(start_passt({MAC!r}).pid, flush=True)\n"
            "time.sleep(60)\n"
        )
        child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
        assert child.stdout is not None
        with child:
            passt = int(child.stdout.readline())
            os.kill(passt, 0)
            child.kill()
        deadline = time.monotonic() + 20
        while Path(f"/proc/{passt}/comm").exists() and _state(passt) != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @needs_passt
    def test_its_end_is_told(
        self, make: MakeStation, fake: FakeDoors, caplog: pytest.LogCaptureFixture
    ) -> None:
        station = make()
        assert isinstance(station.link, UserLink)
        os.kill(station.link._opened.pid, signal.SIGKILL)
        fake.run(until=lambda: "passt has ended" in caplog.text)
        station.link.send([Frame(bytes(60))])
        assert station.link.statistics()["link_tx_dropped"] == 1

    @needs_passt
    def test_closed_and_opened_again(self, make: MakeStation) -> None:
        station = make()
        station.link.close()
        station.link.send([])
        again = Station(station.fake, station.link, MAC, GUEST)
        assert again.resolve(ROUTER) == station.router_mac
        assert station.frames == []


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
