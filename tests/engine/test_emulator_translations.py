# SPDX-License-Identifier: GPL-2.0-or-later
"""What is kept of an engine outside of it goes with it: the next one may lie at its address.

That stores by any mapping of a frame give up translated code is shown by the scenario
``code_page_replaced`` in guests/scenarios.
"""

from __future__ import annotations

import ctypes
import gc

from bare_machine import make_machine

from pyxen import engine as engines
from pyxen.engine.emulator import machine_code

WRITE_OF_8_BYTES = 0x400 | 1 | 1 << 16 | 2 << 18


def known_instances() -> list[int]:
    gc.collect()  # engines of other tests, which were not closed
    return [entry[0] for entry in machine_code._instances() if entry[0] > machine_code.FREED]


def known_watches() -> list[int]:
    gc.collect()
    table = (ctypes.c_uint64 * 128).from_address(machine_code.base() + machine_code._WATCHES)
    return [cpu for cpu in table[::4] if cpu > machine_code.FREED]


def test_a_closed_engine_is_forgotten_while_its_memory_is_held() -> None:
    before = known_instances()
    engine = engines.create("emulator", 16, 1)
    memory = engine.memory
    assert len(known_instances()) == len(before) + 1
    engine.close()
    assert known_instances() == before
    assert memory.frames


def test_memory_that_goes_later_takes_nothing_from_the_next_engine() -> None:
    held = []
    before = known_instances()
    for _ in range(5):
        engine = engines.create("emulator", 16, 1)
        held.append(engine.memory)
        engine.close()
    last = engines.create("emulator", 16, 1)
    held.clear()
    assert len(known_instances()) == len(before) + 1
    last.close()


def test_data_breakpoints_go_with_their_engine() -> None:
    before = known_watches()
    engine, _ = make_machine()
    engine.cpus[0].set_breakpoints((0x1000, 0, 0, 0), WRITE_OF_8_BYTES)
    engine.run(engine.cpus[0])
    assert len(known_watches()) == len(before) + 1
    engine.close()
    assert known_watches() == before
