/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* A PV guest gets no superpages: 2 MiB and 1 GiB entries are refused, also at a pin, and MARK_SUPER
 * is for the hardware domain. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long mfn = (pfn_to_mfn(0) + 511) & ~511ul;
    unsigned long *l2 = alloc_page(), *l3 = alloc_page();
    unsigned long value = mfn << PAGE_SHIFT | PTE_KERNEL | PTE_PSE;

    REFUSED(write_entry(find_entry(UNMAPPED, 2), value));
    REFUSED(write_entry(find_entry(UNMAPPED, 3), value));
    l2[3] = l3[3] = value;
    make_read_only(l2);
    make_read_only(l3);
    REFUSED(mmuext(MMUEXT_PIN_L2_TABLE, virt_to_mfn(l2), 0));
    REFUSED(mmuext(MMUEXT_PIN_L3_TABLE, virt_to_mfn(l3), 0));
    REFUSED(mmuext(MMUEXT_MARK_SUPER, mfn, 0));
    REFUSED(mmuext(MMUEXT_UNMARK_SUPER, mfn, 0));
}
