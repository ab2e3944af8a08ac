# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of cpu.py.

cimport cython

from pyxen.engine.registers cimport Registers

cdef unsigned int CR3, GS_BASE

cdef class Cpu:
    cdef public int index
    cdef public Registers registers
    cdef public bint user_mode
    cdef public unsigned long long inactive_gs_base
    cdef public unsigned long long kernel_page_table
    cdef public unsigned long long user_page_table

    cpdef void enter_kernel(self, unsigned int cs, unsigned int ss) except *
    cpdef void enter_user(self, unsigned int cs, unsigned int ss, bint long_mode) except *
    cpdef bint in_long_mode(self) except *
    cpdef void load_kernel_page_table(self, unsigned long long address) except *
    cpdef void load_user_page_table(self, unsigned long long address) except *
    @cython.locals(words="unsigned long long[::1]", gs_base=cython.ulonglong)
    cpdef void switch_mode(self, bint user_mode) except *
