/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* The L4 table that the vCPU runs on loses its pin: it is still in use, and must neither become
 * writable nor be freed under the vCPU. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *l4 = (unsigned long *)start_info->pt_base;
    unsigned long mfn = virt_to_mfn(l4);

    EXPECT(0, mmuext(MMUEXT_UNPIN_TABLE, mfn, 0));
    REFUSED(map(l4, mfn << PAGE_SHIFT | PTE_KERNEL));
    REFUSED(mmuext(MMUEXT_PIN_L3_TABLE, mfn, 0));
    EXPECT(TRAP_PAGE_FAULT, try_write(l4, 0));
    EXPECT(0, mmuext(MMUEXT_NEW_BASEPTR, mfn, 0));
    EXPECT(0, mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0));
    EXPECT(0, mmuext(MMUEXT_PIN_L4_TABLE, mfn, 0));
    EXPECT(NO_TRAP, try_read(l4));
}
