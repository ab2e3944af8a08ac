# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of ring.py.

cimport cython

cdef unsigned long long PAGE_SIZE
cdef unsigned int _INDEX_MASK, _REQ_EVENT, _REQ_PROD, _RSP_EVENT, _RSP_PROD, _SLOTS, _SLOT_SIZE

cdef class Ring:
    cdef public unsigned int slots
    cdef list _pages
    cdef unsigned int[::1] _words
    cdef unsigned int _rsp_prod
    cdef unsigned int _told
    cdef unsigned int _req_cons

    @cython.locals(req_prod="unsigned int", waiting="unsigned int")
    cpdef unsigned int waiting(self) except? 0xffffffff
    @cython.locals(place=cython.ulonglong, page=cython.ulonglong, offset=cython.ulonglong)
    cpdef bytes take(self)
    @cython.locals(
        place=cython.ulonglong, page=cython.ulonglong, offset=cython.ulonglong,
        first=cython.ulonglong,
    )
    cpdef void respond(self, unsigned long long identity, int operation, int status) except *
    @cython.locals(old="unsigned int", new="unsigned int", rsp_event="unsigned int")
    cpdef bint push(self) except -1
    cpdef bint ask_for_events(self) except -1
