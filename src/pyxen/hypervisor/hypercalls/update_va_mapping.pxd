# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of update_va_mapping.py.

cimport cython

from pyxen.hypervisor.addresses cimport is_guest_address
from pyxen.hypervisor.hypercalls.mmu_update cimport check_page_owner
from pyxen.hypervisor.pagetables cimport PageTables
from pyxen.hypervisor.vcpu cimport Vcpu

cdef unsigned long long UVMF_ALL, UVMF_FLUSHTYPE_MASK, UVMF_INVLPG, UVMF_LOCAL, UVMF_TLB_FLUSH

@cython.locals(kind=cython.ulonglong, mask=cython.ulonglong, tables=PageTables)
cdef int _update(
    Vcpu vcpu, unsigned long long address, unsigned long long value, unsigned long long flags
) except -1
