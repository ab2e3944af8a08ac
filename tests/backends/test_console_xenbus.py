# SPDX-License-Identifier: GPL-2.0-or-later
"""Extra consoles: the front end is played by the test, the other end is a terminal or a socket."""

from __future__ import annotations

import logging
import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyxen.backends.console.backend import ConsoleBackend
from pyxen.backends.console.outlet import Outlet, PtyOutlet, SocketOutlet, open_pty, open_socket
from pyxen.errors import PyxenError
from pyxen.testing import FakeDoors

BACKEND = "/local/domain/0/backend/console/1/1"
FRONTEND = "/local/domain/1/device/console/1"
ERROR = "/local/domain/0/error/backend/console/1/1/error"
WRAP = 1 << 32
LIMIT = 16 * 1024
PATIENCE = 20.0


class Front:
    """The guest's side of one console."""

    def __init__(self, fake: FakeDoors, number: int = 0, path: str = FRONTEND) -> None:
        self.fake = fake
        self.path = path
        self.page = fake.page(number)
        self.page[:] = bytes(4096)
        self.ref = fake.grant(number)
        self.port = fake.alloc_port()

    def connect(self) -> None:
        store = self.fake.store
        store.write(f"{self.path}/ring-ref", str(self.ref))
        store.write(f"{self.path}/port", str(self.port))
        self.enter(3)

    def enter(self, state: int) -> None:
        self.fake.store.write(f"{self.path}/state", str(state))
        self.fake.run()

    def index(self, place: int) -> int:
        value: int = struct.unpack_from("<I", self.page, place)[0]
        return value

    def set_index(self, place: int, value: int) -> None:
        struct.pack_into("<I", self.page, place, value % WRAP)

    def put(self, data: bytes) -> int:
        """Write what fits, with no event."""
        cons, prod = self.index(3080), self.index(3084)
        part = data[: 2048 - (prod - cons) % WRAP]
        for position, byte in enumerate(part, prod):
            self.page[1024 + position % 2048] = byte
        self.set_index(3084, prod + len(part))
        return len(part)

    def write(self, data: bytes) -> None:
        """Write all, as a guest does that waits for room."""
        while data:
            data = data[self.put(data) :]
            self.fake.notify(self.port)
            self.fake.run()

    def read(self, size: int) -> bytes:
        """Read so much, as it comes."""
        taken = bytearray()

        def look() -> bool:
            cons, prod = self.index(3072), self.index(3076)
            for position in range(cons, prod):
                taken.append(self.page[position % 1024])
            if prod != cons:
                self.set_index(3072, prod)
                self.fake.notify(self.port)
            return len(taken) >= size

        self.fake.run(until=look)
        return bytes(taken)


def read_fd(fd: int, size: int) -> bytes:
    data = b""
    while len(data) < size:
        ready, _, _ = select.select([fd], [], [], PATIENCE)
        assert ready, f"{len(data)} bytes of {size} came"
        more = os.read(fd, size - len(data))
        if not more:
            break
        data += more
    return data


def is_silent(fd: int, seconds: float = 0.05) -> bool:
    return not select.select([fd], [], [], seconds)[0]


@pytest.fixture
def fake() -> Iterator[FakeDoors]:
    with FakeDoors() as fake:
        yield fake


Make = Callable[..., ConsoleBackend]


@pytest.fixture
def make(fake: FakeDoors) -> Iterator[Make]:
    """Makes the back end as the tool stack does; at the end nothing is left of it."""
    made: list[ConsoleBackend] = []

    def make(outlet: Outlet, back: str = BACKEND, front: str = FRONTEND) -> ConsoleBackend:
        backend = ConsoleBackend(fake.doors, back, front, outlet)
        made.append(backend)
        fake.store.write(f"{front}/state", "1")
        backend.machine.attach()
        fake.run()
        return backend

    files = set(os.listdir("/proc/self/fd"))
    yield make
    for backend in made:
        backend.machine.detach(force=True)
    fake.run()
    assert fake.leaks() == []
    assert set(os.listdir("/proc/self/fd")) <= files


@pytest.fixture
def terminal(fake: FakeDoors, make: Make) -> Iterator[int]:
    """A back end at a terminal; this is the user's side."""
    make(PtyOutlet(fake.doors.loop, open_pty(), LIMIT))
    fd = os.open(fake.store.read(f"{FRONTEND}/tty"), os.O_RDWR | os.O_NOCTTY)
    yield fd
    os.close(fd)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "agent.sock"


@pytest.fixture
def listening(fake: FakeDoors, make: Make, path: Path) -> ConsoleBackend:
    return make(SocketOutlet(fake.doors.loop, open_socket(path), LIMIT))


class Client:
    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE)
        self.socket.connect(str(path))
        self.fd = self.socket.fileno()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exception: object) -> None:
        self.socket.close()


# States


def test_it_connects_as_linux_expects_it(fake: FakeDoors, terminal: int) -> None:
    front = Front(fake)
    assert fake.store.read(f"{BACKEND}/state") == b"2"
    front.connect()
    assert fake.store.read(f"{BACKEND}/state") == b"4"
    front.enter(4)
    front.write(b"hello\n")
    assert read_fd(terminal, 6) == b"hello\n"
    os.write(terminal, b"\x03\r\x1d")
    assert front.read(3) == b"\x03\r\x1d"


def test_it_closes_and_begins_anew(fake: FakeDoors, terminal: int) -> None:
    front = Front(fake)
    front.connect()
    front.enter(4)
    front.put(b"last words")
    front.enter(5)
    front.enter(6)
    assert fake.store.read(f"{BACKEND}/state") == b"6"
    assert read_fd(terminal, 10) == b"last words"
    fake.revoke(front.ref)
    os.write(terminal, b"early")
    front.enter(1)
    assert fake.store.read(f"{BACKEND}/state") == b"2"
    again = Front(fake, 1)
    again.connect()
    assert again.read(5) == b"early"
    again.write(b"x")
    assert read_fd(terminal, 1) == b"x"


@pytest.mark.parametrize(
    ("nodes", "message"),
    (
        ({}, "the front end has not written ring-ref"),
        ({"ring-ref": "8"}, "the front end has not written port"),
        ({"ring-ref": "x", "port": "1"}, "ring-ref: a number is expected, not 'x'"),
        ({"ring-ref": "9999", "port": "1"}, "a grant is refused"),
        ({"ring-ref": "8", "port": "77"}, "a port is refused"),
    ),
)
def test_nonsense_closes_the_device(
    fake: FakeDoors, terminal: int, nodes: dict[str, str], message: str
) -> None:
    front = Front(fake)
    assert front.ref == 8
    for name, value in nodes.items():
        fake.store.write(f"{FRONTEND}/{name}", value)
    front.enter(3)
    assert fake.store.read(f"{BACKEND}/state") == b"5"
    assert fake.store.read(ERROR).decode().startswith(message)
    fake.revoke(front.ref)


@pytest.mark.parametrize("distance", (2049, 1 << 31, WRAP - 1))
def test_an_output_ring_that_runs_away_closes_the_device(
    fake: FakeDoors, terminal: int, distance: int, caplog: pytest.LogCaptureFixture
) -> None:
    front = Front(fake)
    front.connect()
    front.write(b"before")
    front.set_index(3084, 6 + distance)
    with caplog.at_level(logging.WARNING, "pyxen"):
        fake.notify(front.port)
        fake.run()
    assert fake.store.read(f"{BACKEND}/state") == b"5"
    assert fake.store.read(ERROR).startswith(b"the guest broke its out ring (cons 0x6, prod 0x")
    assert len(caplog.records) == 1
    assert read_fd(terminal, 6) == b"before"
    assert is_silent(terminal)
    fake.revoke(front.ref)


def test_an_input_ring_that_runs_away_closes_the_device(fake: FakeDoors, terminal: int) -> None:
    front = Front(fake)
    front.connect()
    front.set_index(3072, 5)
    os.write(terminal, b"abc")
    fake.run(until=lambda: fake.store.read(f"{BACKEND}/state") == b"5")
    assert fake.store.read(ERROR).startswith(b"the guest broke its in ring")
    # And it is as good as new for a front end that begins anew.
    front.enter(1)
    again = Front(fake, 1)
    again.connect()
    os.write(terminal, b"def")
    assert again.read(3) == b"def"


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(states=st.lists(st.tuples(*[st.integers(0, WRAP - 1)] * 4), min_size=1, max_size=5))
def test_no_indexes_harm(
    fake: FakeDoors, terminal: int, states: list[tuple[int, int, int, int]]
) -> None:
    """A front end that writes any indexes, and connects again when it has been closed."""
    front = Front(fake, 2)
    front.enter(1)
    front.connect()
    for state in states:
        front.page[1024:3072] = bytes(2048)
        struct.pack_into("<4I", front.page, 3072, *state)
        os.write(terminal, b"input")
        fake.notify(front.port)
        fake.run()
        while not is_silent(terminal, 0.001):
            assert not any(os.read(terminal, 4096))
    assert not any(front.page[3088:])
    front.enter(6)


# Output that nobody takes


def test_what_nobody_reads_is_kept_up_to_the_limit(
    fake: FakeDoors, listening: ConsoleBackend, path: Path
) -> None:
    front = Front(fake)
    front.connect()
    data = random.Random(1).randbytes(10 * LIMIT)
    front.write(data)
    discarded = listening.statistics()["bytes_discarded"]
    assert 9 * LIMIT * 7 // 8 <= discarded <= 9 * LIMIT
    with Client(path) as client:
        kept = read_fd(client.fd, len(data) - discarded)
        assert is_silent(client.fd)
    assert kept[: LIMIT // 2] == data[: LIMIT // 2]
    assert kept[LIMIT // 2 :] == data[len(data) - len(kept) + LIMIT // 2 :]


def test_a_guest_can_be_kept_waiting_instead(fake: FakeDoors, make: Make, path: Path) -> None:
    backend = make(SocketOutlet(fake.doors.loop, open_socket(path), 4096, keep=True))
    front = Front(fake)
    front.connect()
    data = random.Random(1).randbytes(50_000)
    sent = 0
    while taken := front.put(data[sent:]):
        sent += taken
        fake.notify(front.port)
        fake.run()
    assert 4096 + 2048 <= sent <= 4096 + 2 * 2048
    with Client(path) as client:
        received = bytearray()

        def more() -> bool:
            nonlocal sent
            if taken := front.put(data[sent:]):
                sent += taken
                fake.notify(front.port)
            if not is_silent(client.fd, 0):
                received.extend(os.read(client.fd, 65536))
            return len(received) == len(data)

        fake.run(until=more)
    assert received == data
    assert backend.statistics()["bytes_discarded"] == 0


def test_a_guest_that_waits_loses_nothing_at_its_end(
    fake: FakeDoors, make: Make, path: Path
) -> None:
    backend = make(SocketOutlet(fake.doors.loop, open_socket(path), 1, keep=True))
    front = Front(fake)
    front.connect()
    for letter in (b"a", b"b"):
        front.put(letter * 2048)
        fake.notify(front.port)
    assert front.put(b"c") == 0
    with Client(path) as client:
        client.socket.sendall(b"x")
        assert front.read(1) == b"x"  # now it is connected
        assert read_fd(client.fd, 4096) == b"a" * 2048 + b"b" * 2048
        front.put(b"c" * 2048)
        backend.machine.detach(force=True)
        assert read_fd(client.fd, 2049) == b"c" * 2048
    assert backend.statistics()["bytes_discarded"] == 0


def test_a_flood_costs_no_memory_and_hinders_no_other(
    fake: FakeDoors, terminal: int, make: Make, path: Path
) -> None:
    quiet = Front(fake)
    quiet.connect()
    outlet = SocketOutlet(fake.doors.loop, open_socket(path), LIMIT)
    second = FRONTEND.replace("console/1", "console/2")
    flooded = make(outlet, BACKEND.replace("console/1/1", "console/1/2"), second)
    front = Front(fake, 1, second)
    front.connect()
    data = random.Random(1).randbytes(2048)
    for number in range(1000):
        front.write(data)
        if number % 100 == 0:
            quiet.write(b"still here\n")
            assert read_fd(terminal, 11) == b"still here\n"
            os.write(terminal, b"ls\n")
            assert quiet.read(3) == b"ls\n"
    assert flooded.statistics()["bytes_out"] == 1000 * 2048
    assert len(outlet._buffer) <= LIMIT * 5 // 4
    with Client(path) as client:
        assert read_fd(client.fd, 2048) == data


# Both ways


@pytest.mark.parametrize("seed", (1, 2))
def test_much_passes_a_socket_unharmed(
    fake: FakeDoors, listening: ConsoleBackend, path: Path, seed: int
) -> None:
    front = Front(fake)
    front.connect()
    data = random.Random(seed).randbytes(100_000)
    with Client(path) as client:
        client.socket.setblocking(False)
        sent = 0
        seen = bytearray()
        deadline = time.monotonic() + PATIENCE
        while len(seen) < len(data):
            assert time.monotonic() < deadline
            if select.select([], [client.fd], [], 0)[1]:
                sent += client.socket.send(data[sent : sent + 5000])
            cons, prod = front.index(3072), front.index(3076)
            seen += front.read(1) if cons != prod else b""
            fake.run()
        assert bytes(seen) == data
        back = bytearray()
        rest = data
        while len(back) < len(data):
            rest = rest[front.put(rest) :]
            fake.notify(front.port)
            fake.run()
            while not select.select([client.fd], [], [], 0)[0] and not rest:
                assert time.monotonic() < deadline + PATIENCE
            if select.select([client.fd], [], [], 0.001)[0]:
                back += client.socket.recv(65536)
        assert bytes(back) == data
    counters = listening.statistics()
    assert (counters["bytes_in"], counters["bytes_out"]) == (len(data), len(data))
    assert counters["bytes_discarded"] == 0


def test_input_waits_for_a_guest_that_takes_none(
    fake: FakeDoors, listening: ConsoleBackend, path: Path
) -> None:
    front = Front(fake)
    front.connect()
    with Client(path) as client:
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.socket.sendall(bytes(8 << 20))
        fake.run()
        assert listening._ring is not None
        assert listening._ring.pending_input() <= 16 * 1024
        assert len(front.read(1)) == 1024


def test_clients_come_one_after_the_other(
    fake: FakeDoors, listening: ConsoleBackend, path: Path
) -> None:
    front = Front(fake)
    front.connect()
    with Client(path) as first, Client(path) as second:
        first.socket.sendall(b"one")
        assert front.read(3) == b"one"
        front.write(b"1")
        assert read_fd(first.fd, 1) == b"1"
        second.socket.sendall(b"two")
        assert is_silent(second.fd)
        first.socket.close()
        assert front.read(3) == b"two"
        front.write(b"2")
        assert read_fd(second.fd, 1) == b"2"


def test_a_terminal_stays_when_its_users_go(fake: FakeDoors, terminal: int) -> None:
    front = Front(fake)
    front.connect()
    path = os.ttyname(terminal)
    for number in range(3):
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY)
        os.write(fd, b"%d" % number)
        assert front.read(1) == b"%d" % number
        front.write(b"ab")
        assert read_fd(fd, 2) == b"ab"
        os.close(fd)


def test_the_last_output_arrives(fake: FakeDoors, listening: ConsoleBackend, path: Path) -> None:
    front = Front(fake)
    front.connect()
    with Client(path) as client:
        client.socket.sendall(b"x")
        assert front.read(1) == b"x"
        front.put(b"goodbye")
        listening.machine.detach(force=True)
        assert read_fd(client.fd, 8) == b"goodbye"
    assert not path.exists()


def test_a_socket_in_use_is_refused(fake: FakeDoors, listening: ConsoleBackend, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(PyxenError, match="Address already in use"):
        open_socket(path)
