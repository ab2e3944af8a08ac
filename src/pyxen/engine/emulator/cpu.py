# SPDX-License-Identifier: GPL-2.0-or-later
"""One virtual CPU of the emulator.

The guest kernel runs at privilege level 1 and its user programs at 3, while both see selectors
with RPL 3, as under 64-bit Xen. QEMU keeps separate sets of translations for user and
supervisor, so a change of mode needs no flush, the user bit of a page-table entry protects
the kernel, and every privileged instruction of the kernel faults.
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING, Final

from pyxen.engine.emulator.state import SAVED, SIZE, CpuState

if TYPE_CHECKING:
    from pyxen.engine.emulator.engine import EmulatorEngine

# hflags: see HF_*_SHIFT of QEMU's target/i386/cpu.h.
_PE, _MP, _LMA, _OSFXSR = 1 << 7, 1 << 9, 1 << 14, 1 << 22
_CS64, _CS32, _SS32, _ADDSEG = 1 << 15, 1 << 4, 1 << 5, 1 << 6
_TS: Final = 1 << 11
_COMMON: Final = _PE | _MP | _LMA | _OSFXSR | _CS32 | _SS32
KERNEL: Final = _COMMON | _CS64 | 1
_USER64: Final = _COMMON | _CS64 | 3
_USER32: Final = _COMMON | _ADDSEG | 3

# Descriptor attributes as the CPU caches them: present, DPL 3, accessed.
_CODE64: Final = 0x00A0FB00
_CODE32: Final = 0x00C0FB00
_DATA: Final = 0x00C0F300

_CR0: Final = 0x80050033  # PG AM WP NE ET MP PE
_CR0_TS: Final = 8
_CR4: Final = 0x6B0  # PSE PAE PGE OSFXSR OSXMMEXCPT

# The sets of translations ("MMU indexes"): user is bit 1, kernel without and with SMAP 2 and 0.
USER_TLB: Final = 2
KERNEL_TLB: Final = 5

_EXTRA: Final = struct.Struct("<4sQQQQ?7x")
_MAGIC: Final = b"ucS1"


class EmulatedCpu:
    """See ``protocol.Cpu``. While it is the current one, ``registers`` is unicorn's own state."""

    def __init__(self, engine: EmulatorEngine, index: int) -> None:
        self.index = index
        self.storage = CpuState()
        self.registers = self.storage
        self.user_mode = False
        self.inactive_gs_base = 0
        self.kernel_page_table = 0
        self.user_page_table = 0
        self._task_switched = 0
        self._engine = engine

    def reset(self, template: bytes) -> None:
        """Take the state of a CPU that was just made, in 64-bit kernel mode."""
        ctypes.memmove(ctypes.addressof(self.storage), template, SIZE)
        registers = self.storage
        for name in ("es", "cs", "ss", "ds", "fs", "gs"):
            setattr(registers, f"{name}_limit", 0xFFFFFFFF)
        registers.cr0 = _CR0
        registers.cr4 = _CR4
        registers.old_exception = 0xFFFFFFFF
        registers.rflags = 0x202
        self.enter_kernel(0, 0)

    def enter_kernel(self, cs: int, ss: int) -> None:
        registers = self.registers
        if self.user_mode:
            self.user_mode = False
            gs_base = registers.gs_base
            registers.gs_base = self.inactive_gs_base
            self.inactive_gs_base = gs_base
            registers.cr3 = self.kernel_page_table
        registers.cs = cs
        registers.ss = ss
        registers.cs_flags = _CODE64
        registers.ss_flags = _DATA
        registers.hflags = KERNEL | self._task_switched

    def enter_user(self, cs: int, ss: int, *, long_mode: bool) -> None:
        registers = self.registers
        if not self.user_mode:
            self.user_mode = True
            gs_base = registers.gs_base
            registers.gs_base = self.inactive_gs_base
            self.inactive_gs_base = gs_base
            registers.cr3 = self.user_page_table
        registers.cs = cs
        registers.ss = ss
        registers.cs_flags = _CODE64 if long_mode else _CODE32
        registers.ss_flags = _DATA
        registers.hflags = (_USER64 if long_mode else _USER32) | self._task_switched

    def stay_in_kernel(self, cs: int, ss: int) -> None:
        self.registers.cs = cs
        self.registers.ss = ss

    def load_kernel_page_table(self, address: int) -> None:
        self.kernel_page_table = address
        if not self.user_mode:
            self.registers.cr3 = address
        self._engine.flush_set(self, KERNEL_TLB)

    def load_user_page_table(self, address: int) -> None:
        if address == self.user_page_table:
            return
        self.user_page_table = address
        if self.user_mode:
            self.registers.cr3 = address
        self._engine.flush_set(self, USER_TLB)

    def set_descriptor_table(self, base: int, limit: int) -> None:
        self.registers.gdt_base = base
        self.registers.gdt_limit = limit

    def set_task_switched(self, value: bool) -> None:
        self._task_switched = _TS if value else 0
        registers = self.registers
        registers.hflags = registers.hflags & ~_TS | self._task_switched
        registers.cr0 = registers.cr0 & ~_CR0_TS | (_CR0_TS if value else 0)

    def restore_privilege(self) -> bool:
        """Undo what a native ``iretq`` of the guest kernel does: it leaves for level 3.

        Returns whether that had happened. The user translations may then hold the kernel's.
        """
        if self.user_mode or self.registers.hflags & 3 != 3:
            return False
        self.registers.hflags = KERNEL | self._task_switched
        self._engine.flush_set(self, USER_TLB)
        return True

    def save(self) -> bytes:
        self.registers.rflags = self.registers.rflags  # computed, so that no lazy state is left
        extra = _EXTRA.pack(
            _MAGIC,
            self.inactive_gs_base,
            self.kernel_page_table,
            self.user_page_table,
            self._task_switched,
            self.user_mode,
        )
        return extra + ctypes.string_at(ctypes.addressof(self.registers), SAVED)

    def load(self, state: bytes) -> None:
        if len(state) != _EXTRA.size + SAVED or state[:4] != _MAGIC:
            raise ValueError("not a state of this engine's CPU")
        (
            _,
            self.inactive_gs_base,
            self.kernel_page_table,
            self.user_page_table,
            self._task_switched,
            self.user_mode,
        ) = _EXTRA.unpack_from(state)
        ctypes.memmove(ctypes.addressof(self.registers), state[_EXTRA.size :], SAVED)
        self._engine.flush_set(self, USER_TLB | KERNEL_TLB)
