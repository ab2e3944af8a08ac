/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* A table of one level put where another belongs, at the pin of the whole and by an update. A failed
 * pin leaves nothing behind: the lower tables can be written again. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *l1 = alloc_table(), *l2 = alloc_table();
    unsigned long *l3 = alloc_page(), *l4 = alloc_page();

    EXPECT(0, mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(l1), 0));
    EXPECT(0, mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(l2), 0));
    REFUSED(write_entry(entry_in(l2, 0), frame_of(l2, PTE_KERNEL)));
    EXPECT(0, write_entry(entry_in(l2, 0), frame_of(l1, PTE_KERNEL)));
    EXPECT(0, write_entry(entry_in(l2, 511), frame_of(l1, PTE_KERNEL)));
    l3[0] = frame_of(l2, PTE_KERNEL);
    l3[511] = frame_of(l1, PTE_KERNEL); /* the wrong one is the last */
    make_read_only(l3);
    REFUSED(mmuext(MMUEXT_PIN_L3_TABLE, virt_to_mfn(l3), 0));
    make_writable(l3);
    l3[511] = 0;
    make_read_only(l3);
    l4[0] = frame_of(l3, PTE_KERNEL);
    l4[1] = frame_of(l2, PTE_KERNEL);
    make_read_only(l4);
    REFUSED(mmuext(MMUEXT_PIN_L4_TABLE, virt_to_mfn(l4), 0));
    make_writable(l3);
    EXPECT(NO_TRAP, try_write(l3, 0));
    REFUSED(map(l2, frame_of(l2, PTE_KERNEL)));
    EXPECT(0, mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(l2), 0));
    make_writable(l2);
    EXPECT(0, mmuext(MMUEXT_UNPIN_TABLE, virt_to_mfn(l1), 0));
    make_writable(l1);
    EXPECT(NO_TRAP, try_write(l1, 0));
}
