# SPDX-License-Identifier: GPL-2.0-or-later
"""The emulator engine: runs the CPUs of a domain on one unicorn instance, one at a time.

``lock`` operations are not atomic between two instances, so the CPUs share one; its register
state is exchanged when another CPU is to run. Traps are served inside unicorn's callbacks; leaving
and re-entering it would cost more than most traps.
"""

from __future__ import annotations

import ctypes
import importlib
import struct
import time
from array import array
from typing import TYPE_CHECKING, Any, Final

from pyxen.engine.emulator import library, machine_code
from pyxen.engine.emulator.alarm import Alarm
from pyxen.engine.emulator.breakpoints import SINGLE_STEP, Breakpoints
from pyxen.engine.emulator.cpu import CR0, CR4, KERNEL_TLB, USER_TLB, EmulatedCpu
from pyxen.engine.emulator.state import (
    ERROR_CODE,
    EXCEPTION_IS_INT,
    INSTRUCTION_LENGTH,
    OLD_EXCEPTION,
    EmulatedRegisters,
)
from pyxen.engine.memory import MachineMemory
from pyxen.engine.protocol import NEVER, EngineError
from pyxen.engine.registers import RFLAGS, RIP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyxen.engine.protocol import Cpu, TrapHandler

_NO_EXCEPTION: Final = 0xFFFFFFFF
_DEBUG: Final = 1
_TRAP_FLAG: Final = 0x100
_RESUME_FLAG: Final = 0x10000
_INVALID_OPCODE: Final = 6
_PAGE_FAULT: Final = 14
_MXCSR: Final = 0xFFFF
_EMPTY: Final = 3
_FXSAVE_SIZE: Final = 512
_MASK: Final = 0xFFFFFFFFFFFFFFFF

_EFER_MSR: Final = 0xC0000080
_EFER: Final = 0xD01  # SCE LME LMA NXE

_interrupt_callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_void_p)
_syscall_callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
_invalid_callback = ctypes.CFUNCTYPE(ctypes.c_bool, ctypes.c_void_p, ctypes.c_void_p)
_cpuid_callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


def fpu_registers(image: bytes) -> Iterator[tuple[int, Any]]:
    """(unicorn's number, value) of the registers in an FXSAVE image."""
    from unicorn import x86_const

    control, status, valid, mxcsr = struct.unpack_from("<HHBx18xI", image)
    tags = sum(3 << 2 * number for number in range(8) if not valid >> number & 1)
    yield x86_const.UC_X86_REG_FPCW, control
    yield x86_const.UC_X86_REG_FPSW, status
    yield x86_const.UC_X86_REG_FPTAG, tags
    yield x86_const.UC_X86_REG_MXCSR, mxcsr & _MXCSR
    top = status >> 11 & 7
    for number in range(8):
        mantissa, exponent = struct.unpack_from("<QH", image, 32 + 16 * number)
        yield x86_const.UC_X86_REG_FP0 + (top + number & 7), (mantissa, exponent)
    for number in range(16):
        start = 160 + 16 * number
        value = int.from_bytes(image[start : start + 16], "little")
        yield x86_const.UC_X86_REG_XMM0 + number, value


def fxsave_image(read: Callable[[int], Any]) -> bytes:
    """The other way round: ``read`` tells the value of a register by unicorn's number."""
    from unicorn import x86_const

    image = bytearray(_FXSAVE_SIZE)
    status = read(x86_const.UC_X86_REG_FPSW)
    tags = read(x86_const.UC_X86_REG_FPTAG)
    valid = sum(1 << number for number in range(8) if tags >> 2 * number & 3 != _EMPTY)
    control, mxcsr = read(x86_const.UC_X86_REG_FPCW), read(x86_const.UC_X86_REG_MXCSR)
    struct.pack_into("<HHBx18xII", image, 0, control, status, valid, mxcsr, _MXCSR)
    top = status >> 11 & 7
    for number in range(8):
        register = read(x86_const.UC_X86_REG_FP0 + (top + number & 7))
        struct.pack_into("<QH", image, 32 + 16 * number, *register)
    for number in range(16):
        start = 160 + 16 * number
        value: int = read(x86_const.UC_X86_REG_XMM0 + number)
        image[start : start + 16] = value.to_bytes(16, "little")
    return bytes(image)


def compiled_callbacks() -> dict[str, int] | None:
    """The callbacks of ``callbacks.pyx``, which are quicker than those that ctypes makes."""
    try:
        module = importlib.import_module("pyxen.engine.emulator.callbacks")
    except ModuleNotFoundError:
        return None
    addresses: dict[str, int] = module.addresses()
    return addresses


class EmulatorEngine:
    """See ``protocol.Engine``. The ``on_…`` methods are what unicorn calls."""

    name = "emulator"

    def __init__(self, ram_pages: int, vcpus: int) -> None:
        import unicorn
        from unicorn import x86_const

        self._library = library.load()
        self._start = self._library.uc_emu_start
        self._stop = self._library.uc_emu_stop
        self._tlb_flush = self._library.tlb_flush_x86_64
        self._tlb_flush_set = self._library.tlb_flush_by_mmuidx_x86_64
        self._tlb_flush_page = self._library.tlb_flush_page_x86_64
        self.read_tsc: Callable[[], int] = library.tsc_reader()
        self.memory = MachineMemory(ram_pages)
        self.flush_clock = memoryview(array("Q", (1, 1, 1)))
        uc: Any = unicorn.Uc(unicorn.UC_ARCH_X86, unicorn.UC_MODE_64)
        # Without it a jump to the "until" address ends the run silently.
        uc.ctl_exits_enabled(True)
        uc.mem_map_ptr(0, self.memory.size, unicorn.UC_PROT_ALL, self.memory.address)
        uc.msr_write(_EFER_MSR, _EFER)
        uc.reg_write(x86_const.UC_X86_REG_CR4, CR4)
        uc.reg_write(x86_const.UC_X86_REG_CR0, CR0)
        uc.reg_write(x86_const.UC_X86_REG_MXCSR, 0x1F80)
        uc.reg_write(x86_const.UC_X86_REG_FPCW, 0x37F)
        self._uc = uc
        self._handle: int = uc._uch.value or 0
        self._cpu_object, address = library.state_address(self._handle)
        machine_code.watch_code(self._handle, self._cpu_object, self.memory)
        self._state_address = address
        self._state = EmulatedRegisters(address)
        self._breakpoints = Breakpoints(self._library, self._cpu_object, self._state)
        self._stepping = False
        self._trap_flag = 0
        self._hits = 0
        self._install_hooks(unicorn, x86_const)
        self._failure: BaseException | None = None
        self._kick = library.kick_byte()
        self._alarm = Alarm(self.read_tsc)
        self._deadline = NEVER
        self._running = False

        self.cpus = [EmulatedCpu(self, index) for index in range(vcpus)]
        for cpu in self.cpus:
            cpu.reset(self._state)
        self._current = self.cpus[0]
        self._adopt(self._current)

    def set_handler(self, handler: TrapHandler) -> None:
        self._handler: TrapHandler = handler

    # Running

    def run(self, cpu: Cpu) -> None:
        if cpu.index != self._current.index:
            self._switch(self.cpus[cpu.index])
        if self._current.breakpoints is not self._breakpoints.definition:
            self._breakpoints.load(self._current.breakpoints)
        state = self._state
        state.pack_flags()
        self._running = True
        self._set_alarm()
        error = self._start(self._handle, state.words[RIP], 0, 0, 0)
        self._running = False
        self._alarm.clear()  # or it would end the next run, maybe that of another engine
        self._kick[0] = 0
        state.unpack_flags()
        if self._stepping:
            self._end_step()
        if self._failure is not None:
            failure = self._failure
            self._failure = None
            raise failure
        if error:
            raise EngineError(self._describe(error))

    def stop(self) -> None:
        self._stop(self._handle)

    def kick(self) -> None:
        self._kick[0] = 1

    def set_deadline(self, tsc: int) -> None:
        if tsc != self._deadline:
            self._deadline = tsc
            if self._running:
                self._set_alarm()

    def _set_alarm(self) -> None:
        """For a deadline that comes while guest code runs. An alarm of before for an earlier one
        does no harm: who is interrupted too early goes on."""
        if self._deadline != NEVER:
            ticks = self._deadline - self.read_tsc()
            if ticks > 0:
                self._alarm.set(ticks)
            else:
                self._kick[0] = 1

    def _switch(self, cpu: EmulatedCpu) -> None:
        self._state.settle_flags()
        old = self._current
        old.storage.copy_from(self._state)
        old.adopt(old.storage)
        self._adopt(cpu)
        # The translations are those of the page tables of ``old``.
        sets = 0
        if cpu.kernel_page_table != old.kernel_page_table:
            sets |= KERNEL_TLB
        if cpu.user_page_table != old.user_page_table:
            sets |= USER_TLB
        if sets:
            self.flush_set(cpu.index, sets)

    def _adopt(self, cpu: EmulatedCpu) -> None:
        self._state.copy_from(cpu.storage)
        cpu.adopt(self._state)
        self._current = cpu

    def _describe(self, error: int) -> str:
        import unicorn

        reason = str(unicorn.UcError(error))
        return f"the emulator cannot go on at {self._state.words[RIP]:#x}: {reason}"

    # Traps. unicorn never clears old_exception, and takes a second fault for a double fault.

    def _install_hooks(self, unicorn: Any, x86_const: Any) -> None:
        """``user_data`` of the compiled callbacks is this engine itself."""
        callbacks = compiled_callbacks() or self._make_callbacks()
        hooks = (
            (unicorn.UC_HOOK_INTR, None, callbacks["interrupt"]),
            (unicorn.UC_HOOK_INSN_INVALID, None, callbacks["invalid"]),
            (unicorn.UC_HOOK_INSN, x86_const.UC_X86_INS_SYSCALL, callbacks["syscall"]),
            (unicorn.UC_HOOK_INSN, x86_const.UC_X86_INS_SYSENTER, callbacks["sysenter"]),
            (unicorn.UC_HOOK_INSN, x86_const.UC_X86_INS_CPUID, callbacks["cpuid"]),
        )
        for kind, instruction, address in hooks:
            hook = ctypes.c_size_t()
            error = self._library.uc_hook_add(
                ctypes.c_void_p(self._handle),
                ctypes.byref(hook),
                ctypes.c_int(kind),
                ctypes.c_void_p(address),
                ctypes.c_void_p(id(self)),
                ctypes.c_uint64(1),  # begin above end: everywhere
                ctypes.c_uint64(0),
                *(() if instruction is None else (ctypes.c_int(instruction),)),
            )
            if error:
                raise EngineError(f"the emulator refuses a hook: {unicorn.UcError(error)}")

    def _make_callbacks(self) -> dict[str, int]:
        """Addresses of C functions that call our methods."""
        functions = {
            "interrupt": _interrupt_callback(lambda _uc, vector, _data: self.on_interrupt(vector)),
            "invalid": _invalid_callback(lambda _uc, _data: self.on_invalid()),
            "syscall": _syscall_callback(lambda _uc, _data: self.on_syscall()),
            "sysenter": _syscall_callback(lambda _uc, _data: self.on_sysenter()),
            "cpuid": _cpuid_callback(lambda _uc, _data: self.on_cpuid()),
        }
        self._callbacks = list(functions.values())
        return {
            name: ctypes.cast(function, ctypes.c_void_p).value or 0
            for name, function in functions.items()
        }

    def _fail(self, error: BaseException) -> None:
        """Let ``run`` raise it: an exception cannot pass through unicorn's frames."""
        if self._failure is None:
            self._failure = error
        self._stop(self._handle)

    # unicorn adds the length of SYSCALL and SYSENTER to rip after their callbacks.

    def on_syscall(self) -> None:
        words = self._state.words
        cpu = self._current
        length = self._state.halves[INSTRUCTION_LENGTH]
        try:
            words[RIP] = words[RIP] + length & _MASK
            if cpu.user_mode:
                self._handler.system_call(cpu)
            else:
                cpu.restore_privilege()
                self._handler.hypercall(cpu)
        except BaseException as error:
            self._fail(error)
        if self._breakpoints.definition is not None:
            self._resume()
        words[RIP] = words[RIP] - length & _MASK

    def on_sysenter(self) -> None:
        words = self._state.words
        cpu = self._current
        length = self._state.halves[INSTRUCTION_LENGTH]
        try:
            cpu.restore_privilege()
            self._handler.sysenter(cpu)
        except BaseException as error:
            self._fail(error)
        words[RIP] = words[RIP] - length & _MASK

    def on_interrupt(self, vector: int) -> None:
        halves = self._state.halves
        cpu = self._current
        halves[OLD_EXCEPTION] = _NO_EXCEPTION
        software = halves[EXCEPTION_IS_INT] != 0
        halves[EXCEPTION_IS_INT] = 0
        error_code = halves[ERROR_CODE]
        try:
            if (self._stepping or vector == _DEBUG) and not self._debug(cpu, vector):
                return
            if cpu.restore_privilege() and vector == _PAGE_FAULT:
                return  # executed again with the right privilege
            self._handler.exception(cpu, vector, error_code, software)
        except BaseException as error:
            self._fail(error)
        if self._breakpoints.definition is not None:
            self._resume()

    def _debug(self, cpu: EmulatedCpu, vector: int) -> bool:
        """Note why a debug exception has come. False: it is not due yet (see ``breakpoints``)."""
        breakpoints = self._breakpoints
        hits = breakpoints.take_hits()
        if hits and vector == _DEBUG:
            breakpoints.enable_watches(False)
            if not self._stepping:
                self._begin_step()
            self._hits = hits
            return False
        if self._stepping:
            stepped = self._end_step()
            if vector == _DEBUG:
                breakpoints.take_status()
                cpu.debug_status |= stepped
            return vector != _DEBUG or stepped != 0
        cpu.debug_status |= breakpoints.take_status()
        return True

    def _resume(self) -> None:
        """RF lets one instruction pass its breakpoint. For QEMU that would be a whole block."""
        if self._state.words[RFLAGS] & _RESUME_FLAG and not self._stepping:
            self._begin_step()

    def _begin_step(self) -> None:
        self._hits = 0
        words = self._state.words
        self._trap_flag = words[RFLAGS] & _TRAP_FLAG
        words[RFLAGS] = words[RFLAGS] | _TRAP_FLAG
        self._stepping = True

    def _end_step(self) -> int:
        """Whatever has ended it. Returns what a debug exception now has for DR6."""
        self._stepping = False
        self._breakpoints.enable_watches(True)
        words = self._state.words
        words[RFLAGS] = words[RFLAGS] & ~_TRAP_FLAG | self._trap_flag
        return self._hits | (SINGLE_STEP if self._trap_flag else 0)

    def on_invalid(self) -> bool:
        self._state.halves[OLD_EXCEPTION] = _NO_EXCEPTION
        cpu = self._current
        try:
            cpu.restore_privilege()
            self._handler.exception(cpu, _INVALID_OPCODE, 0, False)
        except BaseException as error:
            self._fail(error)
        return True

    def on_cpuid(self) -> int:
        try:
            self._handler.cpuid(self._current)
        except BaseException as error:
            self._fail(error)
        return 1

    def load_fpu(self, state: EmulatedRegisters, image: bytes) -> None:
        """Load an FXSAVE image by unicorn's own interface, which also sets what follows from it
        (rounding modes); for another CPU's state in the place of the current one's."""
        live = self._state
        saved = EmulatedRegisters()
        saved.copy_from(live)
        live.copy_from(state)
        for number, value in fpu_registers(image):
            self._uc.reg_write(number, value)
        if state is not live:
            state.copy_from(live)
            live.copy_from(saved)

    def save_fpu(self, state: EmulatedRegisters) -> bytes:
        """The FXSAVE image of a CPU's state, which may be another one's than the current one's."""
        live = self._state
        saved = EmulatedRegisters()
        saved.copy_from(live)
        live.copy_from(state)
        image = fxsave_image(self._uc.reg_read)
        live.copy_from(saved)
        return image

    # Translations and translated code

    def flush_tlb(self) -> None:
        self._tlb_flush(self._cpu_object)
        self._tick(USER_TLB | KERNEL_TLB)

    def flush_set(self, index: int, sets: int) -> None:
        """Flush some sets of translations, if they are the CPU's with this index at the moment."""
        if index == self._current.index:
            self._tlb_flush_set(self._cpu_object, sets)
            self._tick(sets)

    def _tick(self, sets: int) -> None:
        """Note when these sets were flushed."""
        clock = self.flush_clock
        now = clock[0] + 1
        clock[0] = now
        if sets & KERNEL_TLB:
            clock[1] = now
        if sets & USER_TLB:
            clock[2] = now

    def flush_page(self, address: int) -> None:
        self._tlb_flush_page(self._cpu_object, address)

    def invalidate_code(self, address: int, size: int) -> None:
        first, last = address >> 12, address + size - 1 >> 12
        self._library.tb_invalidate_phys_range_x86_64(self._handle, first << 12, last + 1 << 12)
        self.memory.code_frames[first : last + 1] = bytes(last + 1 - first)

    # The CPU's nature

    def processor_time(self) -> int:
        return time.thread_time_ns()

    def native_cpuid(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        values = [ctypes.c_uint32() for _ in range(4)]
        self._library.cpu_x86_cpuid_x86_64(
            self._state_address, leaf, subleaf, *(ctypes.byref(value) for value in values)
        )
        eax, ebx, ecx, edx = (value.value for value in values)
        return eax, ebx, ecx, edx

    def close(self) -> None:
        self._alarm.close()
        machine_code.forget_code(self._handle)
        self._breakpoints.close()
        self._uc = None
        self.memory.close()
