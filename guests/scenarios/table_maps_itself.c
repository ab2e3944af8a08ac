/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* A table that would map itself writable when it becomes one: refused at the pin. And a page that is
 * mapped writable from elsewhere cannot become a table of any level. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *table = alloc_page(), *second = alloc_page();

    table[0] = frame_of(table, PTE_KERNEL);
    make_read_only(table);
    REFUSED(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(table), 0));
    make_writable(table);
    table[0] = frame_of(table, PTE_READ_ONLY);
    REFUSED(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(table), 0));
    make_read_only(table);
    EXPECT(0, mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(table), 0));
    REFUSED(write_entry(entry_in(table, 1), frame_of(table, PTE_KERNEL)));
    REFUSED(write_entry(entry_in(table, 0), frame_of(table, PTE_KERNEL)));
    for (unsigned int level = 0; level < 4; level++)
        REFUSED(mmuext(MMUEXT_PIN_L1_TABLE + level, virt_to_mfn(second), 0));
    EXPECT(0, mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(table), 0));
    make_writable(table);
    EXPECT(NO_TRAP, try_write(table, 0));
}
