# SPDX-License-Identifier: GPL-2.0-or-later
"""The primary console, found by the nodes that the tool stack writes."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyxen.abi.grant_table import GNTTAB_RESERVED_CONSOLE
from pyxen.backends.console.primary import PrimaryConsole
from pyxen.testing import FakeDoors

PATH = "/local/domain/1/console"
PAGE = 3
WRAP = 1 << 32


class Rig:
    """A domain as the builder leaves it, and its console's back end."""

    def __init__(self) -> None:
        self.fake = FakeDoors()
        self.fake.__enter__()
        domain = self.fake.domain
        domain.grants.seed(GNTTAB_RESERVED_CONSOLE, domain.memory.p2m[PAGE])
        self.page = self.fake.page(PAGE)
        self.page[:] = bytes(4096)
        self.port = self.fake.alloc_port()
        self.printed = bytearray()
        self.console = PrimaryConsole(self.fake.doors, PATH, self.printed.extend)

    def write_nodes(self, **nodes: object) -> None:
        for name, value in nodes.items():
            self.fake.store.write(f"{PATH}/{name.replace('_', '-')}", str(value))
        self.fake.run()

    def attach(self) -> None:
        self.write_nodes(type="xenconsoled", ring_ref=77, port=self.port, limit=1048576, tty="")
        self.console.attach()
        self.fake.run()

    def print(self, data: bytes) -> None:
        (prod,) = struct.unpack_from("<I", self.page, 3084)
        for position, byte in enumerate(data, prod):
            self.page[1024 + position % 2048] = byte
        struct.pack_into("<I", self.page, 3084, prod + len(data))

    def typed(self) -> bytes:
        cons, prod = struct.unpack_from("<2I", self.page, 3072)
        struct.pack_into("<I", self.page, 3072, prod)
        return bytes(self.page[position % 1024] for position in range(cons, prod))


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.console.detach()
    assert rig.fake.leaks() == []
    rig.fake.__exit__()


def test_both_ways(rig: Rig) -> None:
    rig.attach()
    rig.print(b"Linux version")
    rig.fake.notify(rig.port)
    assert rig.printed == b"Linux version"
    assert rig.fake.take_event(rig.port)
    rig.console.write_input(b"ls\n")
    assert rig.fake.take_event(rig.port)
    assert rig.typed() == b"ls\n"
    assert rig.console.statistics() == {"bytes_out": 13, "bytes_in": 3, "events": 2, "overruns": 0}


def test_what_was_printed_before_and_at_the_end(rig: Rig) -> None:
    rig.print(b"early ")
    rig.attach()
    assert rig.printed == b"early "
    rig.print(b"last")
    rig.console.drain()
    assert rig.printed == b"early last"


def test_it_waits_for_its_nodes(rig: Rig) -> None:
    rig.console.attach()
    rig.console.write_input(b"early")
    assert rig.console.pending_input() == 5
    for nodes in ({"ring_ref": 77}, {"port": "x"}, {"type": "ioemu"}, {"port": rig.port}):
        rig.write_nodes(**nodes)
        assert rig.console.pending_input() == 5
    rig.write_nodes(type="xenconsoled")
    assert rig.console.pending_input() == 0
    assert rig.typed() == b"early"


def test_it_follows_another_port(rig: Rig) -> None:
    rig.attach()
    other = rig.fake.alloc_port()
    rig.write_nodes(port=other)
    rig.print(b"x")
    rig.fake.notify(other)
    assert rig.printed == b"x"
    rig.console.write_input(b"y")
    assert rig.fake.take_event(other)
    assert not rig.fake.take_event(rig.port)


def test_nodes_that_are_written_again_change_nothing(rig: Rig) -> None:
    rig.attach()
    (port,) = rig.fake.domain.events.back_end_ports
    rig.write_nodes(tty="/dev/pts/1", port=rig.port)
    assert list(rig.fake.domain.events.back_end_ports) == [port]


def test_a_port_that_does_not_wait_is_told(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    rig.attach()
    with caplog.at_level(logging.WARNING, "pyxen"):
        rig.write_nodes(port=99)
    assert caplog.messages == ["console: port 99 is refused: error 22"]
    rig.write_nodes(port=rig.port)
    rig.print(b"x")
    rig.fake.notify(rig.port)
    assert rig.printed == b"x"


@given(st.lists(st.tuples(*[st.integers(0, WRAP - 1)] * 4), min_size=1, max_size=10))
def test_indexes_that_run_away_are_left_alone(states: list[tuple[int, int, int, int]]) -> None:
    """As xenconsoled does; a guest that mends its ring is served again."""
    rig = Rig()
    rig.attach()
    for in_cons, in_prod, out_cons, out_prod in states:
        struct.pack_into("<4I", rig.page, 3072, in_cons, in_prod, out_cons, out_prod)
        before = len(rig.printed)
        rig.fake.notify(rig.port)
        distance = (out_prod - out_cons) % WRAP
        assert len(rig.printed) - before == (distance if distance <= 2048 else 0)
        consumed = struct.unpack_from("<I", rig.page, 3080)[0]
        assert consumed == (out_prod if distance <= 2048 else out_cons)
    rig.page[:] = bytes(4096)
    rig.printed.clear()
    rig.print(b"again")
    rig.fake.notify(rig.port)
    assert rig.printed == b"again"
    rig.console.detach()
    rig.fake.__exit__()
