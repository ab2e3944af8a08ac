/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Pins: twice, of the wrong level, of what is none, undone twice; each level of an empty table. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *table = alloc_table();
    unsigned long mfn = virt_to_mfn(table);

    REFUSED(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0));
    for (unsigned int level = 0; level < 4; level++) {
        EXPECT(0, mmuext(MMUEXT_PIN_L1_TABLE + level, mfn, 0));
        REFUSED(mmuext(MMUEXT_PIN_L1_TABLE + level, mfn, 0));
        for (unsigned int other = 0; other < 4; other++)
            if (other != level)
                REFUSED(mmuext(MMUEXT_PIN_L1_TABLE + other, mfn, 0));
        REFUSED(map(table, mfn << PAGE_SHIFT | PTE_KERNEL));
        EXPECT(0, mmuext(MMUEXT_UNPIN_TABLE, mfn, 0));
        REFUSED(mmuext(MMUEXT_UNPIN_TABLE, mfn, 0));
        make_writable(table);
        memset(table, 0, PAGE_SIZE);
        make_read_only(table);
    }
    for (unsigned long other = 0; other < 0x10000; other += 777) {
        REFUSED(mmuext(MMUEXT_PIN_L1_TABLE, other, 0));
        REFUSED(mmuext(MMUEXT_UNPIN_TABLE, other, 0));
    }
    REFUSED(mmuext(MMUEXT_PIN_L4_TABLE, ~0ul, 0));
    REFUSED(mmuext(MMUEXT_UNPIN_TABLE, ~0ul, 0));
    REFUSED(mmuext(MMUEXT_PIN_L4_TABLE, 1ul << 40, 0));
}
