# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of grant_access.py.

cimport cython

from pyxen.hypervisor.grants cimport GrantTable
from pyxen.hypervisor.maptrack cimport Maptrack

cdef unsigned long long PAGE_SIZE

cdef class Mapping:
    cdef public long long handle
    cdef public unsigned long long ref
    cdef public bint readonly
    cdef public object page

cdef class GrantAccess:
    cdef public unsigned long long domid
    cdef GrantTable _table
    cdef object _bytes
    cdef unsigned char[::1] _code_frames
    cdef object _forget_code
    cdef Maptrack _maptrack
