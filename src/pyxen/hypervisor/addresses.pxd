# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of addresses.py.

cdef unsigned long long HYPERVISOR_VIRT_END, _LOW_END

cpdef bint is_guest_address(unsigned long long address) except -1
