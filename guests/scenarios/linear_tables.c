/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
/* Linear page tables, in which an entry of a table points at a table of the same level: Xen permits
 * them read-only, at the top level to the very same or a validated table. Writable they would be a
 * way to write tables. */

#include "scenario.h"

void kernel_main(void)
{
    unsigned long *l4 = (unsigned long *)start_info->pt_base;
    unsigned long mfn = virt_to_mfn(l4), entry = entry_in(l4, 300);
    unsigned long base = 0xffff000000000000ul | 300ul << 39;
    unsigned long *mapped = (void *)(base | 300ul << 30 | 300ul << 21 | 300ul << 12);

    REFUSED(write_entry(entry, mfn << PAGE_SHIFT | PTE_KERNEL));
    EXPECT(0, write_entry(entry, mfn << PAGE_SHIFT | PTE_READ_ONLY));
    EXPECT(NO_TRAP, try_read(mapped));
    EXPECT(l4[511], mapped[511]);
    EXPECT(TRAP_PAGE_FAULT, try_write(&mapped[0], 0));
    REFUSED(write_entry(entry, mfn << PAGE_SHIFT | PTE_KERNEL));
    EXPECT(0, write_entry(entry, 0));
    EXPECT(0, mmuext(MMUEXT_TLB_FLUSH_LOCAL, 0, 0));
    EXPECT(TRAP_PAGE_FAULT, try_read(mapped));
}
