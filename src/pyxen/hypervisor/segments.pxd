# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of segments.py.

cimport cython

from pyxen.hypervisor.vcpu cimport Vcpu

cdef unsigned long long FRAME, PRESENT
cdef unsigned int FIRST_LDT_PAGE

@cython.locals(index=cython.uint, page=cython.uint, entry=cython.ulonglong)
cpdef unsigned long long find_descriptor(Vcpu vcpu, unsigned int selector) except? 1
