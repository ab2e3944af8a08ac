# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of pagetables.py.

cimport cython

from pyxen.hypervisor.guest_access cimport find_words
from pyxen.hypervisor.vcpu cimport Vcpu

cdef unsigned long long ACCESSED, DIRTY, ENTRIES, FRAME, PAGE_SHIFT, PRESENT, PSE
cdef unsigned long long DOMAIN, END_XEN_SLOT, FIRST_XEN_SLOT
cdef unsigned long long MMU_MACHPHYS_UPDATE, MMU_NORMAL_PT_UPDATE
cdef unsigned long long MMU_PT_UPDATE_NO_TRANSLATE, MMU_PT_UPDATE_PRESERVE_AD
cdef unsigned long long _COMMAND, _ADDRESS, _OFFSET, _REQUEST, PAGE_SIZE
cdef long long NOT_MAPPED

cdef class PageTables:
    cdef public object memory
    cdef public unsigned char[::1] types
    cdef public unsigned char[::1] pinned
    cdef public unsigned long long done
    cdef public unsigned int[::1] counts
    cdef unsigned long long[::1] _words
    cdef unsigned long long[::1] _m2p
    cdef unsigned char[::1] _owner
    cdef unsigned long long _frames

    @cython.locals(
        address=cython.ulonglong, chunk=cython.ulonglong, first=cython.longlong,
    )
    cpdef void apply_batch(
        self, Vcpu vcpu, unsigned long long requests, unsigned long long count
    ) except *
    @cython.locals(
        number=cython.ulonglong, pointer=cython.ulonglong, value=cython.ulonglong,
        command=cython.ulonglong, mfn=cython.ulonglong, words="unsigned long long[::1]",
    )
    cpdef void apply(self, unsigned long long first, unsigned long long count) except *
    @cython.locals(
        mfn=cython.ulonglong, level=cython.ulonglong, index=cython.ulonglong,
        target=cython.ulonglong,
    )
    cpdef void update(
        self, unsigned long long address, unsigned long long value, bint preserve_ad
    ) except *
    @cython.locals(old=cython.ulonglong)
    cpdef void _update_upper(
        self, unsigned long long index, unsigned long long value, unsigned long long level,
        bint preserve_ad,
    ) except *
    cpdef void _get_child(self, unsigned long long entry, unsigned long long level) except *
    cpdef void _get(self, unsigned long long mfn, unsigned long long level) except *
    @cython.locals(
        first=cython.ulonglong, index=cython.ulonglong, entry=cython.ulonglong,
        target=cython.ulonglong, taken=cython.ulonglong, words="unsigned long long[::1]",
        owner="unsigned char[::1]", frames=cython.ulonglong,
    )
    cpdef void _validate(self, unsigned long long mfn, unsigned long long level) except *
    @cython.locals(
        level=cython.ulonglong, first=cython.ulonglong, words="unsigned long long[::1]",
    )
    cpdef void _put(self, unsigned long long mfn) except *
    @cython.locals(index=cython.ulonglong, entry=cython.ulonglong)
    cpdef void _put_children(
        self, unsigned long long mfn, unsigned long long level, unsigned long long end
    ) except *
    cpdef void pin(self, unsigned long long mfn, unsigned long long level) except *
    cpdef void unpin(self, unsigned long long mfn) except *
    @cython.locals(entry=cython.ulonglong, shift=cython.int)
    cpdef unsigned long long find_l1_entry(
        self, unsigned long long table, unsigned long long address
    ) except? 1
