# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of multicall.py.

cimport cython

from pyxen.hypervisor.addresses cimport is_guest_address
from pyxen.hypervisor.dispatcher cimport Dispatcher
from pyxen.hypervisor.guest_access cimport find_words, write_word
from pyxen.hypervisor.vcpu cimport Vcpu

cdef int EINVAL
cdef long long NOT_MAPPED
cdef unsigned long long HYPERVISOR_multicall
cdef unsigned long long _ADDRESS, _ARGUMENTS, _FIRST_ARGUMENT, _RESULT, _SIZE

@cython.locals(
    number=cython.ulonglong, entry=cython.ulonglong, operation=cython.ulonglong,
    place=cython.longlong, dispatcher=Dispatcher, words="unsigned long long[::1]",
)
cdef object _execute(Vcpu vcpu, unsigned long long calls, unsigned long long count)
