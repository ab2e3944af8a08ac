# SPDX-License-Identifier: GPL-2.0-or-later
"""One virtual CPU of the emulator.

The guest kernel runs at privilege level 1 and its user programs at 3, while both see selectors
with RPL 3, as under 64-bit Xen. QEMU keeps separate sets of translations for user and
supervisor, so a change of mode needs no flush, the user bit of a page-table entry protects
the kernel, and every privileged instruction of the kernel faults.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from pyxen.engine.cpu import Cpu
from pyxen.engine.emulator.state import (
    CPUID_FAULTS,
    CS_BASE,
    CS_FLAGS,
    GDT_BASE,
    GDT_LIMIT,
    HFLAGS,
    LDT_BASE,
    LDT_LIMIT,
    NR_SEGMENTS,
    OLD_EXCEPTION,
    SAVED,
    SEGMENT_BASE,
    SEGMENT_FLAGS,
    SEGMENT_LIMIT,
    SEGMENT_SIZE,
    SEGMENTS,
    SS_BASE,
    SS_FLAGS,
    TRAP_FLAGS,
    TSC_AUX,
    EmulatedRegisters,
)
from pyxen.engine.registers import CR3, CS, SS

if TYPE_CHECKING:
    from pyxen.engine.emulator.engine import EmulatorEngine

# hflags: see HF_*_SHIFT of QEMU's target/i386/cpu.h.
_PE, _MP, _LMA, _OSFXSR = 1 << 7, 1 << 9, 1 << 14, 1 << 22
_CS64, _CS32, _SS32, _ADDSEG = 1 << 15, 1 << 4, 1 << 5, 1 << 6
_TS: Final = 1 << 11
_COMMON: Final = _PE | _MP | _LMA | _OSFXSR | _CS32 | _SS32
_KERNEL: Final = _COMMON | _CS64 | 1
_USER64: Final = _COMMON | _CS64 | 3
_USER32: Final = _COMMON | _ADDSEG | 3
_PRIVILEGE: Final = 3

# Descriptor attributes as the CPU caches them: present, DPL 3, accessed.
_CODE64: Final = 0x00A0FB00
_CODE32: Final = 0x00C0FB00
_DATA: Final = 0x00C0F300

_DESCRIPTOR_FLAGS: Final = 0x00F0FF00
_GRANULARITY: Final = 1 << 55
_LONG: Final = 1 << 53
_BIG: Final = 1 << 54

CR0: Final = 0x80050033  # PG AM WP NE ET MP PE
CR4: Final = 0x6B0  # PSE PAE PGE OSFXSR OSXMMEXCPT
_CR0_TS: Final = 8
_DR7_ENABLED: Final = 0xFF

# The sets of translations ("MMU indexes"): user is bit 1, kernel without and with SMAP 2 and 0.
USER_TLB: Final = 2
KERNEL_TLB: Final = 5

_EXTRA: Final = struct.Struct("<4sQQQI?3x")
_MAGIC: Final = b"ucS1"


class EmulatedCpu(Cpu):
    """See ``Cpu``. While it is the current one, ``registers`` is unicorn's own state."""

    def __init__(self, engine: EmulatorEngine, index: int) -> None:
        self.storage = EmulatedRegisters()
        Cpu.__init__(self, index, self.storage)
        self.state = self.storage
        self._task_switched = 0
        self._engine = engine
        self.breakpoints: tuple[tuple[int, ...], int] | None = None
        self.debug_status = 0

    def reset(self, template: EmulatedRegisters) -> None:
        """Take the state of a CPU that was just made, in 64-bit kernel mode."""
        self.storage.copy_from(template)
        for number in range(NR_SEGMENTS):
            offset = SEGMENTS + number * SEGMENT_SIZE + SEGMENT_LIMIT
            self.storage.halves[offset // 4] = 0xFFFFFFFF
        self.storage.halves[TRAP_FLAGS] = 0
        self.storage.halves[OLD_EXCEPTION] = 0xFFFFFFFF
        self.storage.cr0 = CR0
        self.storage.cr4 = CR4
        self.storage.write_flags(0x202)
        self.enter_kernel(0, 0)

    def adopt(self, registers: EmulatedRegisters) -> None:
        """Let ``registers`` be this CPU's; their content is the caller's business."""
        self.registers = registers
        self.state = registers

    def enter_kernel(self, cs: int, ss: int) -> None:
        self.switch_mode(False)
        state = self.state
        state.words[CS] = cs
        state.words[SS] = ss
        state.words[CS_BASE] = 0
        state.halves[CS_FLAGS] = _CODE64
        state.halves[SS_FLAGS] = _DATA
        state.halves[HFLAGS] = _KERNEL | self._task_switched

    def enter_user(self, cs: int, ss: int, long_mode: bool) -> None:
        self.switch_mode(True)
        state = self.state
        state.words[CS] = cs
        state.words[SS] = ss
        state.words[CS_BASE] = 0
        state.words[SS_BASE] = 0
        state.halves[CS_FLAGS] = _CODE64 if long_mode else _CODE32
        state.halves[SS_FLAGS] = _DATA
        state.halves[HFLAGS] = (_USER64 if long_mode else _USER32) | self._task_switched

    def load_kernel_page_table(self, address: int) -> None:
        self.kernel_page_table = address
        if not self.user_mode:
            self.state.words[CR3] = address
        self._engine.flush_set(self.index, KERNEL_TLB)

    def load_user_page_table(self, address: int) -> None:
        if address == self.user_page_table:
            return
        self.user_page_table = address
        if self.user_mode:
            self.state.words[CR3] = address
        self._engine.flush_set(self.index, USER_TLB)

    def set_descriptor_table(self, base: int, limit: int) -> None:
        self.state.words[GDT_BASE] = base
        self.state.halves[GDT_LIMIT] = limit

    def set_local_descriptor_table(self, base: int, limit: int) -> None:
        self.state.words[LDT_BASE] = base
        self.state.halves[LDT_LIMIT] = limit

    def load_segment(self, position: int, selector: int, descriptor: int) -> None:
        state = self.state
        state.words[position] = selector
        start = position * 8
        limit = descriptor & 0xFFFF | descriptor >> 32 & 0xF0000
        if descriptor & _GRANULARITY:
            limit = limit << 12 | 0xFFF
        state.halves[(start + SEGMENT_LIMIT) // 4] = limit
        state.halves[(start + SEGMENT_FLAGS) // 4] = descriptor >> 32 & _DESCRIPTOR_FLAGS
        state.words[(start + SEGMENT_BASE) // 8] = (
            descriptor >> 16 & 0xFFFFFF | (descriptor >> 56) << 24
        )
        if position == CS:
            bits = _CS64 | _CS32 if descriptor & _LONG else _CS32 if descriptor & _BIG else 0
            self._set_hflags(_CS64 | _CS32, bits)
        elif position == SS:
            self._set_hflags(_SS32, _SS32 if descriptor & _BIG else 0)
        if self.in_long_mode():
            self._set_hflags(_SS32 | _ADDSEG, _SS32)
        else:
            self._set_hflags(_ADDSEG, _ADDSEG)

    def _set_hflags(self, mask: int, bits: int) -> None:
        self.state.halves[HFLAGS] = self.state.halves[HFLAGS] & ~mask | bits

    def load_fpu(self, image: bytes) -> None:
        self._engine.load_fpu(self.state, image)

    def save_fpu(self) -> bytes:
        return self._engine.save_fpu(self.state)

    def in_long_mode(self) -> bool:
        return self.state.halves[HFLAGS] & _CS64 != 0

    def set_task_switched(self, value: bool) -> None:
        self._task_switched = _TS if value else 0
        state = self.state
        state.halves[HFLAGS] = state.halves[HFLAGS] & ~_TS | self._task_switched
        state.cr0 = state.cr0 & ~_CR0_TS | (_CR0_TS if value else 0)

    def set_empty_ports(self, kernel: bool, user: bool) -> None:
        flags = self.state.halves[TRAP_FLAGS] & CPUID_FAULTS
        self.state.halves[TRAP_FLAGS] = flags | kernel << 1 | user << 3

    def set_tsc_aux(self, value: int) -> None:
        self.state.words[TSC_AUX] = value

    def set_cpuid_faulting(self, enabled: bool) -> None:
        flags = self.state.halves[TRAP_FLAGS] & ~CPUID_FAULTS
        self.state.halves[TRAP_FLAGS] = flags | (CPUID_FAULTS if enabled else 0)

    def set_breakpoints(self, addresses: tuple[int, ...], control: int) -> None:
        breakpoints = (addresses, control) if control & _DR7_ENABLED else None
        if breakpoints != self.breakpoints:
            self.breakpoints = breakpoints
            self._engine.stop()  # they are loaded at the next start

    def take_debug_status(self) -> int:
        status = self.debug_status
        self.debug_status = 0
        return status

    def restore_privilege(self) -> bool:
        """Undo what a native ``iretq`` of the guest kernel does: it leaves for level 3.

        Returns whether that had happened. The user translations may then hold the kernel's.
        """
        if self.user_mode or self.state.halves[HFLAGS] & _PRIVILEGE != _PRIVILEGE:
            return False
        self.state.halves[HFLAGS] = _KERNEL | self._task_switched
        self._engine.flush_set(self.index, USER_TLB)
        return True

    def save(self) -> bytes:
        self.state.settle_flags()
        extra = _EXTRA.pack(
            _MAGIC,
            self.inactive_gs_base,
            self.kernel_page_table,
            self.user_page_table,
            self._task_switched,
            self.user_mode,
        )
        return extra + bytes(memoryview(self.state.words).cast("B")[:SAVED])

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
        memoryview(self.state.words).cast("B")[:SAVED] = state[_EXTRA.size :]
        self._engine.flush_set(self.index, USER_TLB | KERNEL_TLB)
