# SPDX-License-Identifier: GPL-2.0-or-later
"""Front ends that write anything at any time, and a tool stack that detaches in between."""

from __future__ import annotations

import logging

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from test_xenbus import BACKEND, FRONTEND, RING_PAGE, Toy

from pyxen.testing import FakeDoors

CONNECTED = 4
STATES = st.sampled_from([str(state) for state in range(10)] + ["", "x", "-4", "4 ", "99999999999"])
VALUES = st.sampled_from(["", "0", "1", "9", "77", "1023", "4294967295", "4294967296", "x"])


class FrontEnds(RuleBasedStateMachine):
    """Whatever happens: the back end holds a ring only while it is connected or closing, and is as
    ready as ever for a front end that begins anew."""

    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("pyxen").setLevel(logging.CRITICAL)
        self.fake = FakeDoors(pages=64)
        self.fake.__enter__()
        self.ports: list[int] = []
        self.attach()

    def attach(self) -> None:
        self.fake.store.write(f"{FRONTEND}/state", "1")
        self.toy = toy = Toy(self.fake.doors)
        fail = toy.machine.fail

        def fail_and_look(message: str) -> None:
            fail(message)
            assert toy.ring is None
            assert toy.port is None

        toy.machine.fail = fail_and_look  # type: ignore[method-assign]
        toy.machine.attach()

    def teardown(self) -> None:
        try:
            self.toy.machine.detach(force=True)
            self.fake.run()
            assert self.fake.leaks() == []
        finally:
            self.fake.__exit__()
            logging.getLogger("pyxen").setLevel(logging.NOTSET)

    @rule(state=STATES)
    def enter(self, state: str) -> None:
        self.fake.store.write(f"{FRONTEND}/state", state)

    @rule(name=st.sampled_from(["ring-ref", "event-channel"]), value=VALUES)
    def lie(self, name: str, value: str) -> None:
        self.fake.store.write(f"{FRONTEND}/{name}", value)

    @precondition(lambda self: len(self.ports) < 50)
    @rule()
    def tell_the_truth(self) -> None:
        self.write_the_truth()

    def write_the_truth(self) -> None:
        self.ports.append(self.fake.alloc_port())
        self.fake.store.write(f"{FRONTEND}/ring-ref", str(self.fake.grant(RING_PAGE)))
        self.fake.store.write(f"{FRONTEND}/event-channel", str(self.ports[-1]))

    @rule(name=st.sampled_from(["", "/state", "/ring-ref"]))
    def vanish(self, name: str) -> None:
        self.fake.store.remove(FRONTEND + name)

    @precondition(lambda self: self.ports)
    @rule(data=st.data(), value=st.sampled_from([0, 1, 255]))
    def notify(self, data: st.DataObject, value: int) -> None:
        self.fake.page(RING_PAGE)[0] = value
        self.fake.notify(data.draw(st.sampled_from(self.ports)))

    @precondition(lambda self: self.ports)
    @rule(data=st.data())
    def close_port(self, data: st.DataObject) -> None:
        port = data.draw(st.sampled_from(self.ports))
        self.ports.remove(port)
        self.fake.close_port(port)

    @rule()
    def attend(self) -> None:
        self.fake.run()

    @rule()
    def announce(self) -> None:
        self.toy.announce()

    @rule(how=st.sampled_from(["not", "not", "not", "asking", "force"]))
    def detach(self, how: str) -> None:
        if how != "not":
            self.toy.machine.detach(how == "force")

    @precondition(lambda self: not self.toy.machine.live)
    @rule()
    def attach_again(self) -> None:
        self.fake.run()
        assert self.fake.leaks() == []
        self.attach()

    @rule(then=st.none() | STATES)
    def a_good_front_end_comes(self, then: str | None) -> None:
        """It finds a device that works, unless the tool stack wants it gone. What it does then may
        be wrong."""
        self.fake.store.write(f"{FRONTEND}/state", "1")
        self.fake.run()
        if self.toy.machine.live:
            assert self.other_end == 2
            self.write_the_truth()
            self.fake.store.write(f"{FRONTEND}/state", "4")
            self.fake.page(RING_PAGE)[0] = 3
            self.fake.run()
            assert self.other_end == CONNECTED
            assert self.fake.page(RING_PAGE)[0] == 6
            if then is not None:
                self.enter(then)
                self.fake.run()

    @property
    def other_end(self) -> int:
        return int(self.fake.store.read(f"{BACKEND}/state"))

    @invariant()
    def it_holds_no_more_than_it_may(self) -> None:
        machine = self.toy.machine
        assert machine.state == self.other_end
        if self.toy.ring is not None:
            assert machine.live
            assert machine.state in (4, 5, 8)
        else:
            assert not any(self.fake.domain.grants.pins)
        if machine.state in (1, 2, 6):
            assert self.toy.ring is None
            assert self.toy.port is None


TestFrontEnds = FrontEnds.TestCase
TestFrontEnds.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
