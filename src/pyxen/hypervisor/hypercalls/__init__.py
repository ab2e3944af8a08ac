# SPDX-License-Identifier: GPL-2.0-or-later
"""Hypercalls: one module each, and the dispatcher through which all of them pass.

A handler is a function of the vCPU and the hypercall's arguments (unsigned 64-bit integers), as
many as it takes. It returns what the guest gets in rax, a number >= 0, or None if it has changed
the registers itself; it refuses by raising XenError. ``@hypercall(number)`` puts it into the
table::

    @hypercall(HYPERVISOR_stack_switch)
    def stack_switch(vcpu: Vcpu, ss: int, esp: int) -> int: ...
"""
