# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of engine.py.

cimport cython

from pyxen.engine.emulator.cpu cimport EmulatedCpu
from pyxen.engine.emulator.state cimport EmulatedRegisters

cdef unsigned int ERROR_CODE, EXCEPTION_IS_INT, INSTRUCTION_LENGTH, OLD_EXCEPTION, RFLAGS, RIP
cdef unsigned int _DEBUG, _NO_EXCEPTION, _PAGE_FAULT
cdef unsigned long long _MASK, _TRAP_FLAG, _RESUME_FLAG
cdef int KERNEL_TLB, USER_TLB

cdef class EmulatorEngine:
    cdef object _library
    cdef object _start
    cdef object _stop
    cdef object _tlb_flush
    cdef object _tlb_flush_set
    cdef object _tlb_flush_page
    cdef public object read_tsc
    cdef public object memory
    cdef public unsigned long long[::1] flush_clock
    cdef object _uc
    cdef object _handle
    cdef object _cpu_object
    cdef object _state_address
    cdef EmulatedRegisters _state
    cdef object _handler
    cdef object _failure
    cdef object _kick
    cdef object _alarm
    cdef object _deadline
    cdef bint _running
    cdef object _callbacks
    cdef public list cpus
    cdef object _breakpoints
    cdef bint _stepping
    cdef unsigned long long _trap_flag
    cdef unsigned int _hits
    cdef EmulatedCpu _current

    cpdef flush_set(self, int index, int sets)
    @cython.locals(now=cython.ulonglong, clock="unsigned long long[::1]")
    cdef int _tick(self, int sets) except -1
    @cython.locals(words="unsigned long long[::1]", cpu=EmulatedCpu, length=cython.ulonglong)
    cpdef on_syscall(self)
    @cython.locals(words="unsigned long long[::1]", cpu=EmulatedCpu, length=cython.ulonglong)
    cpdef on_sysenter(self)
    @cython.locals(
        halves="unsigned int[::1]", cpu=EmulatedCpu, software=cython.bint,
        error_code=cython.uint,
    )
    cpdef on_interrupt(self, unsigned int vector)
    cpdef bint _debug(self, EmulatedCpu cpu, unsigned int vector) except *
    cpdef _resume(self)
    cpdef _begin_step(self)
    cpdef unsigned int _end_step(self) except? 1
    cpdef on_invalid(self)
    cpdef on_cpuid(self)
