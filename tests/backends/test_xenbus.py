# SPDX-License-Identifier: GPL-2.0-or-later
"""The states of a device's back end, with front ends that play by the rules and others."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from pyxen.backends.doors import Doors, StoreError
from pyxen.backends.xenbus import Backend, BackendError
from pyxen.hypervisor.events_back_end import BackEndPort
from pyxen.hypervisor.grant_access import Mapping
from pyxen.testing import FakeDoors

BACKEND = "/local/domain/0/backend/toy/1/0"
FRONTEND = "/local/domain/1/device/toy/0"
ERROR = "/local/domain/0/error/backend/toy/1/0/error"
RING_PAGE = 3


class Toy(Backend):
    """Doubles the first byte of its ring page at each event; 255 breaks it."""

    kind = "toy"

    def __init__(self, doors: Doors) -> None:
        super().__init__(doors, BACKEND, FRONTEND)
        self.ring: Mapping | None = None
        self.port: BackEndPort | None = None
        self.events = 0
        self.calls: list[str] = []

    def advertise(self) -> dict[str, str]:
        return {"feature-toy": "1"}

    def connect(self) -> None:
        self.calls.append("connect")
        self.ring = self.doors.grants.map(self.read_frontend_int("ring-ref"))
        self.port = self.bind(self.read_frontend_int("event-channel"), self.on_event)
        self.write({"size": "17"})

    def on_event(self) -> None:
        assert self.ring is not None
        assert self.port is not None
        self.events += 1
        value = self.ring.page[0]
        if value == 255:
            raise BackendError("the ring is broken")
        self.ring.page[0] = value * 2 & 0xFF
        self.port.send()

    def disconnect(self) -> None:
        self.calls.append("disconnect")
        if self.port is not None:
            self.port.close()
            self.port = None
        if self.ring is not None:
            self.doors.grants.unmap(self.ring)
            self.ring = None

    def reconfigure(self) -> None:
        self.calls.append("reconfigure")

    def close(self) -> None:
        self.calls.append("close")


class FrontEnd:
    """What the tool stack and a driver write."""

    def __init__(self, fake: FakeDoors) -> None:
        self.fake = fake
        self.toy = Toy(fake.doors)
        self.port = 0
        fake.store.write(f"{BACKEND}/state", "1")
        self.enter(1)
        self.toy.machine.attach()
        fake.run()

    def enter(self, state: object) -> None:
        self.fake.store.write(f"{FRONTEND}/state", str(state))
        self.fake.run()

    def connect(self, state: int = 4) -> None:
        self.port = self.fake.alloc_port()
        self.fake.store.write(f"{FRONTEND}/ring-ref", str(self.fake.grant(RING_PAGE)))
        self.fake.store.write(f"{FRONTEND}/event-channel", str(self.port))
        self.enter(state)

    @property
    def other_end(self) -> int:
        return int(self.fake.store.read(f"{BACKEND}/state"))


@pytest.fixture
def fake() -> Iterator[FakeDoors]:
    with FakeDoors() as fake:
        yield fake


@pytest.fixture
def front(fake: FakeDoors) -> FrontEnd:
    return FrontEnd(fake)


@pytest.mark.parametrize("ready", [3, 4])
def test_a_front_end_connects_and_is_served(fake: FakeDoors, front: FrontEnd, ready: int) -> None:
    assert front.other_end == 2
    assert fake.store.read(f"{BACKEND}/feature-toy") == b"1"
    front.connect(ready)
    assert front.other_end == 4
    assert fake.store.read(f"{BACKEND}/size") == b"17"
    fake.page(RING_PAGE)[0] = 21
    fake.notify(front.port)
    fake.run(until=lambda: fake.take_event(front.port))
    assert fake.page(RING_PAGE)[0] == 42


def test_the_first_event_comes_after_bind(fake: FakeDoors, front: FrontEnd) -> None:
    front.connect()
    assert front.toy.events == 1


def test_front_end_closes_and_comes_again(fake: FakeDoors, front: FrontEnd) -> None:
    for _ in range(3):
        front.connect()
        front.enter(5)
        assert front.other_end == 5
        assert front.toy.ring is not None  # it may still be in use
        front.enter(6)
        assert front.other_end == 6
        assert front.toy.ring is None
        fake.close_port(front.port)
        front.enter(1)
        assert front.other_end == 2
    front.toy.machine.detach()
    assert fake.leaks() == []


def test_a_front_end_that_begins_anew_without_closing(fake: FakeDoors, front: FrontEnd) -> None:
    front.connect()
    front.enter(1)
    assert front.other_end == 2
    assert front.toy.ring is None
    front.connect()
    assert front.other_end == 4


def test_the_same_state_again_changes_nothing(fake: FakeDoors, front: FrontEnd) -> None:
    front.connect(3)
    front.enter(3)
    front.enter(4)
    assert front.toy.calls == ["connect"]


def test_reconfiguration(fake: FakeDoors, front: FrontEnd) -> None:
    front.connect()
    front.enter(7)
    assert front.other_end == 8
    assert front.toy.calls[-1] == "reconfigure"
    front.enter(4)
    assert front.other_end == 4
    assert front.toy.calls.count("connect") == 1


@pytest.mark.parametrize("state", [2, 8, 9, 4711, 999999999])
def test_a_front_end_in_a_state_that_makes_no_sense(
    fake: FakeDoors, front: FrontEnd, state: int, caplog: pytest.LogCaptureFixture
) -> None:
    front.connect()
    front.enter(state)
    assert front.other_end == 5
    assert front.toy.ring is None
    assert b"the front end is in state" in fake.store.read(ERROR)
    assert len(caplog.records) == 1
    front.enter(state)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("state", ["", "abc", "-1", "1" * 50, "\xb2", " 4"])
def test_a_state_that_is_no_number_is_no_front_end(
    fake: FakeDoors, front: FrontEnd, state: str
) -> None:
    front.connect()
    front.enter(state)
    assert front.other_end == 6
    assert front.toy.ring is None


def test_a_front_end_that_vanishes(fake: FakeDoors, front: FrontEnd) -> None:
    front.connect()
    fake.store.remove(FRONTEND)
    fake.run()
    assert front.other_end == 6
    front.enter(1)
    front.connect()
    assert front.other_end == 4


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("ring-ref", None, "the front end has not written ring-ref"),
        ("ring-ref", "x", "ring-ref: a number is expected, not 'x'"),
        ("ring-ref", "\xb2\n", r"ring-ref: a number is expected, not '\xb2\n'"),
        ("ring-ref", str(1 << 32), "ring-ref: 4294967296 is not in 0 to 4294967295"),
        ("ring-ref", "77", "a grant is refused"),
        ("event-channel", "1000", "a port is refused: error 22"),
        ("event-channel", "", "event-channel: a number is expected, not ''"),
    ],
)
def test_a_front_end_that_lies(
    fake: FakeDoors, front: FrontEnd, name: str, value: str | None, message: str
) -> None:
    fake.store.write(f"{FRONTEND}/ring-ref", str(fake.grant(RING_PAGE)))
    fake.store.write(f"{FRONTEND}/event-channel", str(fake.alloc_port()))
    if value is None:
        fake.store.remove(f"{FRONTEND}/{name}")
    else:
        fake.store.write(f"{FRONTEND}/{name}", value)
    front.enter(4)
    assert front.other_end == 5
    assert fake.store.read(ERROR).decode().startswith(message)
    assert front.toy.ring is None
    assert front.toy.port is None
    front.enter(6)
    front.enter(1)
    front.connect()
    assert front.other_end == 4


def test_a_broken_ring_closes_the_device(fake: FakeDoors, front: FrontEnd) -> None:
    front.connect()
    fake.page(RING_PAGE)[0] = 255
    fake.notify(front.port)
    fake.run()
    assert front.other_end == 5
    assert fake.store.read(ERROR) == b"the ring is broken"
    assert front.toy.ring is None


def test_failures_are_told_a_few_times(
    fake: FakeDoors, front: FrontEnd, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(50):
        front.enter(1)
        front.enter(9)
    assert len(caplog.records) == 5
    assert caplog.records[-1].message.endswith("more is not told")


def test_detach_asks_and_waits(fake: FakeDoors, front: FrontEnd) -> None:
    ended: list[bool] = []
    front.toy.machine.ended.append(lambda: ended.append(True))
    front.connect()
    front.toy.machine.detach()
    assert front.other_end == 5
    assert fake.store.read(f"{BACKEND}/online") == b"0"
    front.enter(5)  # in use
    assert front.toy.ring is not None
    assert not ended
    front.enter(6)
    assert ended == [True]
    assert front.toy.calls[-2:] == ["disconnect", "close"]
    assert fake.leaks() == []


@pytest.mark.parametrize("connected", [False, True])
def test_detach_by_force_is_done_at_once(fake: FakeDoors, front: FrontEnd, connected: bool) -> None:
    if connected:
        front.connect()
    front.toy.machine.detach(force=connected)
    assert front.other_end == 6
    assert fake.leaks() == []
    front.toy.machine.detach(force=True)
    front.toy.fail("too late")
    with pytest.raises(StoreError):
        fake.store.read(ERROR)


def test_an_announcement_writes_the_state_again(fake: FakeDoors, front: FrontEnd) -> None:
    seen: list[str] = []
    fake.store.watch(f"{BACKEND}/state", seen.append)
    fake.run()
    front.toy.announce()
    fake.run()
    assert len(seen) == 1
    front.connect()
    front.toy.announce()
    fake.run()
    assert len(seen) == 3
    assert front.other_end == 4
