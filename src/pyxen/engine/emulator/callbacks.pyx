# SPDX-License-Identifier: GPL-2.0-or-later
"""unicorn's callbacks as C functions, without the detour through ctypes. Compiled or absent."""

from libc.stdint cimport uint32_t, uintptr_t

from pyxen.engine.emulator.engine cimport EmulatorEngine


cdef void on_interrupt(void *uc, uint32_t vector, void *engine) noexcept with gil:
    (<EmulatorEngine>engine).on_interrupt(vector)


cdef bint on_invalid(void *uc, void *engine) noexcept with gil:
    return (<EmulatorEngine>engine).on_invalid()


cdef void on_syscall(void *uc, void *engine) noexcept with gil:
    (<EmulatorEngine>engine).on_syscall()


cdef void on_sysenter(void *uc, void *engine) noexcept with gil:
    (<EmulatorEngine>engine).on_sysenter()


cdef int on_cpuid(void *uc, void *engine) noexcept with gil:
    return (<EmulatorEngine>engine).on_cpuid()


def addresses():
    """Addresses of the functions, by what they are for."""
    return {
        "interrupt": <uintptr_t>&on_interrupt,
        "invalid": <uintptr_t>&on_invalid,
        "syscall": <uintptr_t>&on_syscall,
        "sysenter": <uintptr_t>&on_sysenter,
        "cpuid": <uintptr_t>&on_cpuid,
    }
