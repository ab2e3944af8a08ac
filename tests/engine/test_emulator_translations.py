# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of an engine outside of it goes with it.

That stores by any mapping of a frame give up translated code is shown by the scenario
``code_page_replaced`` in guests/scenarios.
"""

from __future__ import annotations

from pyxen import engine as engines
from pyxen.engine.emulator import machine_code


def _known() -> set[int]:
    return {word for entry in machine_code._instances() for word in entry[:2]}


def test_a_closed_engine_is_forgotten_while_its_memory_is_held() -> None:
    engine = engines.create("emulator", 16, 1)
    names = {engine._handle, engine._cpu_object}  # type: ignore[attr-defined]
    memory = engine.memory
    assert names <= _known()
    engine.close()
    assert not names & _known()
    assert memory.frames


def test_memory_that_goes_later_takes_nothing_from_the_next_engine() -> None:
    held = []
    for _ in range(5):
        engine = engines.create("emulator", 16, 1)
        held.append(engine.memory)
        engine.close()
    last = engines.create("emulator", 16, 1)
    held.clear()
    assert last._handle in _known()  # type: ignore[attr-defined]
    last.close()
