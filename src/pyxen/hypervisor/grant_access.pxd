# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of grant_access.py.

cimport cython

from pyxen.hypervisor.grants cimport GrantTable
from pyxen.hypervisor.maptrack cimport Maptrack

cdef unsigned long long HOST_READ, HOST_WRITE, PAGE_SIZE

cdef class Mapping:
    cdef public long long handle
    cdef public unsigned long long ref
    cdef public bint readonly
    cdef public object page

cdef class MappedSegments:
    cdef public bint readonly
    cdef public list refs
    cdef public list buffers

cdef class GrantAccess:
    cdef public unsigned long long domid
    cdef GrantTable _table
    cdef object _bytes
    cdef unsigned char[::1] _code_frames
    cdef object _forget_code
    cdef Maptrack _maptrack
    cdef set _segments

    @cython.locals(mfn=cython.ulonglong, increment=cython.ulonglong)
    cdef unsigned long long _take(self, unsigned long long ref, bint readonly) except? 1
    cdef int _give_back(self, unsigned long long handle) except -1
    @cython.locals(mfn=cython.ulonglong)
    cdef int _release(self, unsigned long long ref, bint readonly) except -1
    @cython.locals(ref=cython.ulonglong)
    cdef int _release_all(self, list refs, bint readonly) except -1
    cdef object _view(self, unsigned long long first, unsigned long long last, bint readonly)
    @cython.locals(
        mapped=MappedSegments, ref=cython.ulonglong, start=cython.longlong, end=cython.longlong,
        address=cython.ulonglong, first=cython.ulonglong, last=cython.ulonglong,
    )
    cpdef MappedSegments map_segments(self, object segments, bint readonly)
    cpdef int unmap_segments(self, MappedSegments mapped) except -1
