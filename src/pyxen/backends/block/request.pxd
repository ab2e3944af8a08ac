# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of request.py.

cimport cython

from pyxen.hypervisor.grant_access cimport MappedSegments

cdef unsigned int BLKIF_MAX_SEGMENTS_PER_REQUEST, BLKIF_OP_DISCARD, BLKIF_OP_FLUSH_DISKCACHE
cdef unsigned int BLKIF_OP_INDIRECT
cdef unsigned int SECTOR, _SECTORS_PER_PAGE, _SEGMENTS, _SEGMENT_SIZE

cdef class Request:
    cdef public list buffers
    cdef public str failure
    cdef public unsigned long long identity
    cdef public MappedSegments mapped
    cdef public list mappings
    cdef public object offset
    cdef public int operation
    cdef public list segments
    cdef public object size
    cdef public int status

    @cython.locals(form="unsigned int", count="unsigned int")
    cpdef void parse(self, bytes entry, object grants) except *
    @cython.locals(
        total=cython.ulonglong, first="unsigned int", last="unsigned int",
        reference=cython.ulonglong,
    )
    cpdef void _take_segments(self, bytes segments) except *
    cpdef void check_place(self, object disk_size, object sector_size) except *
