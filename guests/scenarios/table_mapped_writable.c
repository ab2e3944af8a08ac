/* SPDX-License-Identifier: GPL-2.0-or-later */
// expect: ok
// variants: LEVEL1, LEVEL2, LEVEL3, LEVEL4
/* A table in use must not be mapped writable, by whichever way: update_va_mapping, mmu_update, with
 * other flags, and in another table. Read-only is good. */

#include "scenario.h"

#if defined(LEVEL1)
#define LEVEL 1
#elif defined(LEVEL2)
#define LEVEL 2
#elif defined(LEVEL3)
#define LEVEL 3
#else
#define LEVEL 4
#endif

void kernel_main(void)
{
    unsigned long *table = find_table(VIRT_BASE, LEVEL), *other = alloc_page();
    unsigned long mfn = virt_to_mfn(table), first = table[511];
    uint8_t *page = alloc_page();
    unsigned long own = frame_of(page, PTE_KERNEL);

    REFUSED(map(table, mfn << PAGE_SHIFT | PTE_KERNEL));
    REFUSED(map(page, mfn << PAGE_SHIFT | PTE_KERNEL));
    REFUSED(map(page, mfn << PAGE_SHIFT | PTE_PRESENT | PTE_RW));
    REFUSED(map(page, mfn << PAGE_SHIFT | PTE_KERNEL | PTE_USER | PTE_NX));
    REFUSED(write_entry(find_entry((unsigned long)page, 1), mfn << PAGE_SHIFT | PTE_KERNEL));
    REFUSED(write_entry(find_entry((unsigned long)page, 1) | MMU_PT_UPDATE_PRESERVE_AD,
                        mfn << PAGE_SHIFT | PTE_KERNEL));
    other[5] = mfn << PAGE_SHIFT | PTE_KERNEL;
    make_read_only(other);
    REFUSED(mmuext(MMUEXT_PIN_L1_TABLE, virt_to_mfn(other), 0));
    EXPECT(0, map(page, mfn << PAGE_SHIFT | PTE_READ_ONLY));
    REFUSED(write_entry(find_entry((unsigned long)page, 1), mfn << PAGE_SHIFT | PTE_KERNEL));
    EXPECT(first, table[511]);
    EXPECT(TRAP_PAGE_FAULT, try_write((uint8_t *)page + 4, ~0ul));
    EXPECT(0, map(page, own));
}
