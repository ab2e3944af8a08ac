/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: crash "user page table"
/* iret to user mode without a user page table: Xen crashes the domain. */

#include "scenario.h"

void kernel_main(void)
{
    struct trap_frame frame = {.rip = 0x1000, .cs = FLAT_USER_CS, .rflags = 0x202, .ss = FLAT_USER_SS};

    printk("now\n");
    resume(&frame);
}
