# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of traps.py.

cimport cython

from pyxen.engine.cpu cimport Cpu
from pyxen.engine.registers cimport Registers
from pyxen.hypervisor.dispatcher cimport Dispatcher
from pyxen.hypervisor.guest_access cimport find_words, translate
from pyxen.hypervisor.pagetables cimport PageTables
from pyxen.hypervisor.segments cimport find_descriptor
from pyxen.hypervisor.vcpu cimport Vcpu

cdef unsigned long long ADDRESS_MASK, PRESENT, RW, PAGE_SIZE
cdef unsigned long long HYPERVISOR_VIRT_END
cdef long long NOT_MAPPED
cdef unsigned long long FLAT_KERNEL_CS, FLAT_KERNEL_SS, TI_IF_MASK, VGCF_in_syscall
cdef unsigned long long FLAT_RING3_CS32, FLAT_RING3_CS64, FLAT_RING3_SS64, LOCAL
cdef unsigned long long MASK, PENDING, CR2
cdef unsigned long long _STACK_ALIGNMENT, _SELECTOR, _RPL, _OFFSET, _LOW_END, _HIGH_START, _FRAME_SIZE
cdef unsigned long long _FLAGS, _ALWAYS, _IRET_WORDS, _CLEARED_ON_ENTRY
cdef unsigned long long _CODE_BITS, _CODE64, _FLAT_BITS, _FLAT_CODE32, _DATA_BITS, _FLAT_DATA
cdef unsigned long long _UINT32
cdef unsigned int CS, R11, RAX, RCX, RIP, RSP, SS, REG_CR2

cdef class Traps:
    cdef object _domain
    cdef object _engine
    cdef object _memory
    cdef unsigned long long[::1] _words
    cdef unsigned char[::1] _bytes
    cdef unsigned char[::1] _code_frames
    cdef unsigned long long _frame_end
    cdef list _vcpus
    cdef list _instruments
    cdef object _counters
    cdef Dispatcher _dispatcher
    cdef list _privileges
    cdef int _resident

    @cython.locals(vcpu=Vcpu)
    cpdef void hypercall(self, Cpu cpu) except *
    @cython.locals(
        cpu=Cpu, registers=Registers, words="unsigned long long[::1]", flags=cython.ulonglong,
        callback=cython.ulonglong, cs=cython.ulonglong,
    )
    cpdef void _enter_system_call(self, Vcpu vcpu) except *
    cpdef void inject(self, Vcpu vcpu, int vector, long long error_code) except *
    @cython.locals(address=cython.ulonglong)
    cpdef void _enter(self, Vcpu vcpu, int vector, long long error_code) except *
    @cython.locals(
        cpu=Cpu, registers=Registers, words="unsigned long long[::1]",
        target="unsigned long long[::1]", flags=cython.ulonglong, cs=cython.ulonglong,
        stack=cython.ulonglong, size=cython.ulonglong, mask=cython.ulonglong,
        frame=cython.ulonglong, has_code=cython.bint,
    )
    cpdef void bounce(
        self, Vcpu vcpu, unsigned long long handler, long long error_code, bint mask_events
    ) except *
    cpdef unsigned long long _shown_iopl(self, Vcpu vcpu) except? 1
    @cython.locals(machine=cython.longlong)
    cpdef unsigned long long _find_frame(
        self, Vcpu vcpu, unsigned long long stack, unsigned long long size
    ) except? 1
    @cython.locals(
        cpu=Cpu, words="unsigned long long[::1]", source="unsigned long long[::1]",
        frame=cython.longlong, rax=cython.ulonglong, r11=cython.ulonglong, rcx=cython.ulonglong,
        in_syscall=cython.bint, rip=cython.ulonglong, cs=cython.ulonglong, rflags=cython.ulonglong,
        rsp=cython.ulonglong, ss=cython.ulonglong, user=cython.bint, code=cython.ulonglong,
        stack=cython.ulonglong, canonical=cython.bint,
    )
    cpdef void return_from_trap(self, Vcpu vcpu) except *
    @cython.locals(info=cython.ulonglong)
    cpdef void return_to_guest(self, Vcpu vcpu) except *
