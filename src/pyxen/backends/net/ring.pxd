# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of ring.py.

cimport cython

cdef unsigned int SLOTS
cdef unsigned int _REQ_PROD, _REQ_EVENT, _RSP_PROD, _RSP_EVENT, _FIRST, _INDEX_MASK

cdef class Ring:
    cdef public unsigned int[::1] words
    cdef public unsigned int slot_words
    cdef public unsigned int consumed
    cdef public unsigned int told

    @cython.locals(req_prod=cython.uint, waiting=cython.uint)
    cpdef unsigned int waiting(self) except? 0xFFFFFFFF
    @cython.locals(place=cython.uint)
    cpdef unsigned int take(self) except? 0xFFFFFFFF
    cpdef void push(self) except *
    @cython.locals(old=cython.uint, new=cython.uint, rsp_event=cython.uint)
    cpdef bint wants_event(self) except *
    cpdef bint ask_for_events(self, unsigned int have) except *
