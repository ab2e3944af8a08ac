# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of transmit.py.

cimport cython

from pyxen.backends.net.ring cimport Ring
from pyxen.hypervisor.grant_access cimport GrantAccess

cdef unsigned int MAX_PIECES, MALICIOUS_PIECES, ETHERNET_HEADER, PAGE_SIZE
cdef unsigned int GSO_NONE, GSO_TCPV4, GSO_TCPV6
cdef unsigned int _DATA_VALIDATED, _CSUM_BLANK, _EXTRA_INFO, _MORE_DATA, _MORE_EXTRA
cdef unsigned int _NONE, _GSO, _MCAST_ADD, _MCAST_DEL, _TYPES, _TCPV4, _TCPV6
cdef unsigned int _OKAY, _ERROR, _NULL

cdef class Transmitter:
    cdef public Ring ring
    cdef public double delay
    cdef public unsigned long long packets
    cdef public unsigned long long bytes
    cdef public unsigned long long refused
    cdef public str reason
    cdef GrantAccess _grants
    cdef object _multicast
    cdef object _rate
    cdef unsigned int _left
    cdef list _places
    cdef list _identities
    cdef unsigned int _gso
    cdef unsigned int _segment_size
    cdef object _group
    cdef unsigned int _operation

    @cython.locals(frames=list)
    cpdef list take_all(self)
    @cython.locals(
        status=cython.uint, words="unsigned int[::1]", index=cython.uint, place=cython.uint,
        identity=cython.uint,
    )
    cdef object _take_next(self)
    cdef void _refuse(self, str reason) except *
    @cython.locals(
        words="unsigned int[::1]", place=cython.uint, reference=cython.uint, word=cython.uint,
        offset=cython.uint, flags=cython.uint, size=cython.uint, rest=cython.uint, pieces=list,
    )
    cdef object _take(self)
    cdef unsigned int _next(self) except? 0xFFFFFFFF
    @cython.locals(
        words="unsigned int[::1]", more=cython.uint, place=cython.uint, head=cython.uint,
        body=cython.uint, kind=cython.uint,
    )
    cdef void _take_extras(self) except *
    cdef void _set_gso(self, unsigned int kind, unsigned int size) except *
    cdef void _change_filter(self) except *
    @cython.locals(
        words="unsigned int[::1]", count=cython.uint, rest=cython.longlong, more=cython.uint,
        place=cython.uint, reference=cython.uint, word=cython.uint, offset=cython.uint,
        length=cython.uint,
    )
    cdef unsigned int _take_pieces(self, list pieces, unsigned int size) except? 0xFFFFFFFF
    @cython.locals(start=cython.uint, place=cython.uint)
    cdef object _make_frame(self, object data, unsigned int flags)
