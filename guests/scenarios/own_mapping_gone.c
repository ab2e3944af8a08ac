/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: crash "stack"
/* The kernel takes away the L4 entry by which it is mapped itself. The next instruction faults, and
 * there is neither code nor stack for the fault: Xen crashes the domain. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long entry = find_entry(VIRT_BASE, 4);

    printk("now\n");
    write_entry(entry, 0);
    mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0);
    fail("still here");
}
