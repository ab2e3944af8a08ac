# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of receive.py.

cimport cython

from pyxen.backends.net.ring cimport Ring
from pyxen.hypervisor.grant_access cimport GrantAccess

cdef unsigned int ETHERNET_HEADER, PAGE_SIZE, GSO_NONE, GSO_TCPV4, GSO_TCPV6
cdef unsigned long long _MOST
cdef unsigned int _ROUND, _INDEX_MASK
cdef unsigned int _LARGEST, _CSUM_BLANK, _DATA_VALIDATED, _MORE_DATA, _EXTRA_INFO
cdef unsigned int _GSO_EXTRA, _TCPV4, _TCPV6, _ERROR

cdef class Abilities:
    cdef public bint sg
    cdef public bint gso_v4
    cdef public bint gso_v6
    cdef public bint ipv4_checksum
    cdef public bint ipv6_checksum

cdef class Receiver:
    cdef public Ring ring
    cdef public unsigned long long packets
    cdef public unsigned long long bytes
    cdef public unsigned long long dropped
    cdef public unsigned long long failed
    cdef public unsigned long long waiting_bytes
    cdef public bint paused
    cdef int _left
    cdef unsigned int _slots_seen
    cdef object _waiting
    cdef GrantAccess _grants
    cdef Abilities _abilities

    @cython.locals(size=cython.ulonglong, gso=cython.uint, abilities=Abilities)
    cpdef void add(self, object frame) except *
    @cython.locals(size=cython.ulonglong)
    cdef void _add(self, object frame) except *
    cpdef void begin_round(self) except *
    @cython.locals(
        ring=Ring, free=cython.uint, size=cython.uint, needed=cython.uint, seen=cython.uint,
    )
    cpdef void deliver(self) except *
    @cython.locals(
        ring=Ring, words="unsigned int[::1]", flags=cython.uint, gso=cython.uint,
        done=cython.uint, length=cython.uint, place=cython.uint, identity=cython.uint,
        reference=cython.uint, status=cython.uint, failed=cython.bint,
    )
    cdef void _put(self, object frame, unsigned int size) except *
