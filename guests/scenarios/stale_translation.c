/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// variants: PIN, UPDATE, GDT
/* A page is written (its translation is in the TLB), then mapped read-only without a flush, then made
 * a table or a descriptor page. A write through the old translation must not get there: Xen flushes
 * when a frame takes up such a type. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *page = alloc_page();
    unsigned long mfn = virt_to_mfn(page), entry = find_entry((unsigned long)page, 1);

    EXPECT(NO_TRAP, try_write(&page[7], 0));
    EXPECT(0, write_entry(entry, mfn << PAGE_SHIFT | PTE_READ_ONLY)); /* no flush */
#if defined(PIN)
    EXPECT(0, mmuext(MMUEXT_PIN_L1_TABLE, mfn, 0));
#elif defined(UPDATE)
    EXPECT(0, write_entry(find_entry(UNMAPPED, 2), mfn << PAGE_SHIFT | PTE_KERNEL));
#else
    EXPECT(0, hypercall(set_gdt, &mfn, 512));
#endif
    /* An entry that maps a frame of Xen's. */
    EXPECT(TRAP_PAGE_FAULT, try_write(&page[7], XEN_FRAME | PTE_KERNEL));
    EXPECT(0, page[7]);
}
