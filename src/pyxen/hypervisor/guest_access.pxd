# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of guest_access.py.

cimport cython

from pyxen.hypervisor.vcpu cimport Vcpu

cdef unsigned long long FRAME, PRESENT, PSE, RW, PAGE_SIZE
cdef unsigned long long HYPERVISOR_VIRT_END, HYPERVISOR_VIRT_START
cdef unsigned long long _LOW_END, _HIGH_START

@cython.locals(entry=cython.ulonglong)
cpdef long long translate(
    unsigned long long[::1] words,
    unsigned long long table,
    unsigned long long address,
    unsigned long long needed,
) except? -2

@cython.locals(machine=cython.longlong)
cpdef long long find_words(
    Vcpu vcpu, unsigned long long address, unsigned long long count
) except? -2

@cython.locals(machine=cython.longlong)
cdef long long _machine(
    Vcpu vcpu, unsigned long long address, unsigned long long needed
) except? -2

cpdef write_word(Vcpu vcpu, object address, object value)

@cython.locals(machine=cython.longlong)
cdef int _write_aligned(
    Vcpu vcpu, unsigned long long address, unsigned long long value
) except -1
