# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypercall page: 4096 bytes of code that Xen puts into a guest.

A guest calls hypercall N at offset 32 * N, with up to five arguments in rdi, rsi, rdx, r10, r8 and
the result in rax. The stub puts N into eax and executes ``syscall``, which clobbers rcx and r11,
so they are saved around it. ``iret`` never returns: its stub pushes what the hypercall expects on
the stack, rcx, r11 and rax, and traps.

Newer kernels have no such page and execute ``syscall`` themselves.
"""

from __future__ import annotations

import struct
from typing import Final

from pyxen.abi.xen import HYPERVISOR_iret

_STUB_SIZE: Final = 32
_STUBS: Final = 128
_INT3: Final = b"\xcc"

_SAVE: Final = b"\x51\x41\x53"  # push rcx; push r11
_RESTORE: Final = b"\x41\x5b\x59\xc3"  # pop r11; pop rcx; ret
_PUSH_RAX: Final = b"\x50"
_MOV_EAX: Final = b"\xb8"
_SYSCALL: Final = b"\x0f\x05"


def _stub(number: int) -> bytes:
    load = _MOV_EAX + struct.pack("<I", number)
    if number == HYPERVISOR_iret:
        code = _SAVE + _PUSH_RAX + load + _SYSCALL
    else:
        code = _SAVE + load + _SYSCALL + _RESTORE
    return code.ljust(_STUB_SIZE, _INT3)


HYPERCALL_PAGE: Final = b"".join(_stub(number) for number in range(_STUBS))
