/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* What registers handlers and tables: trap table, callbacks, NMI, GDT, physdev. A trap works
 * afterwards as before. */

#include "scenario.h"

void kernel_main(void)
{
    for (unsigned int number = 0; number < BAD_POINTERS; number++) {
        void *bad = (void *)bad_pointer(number);

        EXPECT(-XEN_EFAULT, hypercall(callback_op, CALLBACKOP_register, bad));
        EXPECT(-XEN_EFAULT, hypercall(callback_op, CALLBACKOP_unregister, bad));
        EXPECT(-XEN_EFAULT, hypercall(set_gdt, bad, 512));
        EXPECT(-XEN_EFAULT, hypercall(physdev_op, PHYSDEVOP_set_iopl, bad));
        EXPECT(-XEN_EFAULT, hypercall(physdev_op, PHYSDEVOP_set_iobitmap, bad));
        if (bad)
            EXPECT(-XEN_EFAULT, hypercall(set_trap_table, bad));
    }
    EXPECT(TRAP_PAGE_FAULT, try_read((void *)UNMAPPED));
}
