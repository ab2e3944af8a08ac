# SPDX-License-Identifier: GPL-2.0-or-later
"""The registers of a CPU: an array of 64-bit words, the same for every engine.

Code that is executed at every trap uses ``words`` and the positions below; all other code uses the
registers' names (``registers.rip``). Selectors take a word each, too.
"""

from __future__ import annotations

from typing import Any, Final

# The general registers have their numbers in x86 instructions.
RAX: Final = 0
RCX: Final = 1
RDX: Final = 2
RBX: Final = 3
RSP: Final = 4
RBP: Final = 5
RSI: Final = 6
RDI: Final = 7
R8: Final = 8
R9: Final = 9
R10: Final = 10
R11: Final = 11
RIP: Final = 16
RFLAGS: Final = 17
ES: Final = 23
CS: Final = 26
SS: Final = 29
DS: Final = 32
FS: Final = 35
FS_BASE: Final = 36
GS: Final = 38
GS_BASE: Final = 39
CR0: Final = 53
CR2: Final = 55
CR3: Final = 56

_GENERAL: Final = (
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip

POSITIONS: Final = {
    **{name: number for number, name in enumerate(_GENERAL)},
    "rip": RIP,
    "es": ES,
    "cs": CS,
    "ss": SS,
    "ds": DS,
    "fs": FS,
    "fs_base": FS_BASE,
    "gs": GS,
    "gs_base": GS_BASE,
    "cr0": CR0,
    "cr2": CR2,
    "cr3": CR3,
    "cr4": 57,
}
WORDS: Final = 58
"""An array of this length holds them all; what is between them is the engine's."""

_MASK: Final = 0xFFFFFFFFFFFFFFFF


class Registers:
    """Readable and writable by name; a value is taken modulo 2^64."""

    def __init__(self, words: memoryview) -> None:
        self.words = words

    def __getattr__(self, name: str) -> int:
        if name == "rflags":
            return self.read_flags()
        try:
            return self.words[POSITIONS[name]]
        except KeyError:
            raise AttributeError(f"there is no register {name}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        position = POSITIONS.get(name)
        if position is not None:
            self.words[position] = value & _MASK
        elif name == "rflags":
            self.write_flags(value)
        else:
            object.__setattr__(self, name, value)

    def read_flags(self) -> int:
        """RFLAGS. An engine may keep it in another form."""
        return self.words[RFLAGS]

    def write_flags(self, value: int) -> None:
        """Set RFLAGS."""
        self.words[RFLAGS] = value
