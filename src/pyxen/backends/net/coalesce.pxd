# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of coalesce.py.

cimport cython

cdef unsigned int ETHERNET_HEADER, GSO_NONE, GSO_TCPV4, GSO_TCPV6
cdef unsigned int _LARGEST, _TCP, _TCP_SUM, _IPV4_START, _IPV6_START, _ACK, _PSH

cdef class _Run:
    cdef object first
    cdef bytes signature
    cdef unsigned int start
    cdef unsigned int header
    cdef unsigned int mss
    cdef unsigned int size
    cdef list payloads
    cdef unsigned long long next
    cdef bint closed
    cdef unsigned int flags

    @cython.locals(payload=cython.uint)
    cdef bint takes(self, object data, bytes signature) except *
    @cython.locals(flags=cython.uint)
    cdef void add(self, object data) except *
    @cython.locals(start=cython.uint, head=bytearray, gso=cython.uint, total=cython.uint)
    cdef object frame(self)

@cython.locals(done=list, run=_Run, start=cython.uint, header=cython.uint, signature=bytes)
cpdef list coalesce(object frames, bint gso_v4, bint gso_v6)
@cython.locals(size=cython.uint, kind=cython.uint, fragment=cython.uint, length=cython.uint, start=cython.uint)
cdef unsigned int _tcp_start(object frame, bint gso_v4, bint gso_v6) except? 1
cdef bytes _signature(object data, unsigned int start, unsigned int header)
cdef unsigned long long _sequence(object data, unsigned int start) except? 0xFFFFFFFFFFFFFFFF
