# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of offload.py.

cimport cython

cdef unsigned int ETHERNET_HEADER, GSO_NONE, GSO_TCPV4, GSO_TCPV6
cdef unsigned int _IPV6_HEADER, _TCP_HEADER, _TCP, _TCP_SUM, _UDP, _UDP_SUM
cdef unsigned int _HOP_BY_HOP, _ROUTING, _DESTINATION, _MAX_EXTENSIONS
cdef unsigned int _FIN_PSH, _CWR, _SMALLEST_SEGMENT

@cython.locals(
    first=cython.Py_ssize_t, last=cython.Py_ssize_t, index=cython.Py_ssize_t,
    little=cython.ulonglong, words="const unsigned int[::1]",
)
cpdef unsigned int ones_sum(
    object data, Py_ssize_t start, Py_ssize_t end, unsigned int total=*
) except? 0xFFFFFFFF
@cython.locals(kind=cython.uint, start=cython.uint, protocol=cython.uint, place=cython.uint)
cpdef tuple find_checksum(object data)
@cython.locals(first=cython.uint, header=cython.uint, fragment=cython.uint)
cdef tuple _find_in_ipv4(object data)
@cython.locals(size=cython.uint, start=cython.uint, protocol=cython.uint)
cdef tuple _find_in_ipv6(object data)
cpdef bint is_ipv6(object data) except *
@cython.locals(
    start=cython.uint, place=cython.uint, size=cython.uint, total=cython.uint, filled=bytearray,
)
cpdef object fill_checksum(object frame)
cpdef bint is_segment(object data, unsigned int place, unsigned int gso) except *
cdef unsigned int _pseudo_sum(object data, bint ipv4, unsigned int length) except? 0xFFFFFFFF
@cython.locals(
    size=cython.uint, mss=cython.uint, ipv4=cython.bint, start=cython.uint, place=cython.uint,
    header=cython.uint, identification=cython.uint, sequence=cython.ulonglong,
    flags=cython.uint, head=bytearray, done=cython.uint, end=cython.uint, length=cython.uint,
    here=cython.uint, total=cython.uint, packet=bytearray, segments=list,
)
cpdef list segment(object frame)
cdef void _put(bytearray buffer, unsigned int place, unsigned long long value) except *
cpdef list finish(list frames)
