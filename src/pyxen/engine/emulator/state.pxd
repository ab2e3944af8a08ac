# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of state.py.

cimport cython

from pyxen.engine.registers cimport Registers

cdef unsigned long long _CONDITION_CODES, _DIRECTION, _LAZY, _ONE
cdef unsigned int _CC_OP_EFLAGS, _BACKWARDS
cdef unsigned int CC_OP, DF, RFLAGS, _SOURCE, _OWN_WORDS

cdef class EmulatedRegisters(Registers):
    cdef public unsigned int[::1] halves
    cdef object _compute_all
    cdef object _address

    @cython.locals(operation=cython.uint, codes=cython.ulonglong, flags=cython.ulonglong)
    cpdef unsigned long long read_flags(self) except? 1
    cpdef void write_flags(self, unsigned long long value) except *
    cpdef void copy_from(self, EmulatedRegisters other) except *
    cpdef settle_flags(self)
    cpdef pack_flags(self)
    cpdef unpack_flags(self)
