# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of pagetables.py.

cimport cython

from pyxen.hypervisor.guest_access cimport find_words
from pyxen.hypervisor.vcpu cimport Vcpu

cdef unsigned long long ACCESSED, DIRTY, ENTRIES, FRAME, GLOBAL, PAGE_SHIFT, PAGE_SIZE
cdef unsigned long long PCD, PRESENT, PSE, PWT, RW, USER
cdef unsigned int L1, L4, NONE, SEGMENT_DESCRIPTORS, WRITABLE
cdef unsigned int DOMAIN, IO, SHARED
cdef unsigned long long END_XEN_SLOT, FIRST_XEN_SLOT
cdef unsigned long long MMU_MACHPHYS_UPDATE, MMU_NORMAL_PT_UPDATE
cdef unsigned long long MMU_PT_UPDATE_NO_TRANSLATE, MMU_PT_UPDATE_PRESERVE_AD
cdef int EBUSY, EINVAL, ENOSYS, EPERM
cdef unsigned long long _L1_DISALLOWED, _TABLE_DISALLOWED, _COMPARED, _TABLE_FLAGS, _L4_FLAGS
cdef unsigned long long _INVALID_MFN, _NO_TABLE
cdef unsigned int _MAX_COUNT
cdef int _MAX_LINEAR
cdef unsigned long long _COMMAND, _ADDRESS, _OFFSET, _REQUEST, _STRIDE
cdef long long NOT_MAPPED

@cython.final
cdef class PageTables:
    cdef public object memory
    cdef public unsigned int[::1] refs
    cdef public unsigned char[::1] types
    cdef public unsigned int[::1] type_counts
    cdef public unsigned char[::1] pinned
    cdef public short[::1] linear_counts
    cdef public unsigned long long done
    cdef bint _table_changed
    cdef unsigned long long[::1] _words
    cdef unsigned long long[::1] _m2p
    cdef unsigned char[::1] _owner
    cdef unsigned long long[::1] _stamps
    cdef unsigned long long[::1] _clock
    cdef unsigned long long _frames

    cpdef void get_page(self, unsigned long long mfn) except *
    cpdef void put_page(self, unsigned long long mfn) except *
    @cython.locals(error=cython.int)
    cpdef void get_page_and_type(self, unsigned long long mfn, unsigned int kind) except *
    cpdef void put_page_and_type(self, unsigned long long mfn) except *
    cpdef void pin(self, unsigned long long mfn, unsigned int level) except *
    cpdef void unpin(self, unsigned long long mfn) except *
    @cython.locals(mfn=cython.ulonglong)
    cpdef void unpin_all(self) except *
    @cython.locals(mfn=cython.ulonglong)
    cpdef void release_all(self) except *
    cdef bint _get_page(self, unsigned long long mfn) except -1
    cdef int _put_page(self, unsigned long long mfn) except -1
    @cython.locals(error=cython.int)
    cdef int _get_page_and_type(self, unsigned long long mfn, unsigned int kind) except -1
    @cython.locals(count=cython.uint, error=cython.int)
    cdef int _get_type(self, unsigned long long mfn, unsigned int kind) except -1
    @cython.locals(count=cython.uint, kind=cython.uint)
    cdef int _put_type(self, unsigned long long mfn, unsigned long long table) except -1
    @cython.locals(
        first=cython.ulonglong, index=cython.ulonglong, entry=cython.ulonglong, error=cython.int,
    )
    cdef int _validate_l1(self, unsigned long long mfn) except -1
    @cython.locals(first=cython.ulonglong, index=cython.ulonglong)
    cdef int _devalidate_l1(self, unsigned long long mfn) except -1
    @cython.locals(
        first=cython.ulonglong, index=cython.ulonglong, entry=cython.ulonglong,
        flags=cython.ulonglong, error=cython.int,
    )
    cdef int _validate_table(self, unsigned long long mfn, unsigned int level) except -1
    cdef int _devalidate_table(
        self, unsigned long long mfn, unsigned int level, unsigned long long end
    ) except -1
    @cython.locals(mfn=cython.ulonglong)
    cdef int _get_from_l1(self, unsigned long long entry) except -1
    @cython.locals(mfn=cython.ulonglong)
    cdef int _put_from_l1(self, unsigned long long entry) except -1
    @cython.locals(mfn=cython.ulonglong, error=cython.int)
    cdef int _get_from_table(
        self, unsigned long long entry, unsigned long long table, unsigned int level
    ) except -1
    @cython.locals(mfn=cython.ulonglong)
    cdef int _put_from_table(
        self, unsigned long long entry, unsigned long long table
    ) except -1
    cdef bint _get_linear(
        self, unsigned long long entry, unsigned long long mfn, unsigned long long table,
        unsigned int level,
    ) except -1

    @cython.locals(
        address=cython.ulonglong, chunk=cython.ulonglong, first=cython.longlong,
    )
    cpdef void apply_batch(
        self, Vcpu vcpu, unsigned long long requests, unsigned long long count, bint foreign
    ) except *
    @cython.locals(
        number=cython.ulonglong, pointer=cython.ulonglong, value=cython.ulonglong,
        command=cython.ulonglong, error=cython.int,
    )
    cpdef void apply(
        self, unsigned long long first, unsigned long long count, bint foreign
    ) except *
    @cython.locals(error=cython.int)
    cpdef void update(
        self, unsigned long long address, unsigned long long value, bint preserve_ad
    ) except *
    @cython.locals(mfn=cython.ulonglong, index=cython.ulonglong, error=cython.int)
    cdef int _update(
        self, unsigned long long address, unsigned long long value, bint preserve_ad, bint foreign
    ) except -1
    @cython.locals(old=cython.ulonglong, error=cython.int)
    cdef int _update_l1(
        self, unsigned long long index, unsigned long long value, bint preserve_ad, bint foreign
    ) except -1
    @cython.locals(
        mfn=cython.ulonglong, level=cython.uint, old=cython.ulonglong, moved=cython.bint,
        error=cython.int,
    )
    cdef int _update_table(
        self, unsigned long long index, unsigned long long value, bint preserve_ad
    ) except -1
    cdef int _write(
        self, unsigned long long index, unsigned long long value, bint preserve_ad
    ) except -1
    cdef int _update_m2p(
        self, unsigned long long mfn, unsigned long long value, bint foreign
    ) except -1
    @cython.locals(
        entry=cython.ulonglong, old=cython.ulonglong, mfn=cython.ulonglong,
        stamp=cython.ulonglong, error=cython.int,
    )
    cpdef void update_mapping(
        self, Vcpu vcpu, unsigned long long address, unsigned long long value
    ) except *
    @cython.locals(
        slot=cython.ulonglong, table=cython.ulonglong, l3=cython.ulonglong,
        l2=cython.ulonglong, l1=cython.ulonglong, mfn=cython.ulonglong,
        index=cython.ulonglong,
    )
    cdef bint _is_reached_once(self, Vcpu vcpu, unsigned long long address) except -1
    @cython.locals(
        entry=cython.ulonglong, shift=cython.int, words="unsigned long long[::1]",
    )
    cpdef unsigned long long find_l1_entry(
        self, unsigned long long table, unsigned long long address
    ) except? 1
