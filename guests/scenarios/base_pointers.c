/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* NEW_BASEPTR and NEW_USER_BASEPTR with what is no L4 table, and mov cr3 with the same. The vCPU goes
 * on with the tables that it has. */

#include "scenario.h"

static void load_cr3(unsigned long value)
{
    asm volatile("mov %0, %%cr3" : : "r"(value) : "memory");
}

void kernel_main(void)
{
    unsigned long l4 = virt_to_mfn((void *)start_info->pt_base);
    unsigned long bad[] = {
        virt_to_mfn(find_table(VIRT_BASE, 1)), virt_to_mfn(find_table(VIRT_BASE, 2)),
        virt_to_mfn(find_table(VIRT_BASE, 3)), virt_to_mfn(alloc_page()), 1, 0xffff, 0x80000,
        start_info->shared_info >> PAGE_SHIFT, ~0ul, 1ul << 40,
    };

    for (unsigned int i = 0; i < COUNT(bad); i++) {
        REFUSED(mmuext(MMUEXT_NEW_BASEPTR, bad[i], 0));
        REFUSED(mmuext(MMUEXT_NEW_USER_BASEPTR, bad[i], 0));
        EXPECT(TRAP_GENERAL_PROTECTION, TRY(load_cr3(bad[i] << PAGE_SHIFT)));
    }
    EXPECT(0, mmuext(MMUEXT_NEW_BASEPTR, l4, 0));
    EXPECT(NO_TRAP, TRY(load_cr3(l4 << PAGE_SHIFT)));
    EXPECT(0, mmuext(MMUEXT_NEW_USER_BASEPTR, l4, 0));
    EXPECT(0, mmuext(MMUEXT_NEW_USER_BASEPTR, 0, 0));
}
