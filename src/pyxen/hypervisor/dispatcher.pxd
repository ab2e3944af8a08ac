# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of the dispatcher.

cimport cython

from pyxen.hypervisor.vcpu cimport Vcpu

cdef unsigned int RAX, RDI, RSI, RDX, R10, R8, RIP
cdef unsigned long long HISTORY_FIELDS, HISTORY_LENGTH, _MASK, _SYSCALL_LENGTH

cdef class Dispatcher:
    cdef object _domain
    cdef list _instruments
    cdef object _counters
    cdef unsigned long long[::1] _counts
    cdef unsigned long long[::1] _ns
    cdef unsigned long long[::1] _history
    cdef unsigned long long _position
    cdef unsigned char[::1] _arities
    cdef unsigned long long _inner_ns
    cdef object _continued

    @cython.locals(
        words="unsigned long long[::1]", number=cython.ulonglong, first=cython.ulonglong,
        second=cython.ulonglong, position=cython.ulonglong, entry=cython.ulonglong,
    )
    cpdef void hypercall(self, Vcpu vcpu) except *
    @cython.locals(
        start=cython.ulonglong, outer_ns=cython.ulonglong, passed=cython.ulonglong,
        index=cython.ulonglong, arity=cython.uint,
    )
    cpdef object call(
        self, Vcpu vcpu, unsigned long long number, unsigned long long a1,
        unsigned long long a2, unsigned long long a3, unsigned long long a4,
        unsigned long long a5,
    )
