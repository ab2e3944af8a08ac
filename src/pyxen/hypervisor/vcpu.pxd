# SPDX-License-Identifier: GPL-2.0-or-later
# Types for the compiled form of vcpu.py.

from pyxen.engine.cpu cimport Cpu

cdef class Vcpu:
    cdef public object domain
    cdef public unsigned long long[::1] words
    cdef public unsigned char[::1] code_frames
    cdef public int index
    cdef public Cpu cpu
    cdef public unsigned long long info
    cdef public bint info_registered
    cdef public bint initialised

    cdef public unsigned long long[::1] trap_address
    cdef public unsigned char[::1] trap_flags
    cdef public unsigned short[::1] trap_cs
    cdef public unsigned long long event_callback
    cdef public unsigned long long failsafe_callback
    cdef public bint failsafe_masks_events
    cdef public unsigned long long syscall_callback
    cdef public bint syscall_masks_events
    cdef public unsigned long long syscall32_callback
    cdef public unsigned long long sysenter_callback
    cdef public bint sysenter_masks_events
    cdef public bint nmi_pending
    cdef public bint nmi_masked
    cdef public unsigned long long kernel_sp
    cdef public unsigned long long kernel_ss

    cdef public unsigned long long kernel_table_mfn
    cdef public unsigned long long user_table_mfn

    cdef public int iopl
    cdef public bint port_breakpoints
    cdef public unsigned long long io_bitmap
    cdef public unsigned int io_bitmap_ports
    cdef public unsigned long long cr4
    cdef public object msrs
    cdef public list debug_registers
    cdef public unsigned long long ldt_base
    cdef public unsigned long long ldt_entries
    cdef public unsigned long long descriptor_pages

    cdef public unsigned int pause_flags
    cdef public int polling
    cdef public object hard_affinity
    cdef public object soft_affinity

    cdef public int runstate
    cdef public object runstate_since
    cdef public list runstate_times
    cdef public unsigned long long runstate_area
    cdef public unsigned long long time_area
    cdef public unsigned int areas_late
