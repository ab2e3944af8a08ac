# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of queue.py.

cimport cython

from pyxen.backends.block.request cimport Request
from pyxen.backends.block.ring cimport Ring
from pyxen.hypervisor.grant_access cimport GrantAccess, MappedSegments

cdef int BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR
cdef unsigned long long PAGE_SIZE

cdef class Queue:
    cdef public object port
    cdef object _device
    cdef object _doors
    cdef GrantAccess _grants
    cdef object _image
    cdef dict _counters
    cdef object _limits
    cdef object _pages
    cdef Ring _ring
    cdef bint _persistent
    cdef dict _kept
    cdef long long _left_at_once
    cdef dict _running
    cdef object _ended
    cdef bint _collecting
    cdef Request _barrier
    cdef bint _resuming
    cdef bint _closed

    cpdef void _serve(self) except *
    cdef void _push(self) except *
    cdef bint _must_wait(self) except -1
    @cython.locals(request=Request)
    cdef void _begin(self, bytes entry) except *
    cdef void _refuse(self, Request request, int status, str reason) except *
    cdef void _check_writable(self) except *
    cdef void _pass_barrier(self) except *
    cdef void _map(self, Request request, bint readonly) except *
    cdef void _unmap(self, Request request) except *
    cdef bint _try_now(self, object move, Request request) except -1
    cdef void _hand_over(self, Request request, object work) except *
    cdef void _note_failure(self, Request request, object error) except *
    cdef void _end(self, Request request) except *
