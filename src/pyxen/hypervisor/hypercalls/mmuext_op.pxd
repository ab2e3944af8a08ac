# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of mmuext_op.py.

cimport cython

from pyxen.hypervisor.addresses cimport is_guest_address
from pyxen.hypervisor.guest_access cimport find_words
from pyxen.hypervisor.hypercalls.mmu_update cimport check_page_owner, done_before, store_done
from pyxen.hypervisor.vcpu cimport Vcpu

cdef long long NOT_MAPPED
cdef unsigned long long PREEMPTED, UINT32, _MASK, _SIZE
cdef unsigned int MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE
cdef unsigned int MMUEXT_FLUSH_CACHE, MMUEXT_FLUSH_CACHE_GLOBAL
cdef unsigned int MMUEXT_INVLPG_ALL, MMUEXT_INVLPG_LOCAL, MMUEXT_INVLPG_MULTI
cdef unsigned int MMUEXT_MARK_SUPER, MMUEXT_UNMARK_SUPER, MMUEXT_SET_LDT
cdef unsigned int MMUEXT_NEW_BASEPTR, MMUEXT_NEW_USER_BASEPTR
cdef unsigned int MMUEXT_PIN_L1_TABLE, MMUEXT_PIN_L4_TABLE, MMUEXT_UNPIN_TABLE
cdef unsigned int MMUEXT_TLB_FLUSH_ALL, MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_TLB_FLUSH_MULTI

@cython.locals(
    before=cython.ulonglong, finished=cython.ulonglong, address=cython.ulonglong,
    place=cython.longlong, command=cython.uint, words="unsigned long long[::1]",
)
cdef object _execute(
    Vcpu vcpu, unsigned long long operations, unsigned long long count, unsigned long long done,
    unsigned long long domain,
)
cdef int _operate(
    Vcpu vcpu, unsigned int command, unsigned long long first, unsigned long long second
) except -1
