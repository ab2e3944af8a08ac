/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: crash "iret"
/* The iret hypercall with a stack pointer at nothing: there is no frame, and Xen crashes the domain. */

#include "scenario.h"

void kernel_main(void)
{
    printk("now\n");
    asm volatile("mov %0, %%rsp; mov %1, %%eax; syscall"
                 :
                 : "r"(UNMAPPED), "i"(__HYPERVISOR_iret));
    fail("still here");
}
