# SPDX-License-Identifier: GPL-2.0-or-later
"""Hardware breakpoints of the emulated CPU, as DR0 to DR3 and DR7 describe them.

Execution breakpoints are QEMU's own: code with one is translated anew with a trap in it, so that a
change costs all translations. unicorn has removed QEMU's data breakpoints but for the questions
that the load and store paths ask, "is anything watched in this page" and "does this access hit";
``machine_code`` answers them. A hit stops the instruction *before* its access, while a debug trap
is due behind it. Therefore the engine executes the instruction once more, with the watch off and
the trap flag on (*stepping*), and delivers what comes of it.

At most one vCPU's breakpoints are loaded: those of the one that runs.
"""

from __future__ import annotations

import ctypes
import weakref
from typing import TYPE_CHECKING, Final

from pyxen.engine.emulator import machine_code
from pyxen.engine.emulator.state import DR0, DR6

if TYPE_CHECKING:
    from pyxen.engine.emulator.state import EmulatedRegisters

STATUS: Final = 0x400F
"""The bits of DR6 that a trap sets: single step, and the four breakpoints."""
SINGLE_STEP: Final = 0x4000

_DR7: Final = DR0 + 7
_DR6_CLEAR: Final = 0xFFFF0FF0
_DR7_CLEAR: Final = 0x400
_NOWHERE: Final = 1 << 63  # not canonical: RIP never gets there
_EXECUTE, _WRITE, _ACCESS = 0, 1, 3
_LENGTHS: Final = (1, 2, 8, 4)
_BP_CPU: Final = 0x20


class Breakpoints:
    """``definition`` is what is loaded: the four addresses and DR7, or None."""

    def __init__(self, library: ctypes.CDLL, cpu_object: int, state: EmulatedRegisters) -> None:
        self._library = library
        self._cpu_object = cpu_object
        self._state = state
        self._watches: dict[int, machine_code.Watch] = {}
        self.definition: tuple[tuple[int, ...], int] | None = None
        state.words[DR6] = _DR6_CLEAR
        weakref.finalize(self, _free, self._watches)

    def load(self, definition: tuple[tuple[int, ...], int] | None) -> None:
        """Between two runs: what was loaded before is gone."""
        words = self._state.words
        self._library.cpu_breakpoint_remove_all_x86_64(self._cpu_object, _BP_CPU)
        _free(self._watches)
        addresses, control = definition or ((0,) * 4, 0)
        words[DR6] = _DR6_CLEAR
        words[_DR7] = _DR7_CLEAR
        for number, address in enumerate(addresses):
            words[DR0 + number] = _NOWHERE
            kind = control >> 16 + 4 * number & 3
            if not control >> 2 * number & 3:
                continue
            if kind == _EXECUTE:
                words[DR0 + number] = address
                words[_DR7] = words[_DR7] | control & 3 << 2 * number
                self._library.cpu_breakpoint_insert_x86_64(self._cpu_object, address, _BP_CPU, None)
            elif kind in (_WRITE, _ACCESS):
                length = _LENGTHS[control >> 18 + 4 * number & 3]
                first = address & -length
                flags = machine_code.WATCH_WRITES if kind == _WRITE else machine_code.WATCH_ALL
                self._watches[number] = machine_code.Watch(
                    self._cpu_object, first, first + length - 1, flags
                )
        # Breakpoints are in the translated code, watched pages in the translations.
        self._library.tb_flush_x86_64(self._cpu_object)
        self._library.tlb_flush_x86_64(self._cpu_object)
        self.definition = definition

    def close(self) -> None:
        """The CPU object is about to go, and another may come to lie at its address."""
        _free(self._watches)

    def take_hits(self) -> int:
        """A bit for each data breakpoint that has been hit since the last call."""
        hits = 0
        for number, watch in self._watches.items():
            if watch.take_hit():
                hits |= 1 << number
        return hits

    def take_status(self) -> int:
        """What QEMU has noted in DR6."""
        words = self._state.words
        status = words[DR6] & STATUS
        words[DR6] = _DR6_CLEAR
        return status

    def enable_watches(self, value: bool) -> None:
        for watch in self._watches.values():
            watch.enable(value)


def _free(watches: dict[int, machine_code.Watch]) -> None:
    for watch in watches.values():
        watch.free()
    watches.clear()
