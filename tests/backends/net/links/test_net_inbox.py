# SPDX-License-Identifier: GPL-2.0-or-later
"""Frames on their way into the thread of the vCPUs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from pyxen.backends.net.link import Frame
from pyxen.backends.net.links.inbox import Inbox
from pyxen.testing.fake_doors import FakeDoors


@pytest.fixture
def fake() -> Iterator[FakeDoors]:
    with FakeDoors(pages=64) as fake:
        yield fake


def frames(count: int) -> list[Frame]:
    return [Frame(number.to_bytes(4, "big") + bytes(59_996)) for number in range(count)]


def test_the_back_end_gets_no_more_at_once_than_it_can_hold(fake: FakeDoors) -> None:
    room: list[bool] = []
    inbox = Inbox(fake.doors, lambda: room.append(True))
    calls: list[Sequence[Frame]] = []
    takes = [False]

    def receive(some: Sequence[Frame]) -> bool:
        calls.append(some)
        return takes[0]

    inbox.open(receive)
    sent = frames(30)
    assert inbox.put(sent[:15])
    assert not inbox.put(sent[15:])
    fake.run()
    assert len(calls) == 1
    assert sum(len(frame.data) for frame in calls[0]) < 400_000
    inbox.resume()
    assert len(calls) == 2
    takes[0] = True
    inbox.resume()
    assert [frame for some in calls for frame in some] == sent
    fake.run(until=lambda: room == [True])
    assert inbox.put(sent[:1])
    fake.run(until=lambda: len(calls[-1]) == 1)


def test_closed(fake: FakeDoors) -> None:
    inbox = Inbox(fake.doors, lambda: None)
    got: list[Frame] = []
    inbox.open(lambda some: bool(got.extend(some)))
    inbox.put(frames(10))
    inbox.close()
    inbox.put(frames(2))
    fake.run()
    assert got == []
    assert inbox.dropped == 12
