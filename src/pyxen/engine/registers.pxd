# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of registers.py.

cdef class Registers:
    cdef public unsigned long long[::1] words

    cpdef unsigned long long read_flags(self) except? 1
    cpdef void write_flags(self, unsigned long long value) except *
