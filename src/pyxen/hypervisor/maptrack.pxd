# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of maptrack.py.

cdef class Maptrack:
    cdef public unsigned long long max_frames
    cdef public object flags
    cdef public object refs
    cdef object _free

    cpdef long long reserve(self) except? -2
    cpdef void free(self, long long handle) except *
    cpdef bint is_used(self, long long handle) except *
