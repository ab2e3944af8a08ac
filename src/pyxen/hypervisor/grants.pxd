# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of grants.py.

cimport cython

from pyxen.hypervisor.maptrack cimport Maptrack
from pyxen.hypervisor.pagetables cimport PageTables

cdef unsigned long long GTF_permit_access, GTF_reading, GTF_readonly, GTF_sub_page
cdef unsigned long long GTF_transitive, GTF_type_mask
cdef unsigned int DOMAIN, SHARED
cdef unsigned long long ENTRIES, PAGE_SIZE, WRITABLE
cdef unsigned long long _OVERFLOW_SHIFT, _STATUS_BITS, _STATUS_PER_FRAME, _V1_PER_FRAME
cdef unsigned long long _V2_PER_FRAME, _WRITERS

cdef class GrantTable:
    cdef public object memory
    cdef public PageTables pagetables
    cdef public unsigned long long domid
    cdef public object limits
    cdef public unsigned long long version
    cdef public unsigned long long entries
    cdef public unsigned long long nr_frames
    cdef public unsigned long long nr_status_frames
    cdef public unsigned long long[::1] mfns
    cdef public unsigned long long[::1] status_mfns
    cdef public unsigned int[::1] pins
    cdef public unsigned short[::1] domids
    cdef public unsigned long long[::1] frames
    cdef public Maptrack maptrack
    cdef public list accesses
    cdef unsigned long long[::1] _words
    cdef unsigned short[::1] _halfwords
    cdef unsigned char[::1] _owner

    cdef unsigned long long _entry(self, unsigned long long ref) except? 1
    cdef unsigned long long _status(self, unsigned long long ref) except? 1
    @cython.locals(
        pin=cython.ulonglong, writing=cython.ulonglong, header=cython.ulonglong,
        kind=cython.ulonglong, entry=cython.ulonglong, mfn=cython.ulonglong,
    )
    cpdef unsigned long long acquire(
        self, unsigned long long ref, unsigned long long domid, unsigned long long increment
    ) except? 1
    cdef bint _is_owned(self, unsigned long long mfn) except -1
    cpdef void release(self, unsigned long long ref, unsigned long long increment) except *
    @cython.locals(pin=cython.ulonglong, clear=cython.ulonglong)
    cdef void _reduce_status(self, unsigned long long ref, unsigned long long writing) except *
    @cython.locals(
        pin=cython.ulonglong, increment=cython.ulonglong, entry=cython.ulonglong,
        header=cython.ulonglong, kind=cython.ulonglong, transitive=cython.bint,
        start=cython.ulonglong, end=cython.ulonglong, mfn=cython.ulonglong,
    )
    cpdef tuple check_copy(
        self, unsigned long long ref, unsigned long long domid, bint writing
    )
    cpdef void check_writable(self, unsigned long long mfn) except *
    cpdef void take(self, unsigned long long mfn, bint writing) except *
    cpdef void give_back(self, unsigned long long mfn, bint writing) except *
