# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of cpu.py.

cimport cython

from pyxen.engine.cpu cimport Cpu
from pyxen.engine.emulator.state cimport EmulatedRegisters

cdef unsigned int CR3, CS, SS, CS_BASE, SS_BASE, CS_FLAGS, SS_FLAGS, HFLAGS
cdef unsigned int _CS64, _CODE64, _CODE32, _DATA, _KERNEL, _USER64, _USER32, _PRIVILEGE

cdef class EmulatedCpu(Cpu):
    cdef public EmulatedRegisters storage
    cdef public EmulatedRegisters state
    cdef unsigned int _task_switched
    cdef object _engine
    cdef public object breakpoints
    cdef public unsigned int debug_status

    @cython.locals(state=EmulatedRegisters)
    cpdef void enter_kernel(self, unsigned int cs, unsigned int ss) except *
    @cython.locals(state=EmulatedRegisters)
    cpdef void enter_user(self, unsigned int cs, unsigned int ss, bint long_mode) except *
    cpdef bint in_long_mode(self) except *
    cpdef void load_kernel_page_table(self, unsigned long long address) except *
    cpdef void load_user_page_table(self, unsigned long long address) except *
    cpdef bint restore_privilege(self) except *
