# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of mmu_update.py.

cimport cython

from pyxen.hypervisor.addresses cimport is_guest_address
from pyxen.hypervisor.pagetables cimport PageTables
from pyxen.hypervisor.vcpu cimport Vcpu

cdef unsigned long long DOMID_IO, DOMID_SELF, DOMID_XEN, PREEMPTED
cdef unsigned long long _DOM0, _MASK, _REQUEST

@cython.locals(before=cython.ulonglong, rest=cython.ulonglong, tables=PageTables)
cdef object _update(
    Vcpu vcpu, unsigned long long requests, unsigned long long count, unsigned long long done,
    unsigned long long domains,
)
cpdef unsigned long long done_before(
    Vcpu vcpu, unsigned long long address, unsigned long long count
) except? 1
cpdef int store_done(
    Vcpu vcpu, unsigned long long address, unsigned long long finished
) except -1
cpdef int check_page_owner(Vcpu vcpu, unsigned long long domid) except -1
